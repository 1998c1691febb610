//! `check`: everything that is wrong is said at once and nothing is touched; files that are no configs hang nobody.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use certdeploy_tests::ca::Validity;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::run;
use certdeploy_tests::trust::Agent;
use certdeploy_tests::{Ran, World};

const PIN: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";

fn write(world: &World, text: &str) {
    fs::write(world.server_config(), text).unwrap();
}

#[track_caller]
fn says(ran: &Ran, needles: &[&str]) {
    for needle in needles {
        assert!(ran.said().contains(needle), "{needle:?} is not in:\n{}", ran.said());
    }
}

/// Everything below a directory, with times.
fn below(folder: &Path, seen: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let meta = path.symlink_metadata().unwrap();
        seen.push(format!(
            "{} {:o} {} {}.{}",
            path.display(),
            meta.mode(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec()
        ));
        if meta.is_dir() {
            below(&path, seen);
        }
    }
    seen.sort();
}

fn state(world: &World) -> Vec<String> {
    let mut seen = Vec::new();
    below(&world.path(""), &mut seen);
    seen
}

#[test]
fn a_good_world_is_described_and_left_as_it_is() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let lineage = world.lineage("example.com", &["www.example.com", "example.com"]);
    let _nobody = world.lineage("other.example", &["other.example"]);
    let log = world.path("server/new.log");
    world.write_server_with(&[&target], &world.queue(), &format!("log_filename: {}\n", log.display()));
    let before = state(&world);
    for arguments in [&["check"][..], &["check", "--effective"]] {
        let ran = world.server(arguments).ended(0);
        says(
            &ran,
            &["0 errors, 0 warnings", "lineage example.com (valid until ", ") goes to web1\n", "it will be made"],
        );
        says(&ran, &["note: lineage other.example (valid until ", ") goes to nobody"]);
        assert!(!ran.said().contains("there is no hook"), "{}", ran.said());
    }
    assert_eq!(state(&world), before);
    let ran = world.server(&["check", "--effective"]).ended(0);
    assert!(ran.stdout.starts_with("privkey_filename: /") && !ran.stdout.contains("note:"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("OPENSSH") && ran.stdout.contains("log_level: DEBUG\n"), "{}", ran.stdout);
    // A queue that is there is looked at, with what is owed.
    world.write_server(&[&target]);
    let _ = world.hook(&lineage).ended(0);
    let before = fs::read(world.queue().join("queue.sqlite")).unwrap();
    let _ = world.server(&["check"]).ended(0);
    assert_eq!(fs::read(world.queue().join("queue.sqlite")).unwrap(), before);
}

#[test]
fn the_command_line_beats_the_environment_and_that_the_config() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server_with(&[&target], &world.queue(), "sftp_log_level: CRITICAL\n");
    let holds = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = world.server_command(&[&["check", "--effective"], arguments].concat());
        command.envs(variables.iter().copied());
        let said = run(command).ended(0).stdout;
        let value = |key: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.trim_start_matches(": ").to_owned()
        };
        [value("log_level"), value("log_filename"), value("sftp_log_level")]
    };
    assert_eq!(holds(&[], &[]), ["DEBUG", "null  # default", "CRITICAL"]);
    for (level, sftp) in [
        ("CERTDEPLOY_LOG_LEVEL", "CERTDEPOLY_SFTP_LOG_LEVEL"),
        ("CERTDEPLOY_SERVER_LOG_LEVEL", "CERTDEPLOY_SERVER_SFTP_LOG_LEVEL"),
    ] {
        let both = [(level, "INFO"), (sftp, "WARNING"), ("CERTDEPLOY_SERVER_LOG_FILENAME", "/tmp/x")];
        assert_eq!(holds(&both, &[]), ["INFO", "/tmp/x", "WARNING"]);
        let flags = ["--log-level", "ERROR", "--log-filename=/tmp/y", "--sftp-log-level=INFO"];
        assert_eq!(holds(&both, &flags), ["ERROR", "/tmp/y", "INFO"]);
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place() {
    let world = World::new();
    let path = |name: &str| world.path(name).display().to_string();
    fs::write(world.path("file"), "").unwrap();
    fs::set_permissions(world.server_key(), fs::Permissions::from_mode(0o644)).unwrap();
    let text = format!(
        "privkey_filename: {}\nqueue_dir: {}\nlog_filename: {}\nrenew_exec: {}\nlive_directory: {}\npush_mode: both\n\
         client_configs:\n- {{address: 'root@web1:2222', domains: [a.example], pubkey: {PIN}}}\n\
         - {{host: web2, domains: [a.example], pubkey: {PIN}}}\n- {{address: web3, pubkey: {PIN}}}\n",
        path("server/key"),
        path("file"),
        path("nowhere/x.log"),
        path("file"),
        path("file"),
    );
    write(&world, &text);
    let config = world.server_config().display().to_string();
    let ran = world.server(&["check"]).ended(1);
    // The config's own mistakes keep the rest from being looked at only where they must.
    says(&ran, &[&format!("{config}:6:12: Invalid value \"both\" for `push_mode`.")]);
    says(
        &ran,
        &[&format!("{config}:9:4: Invalid client config option: unknown key \"host\" (did you mean \"address\"?)")],
    );
    assert!(ran.stdout.starts_with(&config), "the problems come first:\n{}", ran.stdout);

    write(&world, &text.replace("push_mode: both", "push_mode: serial").replace("host: web2", "address: web2"));
    let ran = world.server(&["check"]).ended(1);
    says(
        &ran,
        &[
            &format!("{config}:8:13: Invalid value \"root@web1:2222\" for `address`."),
            "write `username: root` and `address: web1` and `port: 2222`",
            &format!("{config}:10:3: Invalid client config option: missing required key `domains`"),
            &format!("chmod 600 {}", path("server/key")),
            &format!("{config}:2:12: Invalid value \"{}\" for `queue_dir`.", path("file")),
            &format!("{config}:3:15: Invalid value \"{}\" for `log_filename`.", path("nowhere/x.log")),
            &format!("{config}:4:13: Invalid value \"{}\" for `renew_exec`.", path("file")),
            &format!("{config}:5:17: Invalid value \"{}\" for `live_directory`.", path("file")),
        ],
    );
}

#[test]
fn lineages_that_cannot_be_delivered_are_warnings() {
    let world = World::new();
    let mut web1 = world.target("web1", &["expired.example"]);
    web1.domains.push("nobody.example".to_owned());
    let web2 = world.target("web2", &["mixed.example"]);
    let mut expired = world.lineage("expired.example", &["expired.example"]);
    let over = world.ca.issue(&expired.domains, Validity::over());
    expired.install(over);
    let mut mixed = world.lineage("mixed.example", &["mixed.example"]);
    mixed.renew(&world.ca);
    let key = mixed.live.join("privkey.pem");
    fs::remove_file(&key).unwrap();
    symlink("../../archive/mixed.example/privkey1.pem", &key).unwrap();
    world.write_server(&[&web1, &web2]);
    let text = fs::read_to_string(world.server_config()).unwrap();
    fs::create_dir(world.letsencrypt().join("live/mit leer")).unwrap();
    write(&world, &text.replace("    domains: [mixed.example]", "    domains: [mixed.example]\n    lineages: [gone]"));
    let ran = world.server(&["check"]).ended(0);
    says(
        &ran,
        &[
            "is delivered to nobody: \"",
            "mit leer\" is not a safe lineage name",
            "expired at ",
            "its files belong to different versions",
            "warning: target web1 gets nothing: no lineage that could be read carries ",
            "warning: target web2 wants lineage gone, which does not exist",
            "0 errors, 6 warnings",
        ],
    );
}

#[test]
fn what_the_program_would_not_take_is_found_beforehand() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let _lineage = world.lineage("example.com", &["example.com"]);
    let hook = world.letsencrypt().join("renewal-hooks/deploy/certdeploy-server");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::copy("/bin/true", &hook).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o644)).unwrap();
    let pipe = world.path("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    world.write_server_with(&[&target], &world.queue(), &format!("log_filename: {}\n", pipe.display()));
    let mut command = world.server_command(&["check"]);
    command.env("TZ", "Nonsense/Zone");
    let ran = run(command).ended(1);
    says(
        &ran,
        &[
            "`log_filename` must be a file that can be written: it is a pipe",
            "warning: `renew_at`: the time zone TZ=Nonsense/Zone is unknown",
            &format!("warning: the hook {} is no executable file", hook.display()),
            "\n1 error, ",
        ],
    );
    world.write_server(&[&target]);
    let ran = world.server(&["check", "--log-filename", "/nonexistent/x"]).ended(1);
    says(&ran, &["the log file /nonexistent/x cannot be written: No such file or directory"]);

    // What a name makes of a terminal is not for its writer to say.
    let text = fs::read_to_string(world.server_config()).unwrap();
    write(&world, &text.replace("- name: web1", "- name: \"\\e[31mred\""));
    let ran = world.server(&["check"]).ended(0);
    assert!(!ran.said().contains('\u{1b}') && ran.said().contains("[31mred"), "{}", ran.said());
}

#[test]
fn an_agent_without_the_key_is_a_warning() {
    if !can_run("check::agent", &[Need::Program("ssh-agent"), Need::Program("ssh-add")]) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let agent = Agent::start(&world.path("server"));
    world.write_server_with(&[&target], &world.queue(), &format!("ssh_agent: {}\n", agent.socket.display()));
    says(&world.server(&["check"]).ended(0), &["does not hold the key SHA256:", "added with `ssh-add`"]);
    agent.add(&[world.server_key().to_str().unwrap()]);
    let ran = world.server(&["check"]).ended(0);
    assert!(!ran.said().contains("ssh-add"), "{}", ran.said());
}

#[test]
fn what_is_no_config_is_refused_at_once() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let config = world.server_config();
    let refused = |what: &str, needle: &str| {
        for arguments in [&["check"][..], &["--push"], &["status"]] {
            let ran = world.server(arguments).ended(1);
            assert!(ran.said().contains(needle), "{what}: {}", ran.said());
            assert!(ran.elapsed < Duration::from_secs(60), "{what} took {:?}", ran.elapsed);
        }
        let _ = fs::remove_file(&config);
    };
    let mut text = fs::read(&config).unwrap();
    text.extend(b"# caf\xe9\n");
    fs::write(&config, &text).unwrap();
    let line = text.iter().filter(|byte| **byte == b'\n').count();
    refused("Latin-1", &format!("{}:{line}:6: not valid UTF-8 (byte 0xe9); save the file as UTF-8", config.display()));
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &config, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    refused("a pipe", "is not a regular file");
    symlink("/dev/zero", &config).unwrap();
    refused("a device", "is not a regular file");
    fs::File::create(&config).unwrap().set_len(20 << 20).unwrap();
    refused("a huge file", "is larger than");
    fs::write(&config, "").unwrap();
    refused("an empty file", "missing required key `privkey_filename`");
    refused("a missing file", "FileNotFoundError: [Errno 2] No such file or directory: '");
    fs::create_dir(&config).unwrap();
    refused("a directory", "is not a regular file");

    fs::remove_file(&target.config).unwrap();
    symlink("/dev/zero", &target.config).unwrap();
    says(&target.one_pass().ended(1), &["is not a regular file"]);
    fs::remove_file(&target.config).unwrap();
    fs::write(&target.config, b"destination: /x\n# \xe9\n").unwrap();
    says(&target.one_pass().ended(1), &[&format!("{}:2:3: not valid UTF-8", target.config.display())]);
}

#[test]
fn each_entry_of_the_directory_is_a_target_or_is_named() {
    let world = World::new();
    let folder = world.path("server/targets");
    fs::create_dir(&folder).unwrap();
    let file = |name: &str| folder.join(name);
    let target = |address: &str| format!("address: {address}\ndomains: [example.com]\npubkey: {PIN}\n");
    write(
        &world,
        &format!(
            "privkey_filename: {}\nqueue_dir: {}\nlive_directory: {}\nrenew_exec: /bin/true\nclient_config_directory: targets\n",
            world.server_key().display(),
            world.queue().display(),
            world.letsencrypt().display()
        ),
    );
    fs::write(file("web1.yml"), target("web1")).unwrap();
    fs::write(file("web1.yml~"), "broken: [").unwrap();
    fs::write(file(".web1.yml.swp"), [0xff]).unwrap();
    let ran = world.server(&["check"]).ended(0);
    says(
        &ran,
        &[
            "`client_config_directory` is relative; it is taken as",
            "web1.yml~` looks like an editor's copy and is not read",
        ],
    );
    fs::create_dir(file("more")).unwrap();
    fs::write(file("latin.yml"), [b"address: w\nname: ".as_slice(), &[0xe9]].concat()).unwrap();
    fs::write(file("none.yml"), "# nothing yet\n").unwrap();
    symlink("/nonexistent", file("dangling.yml")).unwrap();
    let ran = world.server(&["check"]).ended(1);
    let at = |name: &str| file(name).display().to_string();
    says(
        &ran,
        &[
            &format!("{}: ", at("more")),
            "is not a regular file; each entry of `client_config_directory` must be a file with one target",
            &format!("{}:2:7: not valid UTF-8", at("latin.yml")),
            &format!("{}:2:1: Invalid client config option: missing required key `address`", at("none.yml")),
            &format!("{}: cannot read", at("dangling.yml")),
        ],
    );
}

#[test]
fn ten_thousand_targets_load_fast() {
    let world = World::new();
    let mut text = format!(
        "privkey_filename: {}\nqueue_dir: {}\nlive_directory: {}\nrenew_exec: /bin/true\nclient_configs:\n",
        world.server_key().display(),
        world.queue().display(),
        world.letsencrypt().display()
    );
    for n in 0..10_000 {
        text.push_str(&format!(
            "- address: web{n}.example\n  domains: [www{n}.example, example.com]\n  pubkey: {PIN}\n"
        ));
    }
    write(&world, &text);
    let ran = world.server(&["status"]).ended(0);
    println!("10,000 targets: {:?}", ran.elapsed);
    // A debug build on a busy machine; a release build takes a tenth of it.
    assert!(ran.elapsed < Duration::from_secs(60), "{:?}", ran.elapsed);
}
