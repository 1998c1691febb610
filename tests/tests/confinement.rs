//! How the receiver and the validator are confined: what the log says of it, what they still do, and what becomes of it
//! where the kernel lacks something.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{Daemon, binary, children, command, open_files};
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Target, World, sftp};

const TRACED: &[Need] = &[Need::Root, Need::Program("strace")];

/// The daemon of `target` under a tracer that writes to `log`.
fn traced(target: &Target, options: &[&str], log: &Path) -> Daemon {
    target.port_falls_free();
    let mut strace = command("/usr/bin/strace");
    // The tracer is the grandchild: what is started here is the daemon.
    strace.args(["-D", "-f", "-q", "-o"]).arg(log).args(options);
    strace.arg(binary("certdeploy-client")).arg("--config").arg(&target.config).arg("--daemon");
    Daemon::start("certdeploy-client that is traced", strace, &target.log)
}

#[test]
fn what_the_kernel_lacks_is_one_warning_and_stops_nothing() {
    if !can_run("sandbox::what_the_kernel_lacks", TRACED) {
        return;
    }
    for (injected, warning) in [
        (
            "landlock_create_ruleset:error=ENOSYS",
            "without Landlock: this kernel, or a filter around this service, does not have it; Linux 5.19 does",
        ),
        (
            "landlock_create_ruleset:error=EOPNOTSUPP",
            "without Landlock: it is not switched on: add `landlock` to the kernel's `lsm=`",
        ),
        ("landlock_create_ruleset:retval=1:when=1", "without Landlock: its ABI 1 knows no renames between directories"),
        ("landlock_create_ruleset:error=EPERM:when=2", "without Landlock: "),
        ("seccomp:error=EINVAL", "without seccomp: "),
    ] {
        let world = World::new();
        let target = world.target("web1", &["a.example"]);
        world.write_server(&[&target]);
        let lineage = world.lineage("a.example", &["a.example"]);
        let inject = format!("inject={injected}");
        // It answers for the kernel.
        let options = ["-e", "trace=landlock_create_ruleset,seccomp", "-e", &inject];
        let mut client = traced(&target, &options, Path::new("/dev/null"));
        client.says("The receiver is confined by: unprivileged user (");
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        target.updates(&lineage);
        let said = client.said();
        let missing = |process: &str| {
            let start = format!("WARNING:certdeploy-client: The {process} runs without ");
            said.lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(missing("receiver").len(), 1, "{injected}: {said}");
        assert!(missing("receiver")[0].contains(warning), "{injected}: {said}");
        // `when` counts for each process.
        let validators = usize::from(!injected.contains("retval=1"));
        assert_eq!(missing("validator").len(), validators, "{injected}: {said}");
        let _ = client.stop();
    }
}

/// The calls of a trace, each with its process. One during which another process had its turn is two lines there.
fn calls(trace: &str) -> Vec<(&str, String)> {
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((id, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(first) = text.strip_suffix("<unfinished ...>") {
            begun.insert(id, first.trim_end());
            continue;
        }
        let second = text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>"));
        let call = match second.and_then(|(_, rest)| Some((begun.remove(id)?, rest))) {
            Some((first, rest)) => format!("{first}{rest}"),
            None => text.to_owned(),
        };
        calls.push((id, call));
    }
    calls
}

#[test]
fn a_call_in_two_lines_of_a_trace_is_one() {
    let trace = "7  clone3({flags=0}, <unfinished ...>\n8  <... read resumed>\"x\", 1) = 1\n7  <... clone3 resumed>88) = -1 ENOSYS\n";
    let whole = ["clone3({flags=0},88) = -1 ENOSYS".to_owned(), "<... read resumed>\"x\", 1) = 1".to_owned()];
    assert_eq!(calls(trace), [("8", whole[1].clone()), ("7", whole[0].clone())]);
}

/// The calls of a trace in which a call of a process that has all its filters was refused.
fn refusals(trace: &str) -> Vec<String> {
    let mut filters: BTreeMap<&str, u32> = BTreeMap::new();
    let mut found = Vec::new();
    let calls = calls(trace);
    for (id, call) in &calls {
        if call.starts_with("seccomp(SECCOMP_SET_MODE_FILTER") && call.ends_with("= 0") {
            *filters.entry(*id).or_default() += 1;
        }
        if filters.get(id).is_none_or(|filters| *filters < 3) {
            continue;
        }
        // Its threads are as it is.
        if let (true, Some((_, thread))) = (call.contains("clone"), call.rsplit_once(" = ")) {
            filters.insert(thread, 3);
        }
        let refused = ["EPERM", "ENOSYS", "EACCES"].iter().any(|error| call.contains(&format!("= -1 {error}")));
        if refused || call.contains("SIGSYS") {
            found.push(call.to_owned());
        }
    }
    assert!(filters.len() > 2, "receiver, validators and their threads were seen: {filters:?}");
    found
}

/// A library that is refused what it needs may go another way unseen. Here it is seen.
#[test]
fn nothing_that_they_do_in_their_lives_is_refused() {
    if !can_run("sandbox::nothing_that_they_do", TRACED) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["a.example", "b.example"]);
    world.write_server(&[&target]);
    let lineages = ["a.example", "b.example"].map(|name| world.lineage(name, &[name]));
    let trace = world.path("trace");
    let mut client = traced(&target, &[], &trace);
    client.says("The receiver is confined by");
    for lineage in &lineages {
        let _ = world.hook(lineage).ended(0);
    }
    let _ = world.server(&["--push"]).ended(0);
    for lineage in &lineages {
        target.updates(lineage);
    }
    // A stock client, with all that such a one asks for.
    let live = lineages[0].live.display();
    let commands = format!(
        "-ls -l\n-cd /\n-mkdir a.example\n-put {live}/privkey.pem a.example/\n-put {live}/fullchain.pem a.example/\n\
         -put {live}/cert.pem a.example/\n-ls -l a.example\n-chmod 600 a.example/cert.pem\n-df\n\
         -get a.example/cert.pem /dev/null\n-rename a.example/cert.pem a.example/chain.pem\n-rm a.example/cert.pem\n\
         -ln a.example/fullchain.pem a.example/link\n-rmdir a.example\n-ls .held.json\n"
    );
    let _ = sftp::batch(&world, target.port, &target.pinned, &commands);
    drop(std::net::TcpStream::connect(("127.0.0.1", target.port)).expect("connect"));
    assert!(client.stop().success());
    let refused = refusals(&std::fs::read_to_string(&trace).expect("the trace"));
    // The library asks for it once, and takes clone(2) then.
    let other: Vec<&String> = refused.iter().filter(|call| !call.starts_with("clone3(")).collect();
    assert!(other.is_empty() && !refused.is_empty(), "{refused:#?}");
}

#[test]
fn the_log_says_what_holds() {
    if !can_run("sandbox::the_log", &[Need::Root]) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["a.example"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("a.example", &["a.example"]);
    let mut client = target.start();
    client.says("The receiver is confined by");
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    target.updates(&lineage);
    for process in ["receiver", "validator"] {
        let start = format!("INFO:certdeploy-client: The {process} is confined by: unprivileged user (");
        let said = client.said();
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with(&start)).collect();
        assert_eq!(lines.len(), 1, "{said}");
        for part in ["), empty capability sets, no_new_privs, Landlock (ABI ", "), seccomp (3 filters)"] {
            assert!(lines[0].contains(part), "{}", lines[0]);
        }
    }
    assert!(!client.said().contains(" runs without "), "{}", client.said());
}

#[test]
fn the_confined_receiver_still_speaks_to_the_journal() {
    if !can_run("sandbox::the_journal", &[Need::Root, Need::Program("unshare")]) {
        return;
    }
    let world = World::new();
    let mut target = world.target("web1", &["a.example"]);
    target.extra = "log_format: journald\n".to_owned();
    target.write_config();
    world.write_server(&[&target]);
    let lineage = world.lineage("a.example", &["a.example"]);
    let folder = world.path("journal");
    std::fs::create_dir(&folder).expect("a folder");
    let journal = UnixDatagram::bind(folder.join("socket")).expect("a socket");
    journal.set_read_timeout(Some(PATIENCE)).expect("a limit");
    std::fs::set_permissions(folder.join("socket"), std::fs::Permissions::from_mode(0o666)).expect("chmod");
    // Only this daemon sees it there.
    let mut shell = command("/usr/bin/unshare");
    shell.args(["--mount", "/bin/sh", "-c"]);
    shell.arg(
        "mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir /run/systemd/journal && \
               mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"",
    );
    shell.arg("sh").arg(&folder).arg(binary("certdeploy-client")).arg("--config").arg(&target.config).arg("--daemon");
    let _client = Daemon::start("certdeploy-client with a journal", shell, &target.log);
    let wait_for = |needle: &str| {
        let mut entry = vec![0; 64 * 1024];
        loop {
            let length = journal.recv(&mut entry).unwrap_or_else(|error| panic!("{needle:?} in the journal: {error}"));
            if String::from_utf8_lossy(&entry[..length]).contains(needle) {
                break;
            }
        }
    };
    wait_for("MESSAGE=The receiver is confined by: ");
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    wait_for("MESSAGE=Got connection from ");
}

#[test]
fn what_the_parent_left_open_reaches_none_of_our_processes() {
    let world = World::new();
    let mut target = world.target("web1", &["a.example"]);
    let (script, seen) = (world.path("look"), world.path("seen"));
    let mut text = "#!/bin/sh\n".to_owned();
    let _ = writeln!(text, "ls -l /proc/$$/fd >{}.part; mv {0}.part {0}", seen.display());
    std::fs::write(&script, text).expect("a script");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    target.updates = false;
    target.extra = format!("update_services:\n  - type: script\n    name: {}\n", script.display());
    target.write_config();
    world.write_server(&[&target]);
    let lineage = world.lineage("a.example", &["a.example"]);
    let mut shell = command("/bin/sh");
    shell.arg("-c").arg("exec 7</etc/passwd 9>&1; exec \"$@\"").arg("sh").arg(binary("certdeploy-client"));
    shell.arg("--config").arg(&target.config).arg("--daemon");
    let mut client = Daemon::start("certdeploy-client with open files", shell, &target.log);
    client.says("Listening for incoming connections");
    let is_passwd = |path: &PathBuf| path == Path::new("/etc/passwd");
    assert!(open_files(client.id()).values().any(is_passwd), "it has the file: a config may come by such a descriptor");
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    until("the script has looked", PATIENCE, || seen.exists().then_some(()));
    let seen = std::fs::read_to_string(&seen).expect("what it saw");
    assert!(!seen.contains("passwd") && !seen.contains(" 9 -> "), "{seen}");
    for id in children(client.id()) {
        assert!(!open_files(id).values().any(is_passwd), "{:?}", open_files(id));
    }
}
