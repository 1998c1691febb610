//! Updates of type `script` and `rc` when what they run misbehaves: each ends in time, is told apart by its words, and
//! the next update runs all the same.

use std::path::Path;
use std::time::Duration;

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Daemon, Ran, command, executable, run};
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Lineage, World};

fn scene() -> (World, Lineage) {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    (world, lineage)
}

/// One pass with this entry and one after it, which must have run.
fn with_one_after(pass: &Pass, entry: &str) -> Ran {
    let touched = pass.path("touched");
    let _ = std::fs::remove_file(&touched);
    let after = executable(&pass.path("after"), &format!("#!/bin/sh\ntouch {}\n", touched.display()));
    let ran =
        run(pass.command(&format!("update_services:\n  - {entry}\n  - {{type: script, name: {}}}\n", after.display())));
    assert!(touched.exists(), "the next update did not run: {}", ran.said());
    ran
}

#[test]
fn a_script_that_misbehaves_ends_in_time_and_the_next_update_runs() {
    let (world, lineage) = scene();
    for (name, text, code, said) in [
        ("hangs", "#!/bin/sh\nsleep 1000 & sleep 1000\n", 3, "it was killed after 1 s"),
        ("deaf", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n", 3, "it was killed after 1 s"),
        ("daemon", "#!/bin/sh\nsetsid sleep 30 &\nexit 0\n", 0, "returned=0"),
        ("much", "#!/bin/sh\nhead -c 1073741824 /dev/zero\necho end\n", 0, "returned=0"),
        (
            "much-and-bad",
            "#!/bin/sh\nhead -c 1073741824 /dev/zero >&2\necho reason >&2\nexit 4\n",
            3,
            "it returned 4; it last said: ",
        ),
        ("no-interpreter", "#!/no/such/interpreter\n", 3, "its interpreter `/no/such/interpreter` is missing"),
        ("no-program", "plain text\n", 3, "it is no program: a script begins with `#!`"),
        ("dies", "#!/bin/sh\nkill -SEGV $$\n", 3, "it was killed by signal 11"),
    ] {
        let pass = Pass::over(&world, &lineage, name);
        let script = executable(&pass.path("script"), text);
        // What prints a GiB needs some seconds for it on a slow machine.
        let timeout = if name.starts_with("much") { 60 } else { 1 };
        let ran = with_one_after(&pass, &format!("{{type: script, name: {}, timeout: {timeout}}}", script.display()));
        assert_eq!(ran.code, Some(code), "{name}: {}", ran.said());
        assert!(ran.stdout.contains(said), "{name} lacks {said:?}: {}", ran.said());
        assert!(ran.stdout.len() < 1024 * 1024, "{name}: {} bytes of log", ran.stdout.len());
        assert!(ran.elapsed < Duration::from_secs(60), "{name} took {:?}", ran.elapsed);
        assert_eq!(
            code == 3,
            ran.stdout.contains(&format!("ScriptError: Script {} failed", script.display())),
            "{name}"
        );
    }
}

#[test]
fn a_script_that_is_still_being_written_is_waited_for_but_not_for_ever() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "busy");
    let script = executable(&pass.path("script"), "#!/bin/sh\n");
    let writer = || std::fs::File::options().append(true).open(&script).expect("open for writing");
    let lines = format!("update_services:\n  - {{type: script, name: {}}}\n", script.display());
    let open = writer();
    let ran = run(pass.command(&lines)).ended(3);
    assert!(ran.stdout.contains("somebody has it open for writing"), "{}", ran.said());
    drop(open);

    let open = writer();
    let log = pass.path("client.log");
    let mut client = Daemon::start("certdeploy-client", pass.command(&lines), &log);
    client.says("Updating services");
    drop(open);
    assert_eq!(client.ends().code(), Some(0), "{}", client.said());
}

#[test]
fn an_unknown_key_of_an_update_is_a_warning_with_the_right_one() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "unknown");
    let script = executable(&pass.path("script"), "#!/bin/sh\n");
    let ran = with_one_after(&pass, &format!("{{type: script, name: {}, tmeout: 5, quite_else: x}}", script.display()));
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    for said in ["unknown key \"tmeout\" (did you mean \"timeout\"?)", "unknown key \"quite_else\""] {
        let line = ran.stdout.lines().find(|line| line.contains(said));
        assert!(line.is_some_and(|line| line.starts_with("WARNING:")), "{said}: {}", ran.said());
    }
}

/// A command that sees `scripts` as /etc/init.d, and no systemd.
fn with_init_scripts(scripts: &Path, client: &std::process::Command) -> std::process::Command {
    let mut unshare = command("/usr/bin/unshare");
    unshare.args(["--mount", "/bin/sh", "-euc"]);
    unshare
        .arg("mount --bind \"$0\" /etc/init.d; mkdir -p /run/systemd; mount -t tmpfs none /run/systemd; exec \"$@\"");
    unshare.arg(scripts).arg(client.get_program()).args(client.get_args());
    unshare
}

#[test]
fn the_real_service_command_is_believed() {
    if !can_run("rc", &[Need::Root, Need::Program("service"), Need::Program("unshare")]) {
        return;
    }
    let (world, lineage) = scene();
    for (name, text, action, code, said) in [
        ("good", "echo \"$1\" >>{calls}", "restart", 0, "Rc service good restarted."),
        ("reloads", "echo \"$1\" >>{calls}", "reload", 0, "Rc service reloads reloaded."),
        (
            "bad",
            "echo \"$1\" >>{calls}; echo no way >&2; exit 1",
            "restart",
            3,
            "RcError: Failed to restart bad: it returned 1; it last said: no way",
        ),
        ("hangs", "echo \"$1\" >>{calls}; sleep 1000", "restart", 3, "it was killed after 1 s"),
        ("missing", "", "restart", 3, "RcError: Failed to restart missing: it returned 1"),
    ] {
        let pass = Pass::over(&world, &lineage, name);
        let (scripts, calls) = (pass.path("init.d"), pass.path("calls"));
        std::fs::create_dir(&scripts).expect("a folder");
        if !text.is_empty() {
            let text = text.replace("{calls}", &calls.display().to_string());
            executable(&scripts.join(name), &format!("#!/bin/sh\n{text}\n"));
        }
        let lines = format!("update_services:\n  - {{type: rc, name: {name}, action: {action}, timeout: 1}}\n");
        let ran = run(with_init_scripts(&scripts, &pass.command(&lines))).ended(code);
        assert!(ran.stdout.contains(said), "{name} lacks {said:?}: {}", ran.said());
        assert_eq!(code == 0, ran.stdout.contains("ed.\n") && ran.stdout.contains("Rc service"), "{}", ran.said());
        if !text.is_empty() {
            assert_eq!(std::fs::read_to_string(&calls).expect("calls"), format!("{action}\n"));
        }
    }
}

#[test]
fn another_service_command_can_be_set() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "service");
    let own = executable(&pass.path("service"), "#!/bin/sh\necho \"$@\" >>\"$0.calls\"\n");
    let updates = "update_services:\n  - {type: rc, name: nginx}\n  - {type: rc, name: ssh, action: reload}\n";
    let _ = run(pass.command(&format!("rc_service_exec: {}\n{updates}", own.display()))).ended(0);
    let calls = std::fs::read_to_string(pass.path("service.calls")).expect("calls");
    assert_eq!(calls, "nginx restart\nssh reload\n");
}

#[test]
fn nothing_is_left_of_a_script_that_was_killed() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "left");
    let pids = pass.path("pids");
    let text = format!(
        "#!/bin/sh\nsleep 1000 & echo $! >{0}; (trap '' TERM; sleep 1000) & echo $! >>{0}; wait\n",
        pids.display()
    );
    let script = executable(&pass.path("script"), &text);
    let ran = with_one_after(&pass, &format!("{{type: script, name: {}, timeout: 1}}", script.display())).ended(3);
    assert!(ran.stdout.contains("killed after 1 s"), "{}", ran.said());
    for pid in std::fs::read_to_string(&pids).expect("pids").lines() {
        until(&format!("{pid} is gone"), PATIENCE, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
}

#[test]
fn arguments_arrive_as_they_are_written() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "args");
    let got = pass.path("got");
    let script = executable(&pass.path("script"), &format!("#!/bin/sh\nprintf '%s\\0' \"$@\" >{}\n", got.display()));
    let args = [
        "a b",
        "",
        "$HOME",
        "$(id)",
        "*",
        "it's \"so\"",
        "two\nlines",
        "a\tb",
        "--",
        "-x",
        "\u{e4}",
        "{lineage}",
        "\\",
    ];
    // A list of JSON is one of YAML too; what stands there without quotes is text as well.
    let listed = serde_json::to_string(&args).expect("JSON");
    let plain = ["0600", "yes", "1.10", "15:00", "0x1F", "a"];
    let listed = format!("{}, {}]", listed.strip_suffix(']').expect("a list"), plain.join(", "));
    let ran = with_one_after(&pass, &format!("{{type: script, name: {}, args: {listed}}}", script.display())).ended(0);
    let got = std::fs::read_to_string(&got).expect("what it got");
    let got: Vec<&str> = got.strip_suffix('\0').expect("a whole list").split('\0').collect();
    assert_eq!(got, [&args[..], &plain].concat(), "{}", ran.said());
}

#[test]
fn blanks_that_stand_in_quotes_are_part_of_an_argument() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "blanks");
    let got = pass.path("got");
    let text = format!("#!/bin/sh\nprintf '%s\\0' \"$@\" \"$OWN\" >{}\n", got.display());
    let script = executable(&pass.path("script"), &text);
    let more = "args: [' a ', \"\\t\", \"\\n\"], env: {OWN: ' b '}";
    let ran = with_one_after(&pass, &format!("{{type: script, name: {}, {more}}}", script.display())).ended(0);
    let got = std::fs::read_to_string(&got).expect("what it got");
    assert_eq!(got.split('\0').collect::<Vec<_>>(), [" a ", "\t", "\n", " b ", ""], "{}", ran.said());
}

#[test]
fn a_script_gets_what_is_the_host_s_and_not_what_was_meant_for_the_client_alone() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "environment");
    let got = pass.path("got");
    let script = executable(&pass.path("script"), &format!("#!/bin/sh\nexec env -0 >{}\n", got.display()));
    let not_theirs = [
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "CREDENTIALS_DIRECTORY",
        "NOTIFY_SOCKET",
        "SYSTEMD_EXEC_PID",
        "MAINPID",
        "LEXICON_CLOUDFLARE_TOKEN",
        "LEXICON_OVH_AUTH_ENTRYPOINT",
        "RENEWED_SOMETHING",
        "CERTDEPLOY_CLIENT_CONFIG",
    ];
    let theirs =
        ["KEPT", "INVOCATION_IDS", "MY_LEXICON_TOKEN", "LOGS_DIRECTORY", "STATE_DIRECTORY", "TZ", "HTTP_PROXY"];
    let entry = format!("{{type: script, name: {}, env: {{LEXICON_OWN: wanted, KEPT: own}}}}", script.display());
    let mut client = pass.command(&format!("update_services:\n  - {entry}\n"));
    for name in not_theirs.iter().chain(&theirs).filter(|name| **name != "CERTDEPLOY_CLIENT_CONFIG") {
        client.env(name, "0123abcd");
    }
    client.env("CERTDEPLOY_CLIENT_CONFIG", "/nowhere");
    let ran = run(client).ended(0);
    let got = std::fs::read_to_string(&got).expect("what it got");
    let value = |name: &str| got.split('\0').find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    for name in not_theirs {
        assert_eq!(value(name), None, "{name}: {}", ran.said());
    }
    for name in theirs.iter().filter(|name| **name != "KEPT") {
        assert_eq!(value(name), Some("0123abcd"), "{name}: {got}");
    }
    // What the entry itself says is meant.
    assert_eq!((value("LEXICON_OWN"), value("KEPT")), (Some("wanted"), Some("own")));
    assert_eq!(value("RENEWED_LINEAGE"), Some(pass.path("certs/a.example").display().to_string().as_str()));
}

#[test]
fn a_check_has_the_time_of_scripts_and_not_that_of_its_entry() {
    let (world, lineage) = scene();
    let pass = Pass::over(&world, &lineage, "check-time");
    let check = executable(&pass.path("check"), "#!/bin/sh\nsleep 3\n");
    let entry =
        format!("update_services: [{{type: script, name: /bin/true, timeout: 1, check: {}}}]\n", check.display());
    let _ = run(pass.command(&entry)).ended(0);
    let mut update = pass.command(&format!("script_timeout: 1\n{entry}"));
    update.arg("update");
    let said = run(update).ended(3).said();
    assert!(said.contains("CheckError: ") && said.contains("it was killed after 1 s"), "{said}");
}
