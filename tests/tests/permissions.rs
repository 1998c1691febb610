//! Modes and owners: what is configured is what is there, for each kind of file; key bytes are never readable wider, not
//! for one system call; whose files in staging are taken, and whose are not.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use certdeploy_common::cert::FileName;
use certdeploy_tests::key_watch::without_umask;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{command, run};
use certdeploy_tests::{Lineage, World, until};

struct Scene {
    world: World,
    lineage: Lineage,
    pass: Pass,
}

fn scene(name: &str) -> Scene {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let pass = Pass::over(&world, &lineage, name);
    Scene { world, lineage, pass }
}

impl Scene {
    fn stage(&self) {
        let staged = self.pass.path("staging/a.example");
        std::fs::create_dir_all(&staged).unwrap();
        for file in ["fullchain.pem", "privkey.pem"] {
            std::fs::copy(self.lineage.live.join(file), staged.join(file)).unwrap();
        }
    }

    /// Mode, owner and group of a deployed file.
    fn stat(&self, name: &str) -> (u32, u32, u32) {
        let meta = self.pass.path("certs/a.example").join(name).metadata().unwrap();
        (meta.permissions().mode() & 0o7777, meta.uid(), meta.gid())
    }

    fn generation(&self) -> PathBuf {
        std::fs::read_link(self.pass.path("certs/a.example/..data")).unwrap()
    }
}

/// An account and a group that every Debian has: `daemon` is 1, `bin` is 2.
const DAEMON: u32 = 1;
const BIN: u32 = 2;

#[test]
fn each_kind_of_file_has_its_own() {
    if !can_run("permissions::each_kind_of_file", &[Need::Root]) {
        return;
    }
    let scene = scene("kinds");
    let lines = "file_permissions:\n  mode: 0444\n  directory_mode: 0751\n  group: bin\n  privkey: {mode: 0440, owner: daemon}\n  cert: {mode: '0604', group: 0}\n";
    let _ = run(scene.pass.command(lines)).ended(0);
    assert_eq!(scene.stat("privkey.pem"), (0o440, DAEMON, BIN));
    assert_eq!(scene.stat("cert.pem"), (0o604, 0, 0));
    assert_eq!(scene.stat("fullchain.pem"), (0o444, 0, BIN));
    assert_eq!(scene.stat("."), (0o751, 0, BIN));
    assert_eq!(scene.stat("..data/."), (0o751, 0, BIN));
    assert_eq!(scene.stat("..data/.record.json").0, 0o600);
    let check = || {
        let mut check = scene.pass.command(lines);
        check.arg("check");
        run(check).said()
    };
    assert!(!check().contains("belongs to"), "{}", check());
    std::os::unix::fs::chown(scene.pass.path("certs/a.example/privkey.pem"), Some(BIN), None).unwrap();
    assert!(check().contains("privkey.pem` belongs to 2:2, not 1:2; have it delivered anew"), "{}", check());
}

#[test]
fn what_is_wrong_or_unwise_is_said_with_its_place() {
    let scene = scene("wrong");
    let lines = "file_permissions:\n  owner: nobody-of-that-name\n  privkey: {group: none-of-that-name}\n";
    let ran = run(scene.pass.command(lines)).ended(1);
    for words in [
        "client.yml:5:10: Invalid value \"nobody-of-that-name\" for `owner`. `owner` must be the name or id of a user of this host",
        "client.yml:6:20: Invalid value \"none-of-that-name\" for `group`. `group` must be the name or id of a group of this host",
    ] {
        assert!(ran.said().contains(words), "{words}\n{}", ran.said());
    }
    let ran = run(scene.pass.command("file_permissions:\n  privkey: {mode: rw}\n")).ended(1);
    assert!(ran.said().contains("client.yml:5:19: Invalid value \"rw\" for `mode`"), "{}", ran.said());
    let ran = run(scene.pass.command("file_permissions: {mode: 0644}\n")).ended(0);
    assert!(ran.said().contains("everybody on this host can read private keys"), "{}", ran.said());
    assert_eq!(scene.stat("privkey.pem").0, 0o644);
    let ran = run(scene.pass.command("file_permissions: {mode: 0644, privkey: {mode: 0640}}\n")).ended(0);
    assert!(!ran.said().contains("everybody on this host"), "{}", ran.said());
}

#[test]
fn changed_permissions_make_a_new_generation_and_tell_its_users() {
    let scene = scene("changed");
    let script = scene.pass.path("told");
    std::fs::write(
        &script,
        format!("#!/bin/sh\nreadlink $RENEWED_LINEAGE/..data >>{}\n", scene.pass.path("runs").display()),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let updates = format!("update_services:\n  - {{type: script, name: {}}}\n", script.display());
    let _ = run(scene.pass.command(&updates)).ended(0);
    assert_eq!((scene.stat("privkey.pem").0, scene.generation()), (0o600, ".gen-1".into()));
    let lines = format!("{updates}file_permissions: {{privkey: {{mode: 0640}}}}\n");
    for _ in 0..2 {
        let _ = run(scene.pass.command(&lines)).ended(0);
        assert_eq!((scene.stat("privkey.pem").0, scene.generation()), (0o640, ".gen-2".into()));
    }
    assert_eq!(std::fs::read_to_string(scene.pass.path("runs")).unwrap(), ".gen-1\n.gen-2\n");
    // The same files, so the same upload is nothing new.
    scene.stage();
    let _ = run(scene.pass.command(&lines)).ended(0);
    assert_eq!(scene.generation(), PathBuf::from(".gen-2"));
}

/// What strace saw of one open file that was made: the mode it was made with, then the calls on it, in order.
fn made(trace: &Path) -> BTreeMap<String, Vec<String>> {
    let mut files = BTreeMap::<String, Vec<String>>::new();
    let mut open = BTreeMap::<(String, String), String>::new();
    for line in std::fs::read_to_string(trace).unwrap().lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        let thread = thread.to_owned();
        if call == "openat" && arguments.contains("O_CREAT") {
            let name = arguments.split('"').nth(1).unwrap_or_default().to_owned();
            let mode = arguments.split(", ").last().unwrap_or_default().split(')').next().unwrap_or_default();
            let descriptor = rest.rsplit("= ").next().unwrap_or_default().trim().to_owned();
            files.entry(name.clone()).or_default().push(format!("made {mode}"));
            open.insert((thread, descriptor), name);
        } else {
            let descriptor = arguments.split([',', ')', '<']).next().unwrap_or_default().to_owned();
            let key = (thread, descriptor);
            if let Some(name) = open.get(&key) {
                files.entry(name.clone()).or_default().push(call.to_owned());
            }
            if call == "close" {
                open.remove(&key);
            }
        }
    }
    files
}

#[test]
fn a_key_has_its_owner_and_mode_before_its_first_byte() {
    if !can_run("permissions::a_key_has_its_owner_and_mode", &[Need::Root, Need::Program("strace")]) {
        return;
    }
    let scene = scene("strace");
    let client = scene.pass.command("file_permissions: {owner: daemon, group: bin, privkey: {mode: 0640}}\n");
    let trace = scene.pass.path("trace");
    let mut strace = command("/usr/bin/strace");
    strace.args(["-f", "-q", "-e", "trace=openat,open,creat,fchown,fchmod,chmod,fchmodat,chown,fchownat,lchown,write,pwrite64,close,rename,renameat,renameat2,link,linkat", "-o"]);
    let client = without_umask(&client);
    strace.arg(&trace).arg(client.get_program()).args(client.get_args());
    let _ = run(strace).ended(0);
    let files = made(&trace);
    let calls = files.get("privkey.pem").expect("privkey.pem was made").clone();
    assert_eq!(calls[..4], ["made 0600", "fchown", "fchmod", "write"], "{calls:?}");
    assert!(files.values().flatten().all(|call| !call.starts_with("made 06") || call == "made 0600"), "{files:?}");
    let text = std::fs::read_to_string(&trace).unwrap();
    for call in [" chmod(", " fchmodat(", " chown(", " link(", " linkat(", " creat("] {
        assert!(!text.contains(call), "by path:{call}");
    }
}

#[test]
fn one_pass_takes_the_files_of_who_owns_staging_and_nobody_elses() {
    if !can_run("permissions::one_pass_takes_the_files", &[Need::Root]) {
        return;
    }
    let mut scene = scene("owners");
    let own = |path: &Path, id: u32| std::os::unix::fs::chown(path, Some(id), Some(id)).unwrap();
    let staging = scene.pass.path("staging");
    // sshd's user uploads, root runs.
    own(&staging, DAEMON);
    let staged = staging.join("a.example");
    let files = || ["fullchain.pem", "privkey.pem"].map(|name| staged.join(name));
    own(&staged, DAEMON);
    files().iter().for_each(|file| own(file, DAEMON));
    let _ = run(scene.pass.command("")).ended(0);
    assert_eq!(scene.generation(), PathBuf::from(".gen-1"));

    scene.lineage.renew(&scene.world.ca);
    scene.stage();
    own(&files()[1], BIN);
    let ran = run(scene.pass.command("")).ended(1);
    assert!(ran.said().contains("belongs to user 2, who is neither the owner"), "{}", ran.said());
    assert_eq!(scene.generation(), PathBuf::from(".gen-1"));
    own(&files()[1], DAEMON);
    let _ = run(scene.pass.command("")).ended(0);
    assert_eq!(scene.generation(), PathBuf::from(".gen-2"));
}

#[test]
fn planted_links_and_fifos_in_staging_are_refused_and_nothing_waits_for_them() {
    let mut scene = scene("planted");
    let _ = run(scene.pass.command("")).ended(0);
    let secret = scene.pass.path("secret");
    std::fs::write(&secret, &scene.lineage.issued.privkey).unwrap();
    scene.lineage.renew(&scene.world.ca);
    let staged = scene.pass.path("staging/a.example");
    let key = staged.join(FileName::Privkey.as_str());
    type Plant = fn(&Path, &Path);
    let plants: [Plant; 3] = [
        |secret, key| symlink(secret, key).unwrap(),
        |secret, key| std::fs::hard_link(secret, key).unwrap(),
        |_, key| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, key, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        },
    ];
    for plant in plants {
        scene.stage();
        std::fs::remove_file(&key).unwrap();
        plant(&secret, &key);
        let ran = run(scene.pass.command("")).ended(1);
        assert!(ran.said().contains("is not a plain file with one name"), "{}", ran.said());
        assert_eq!(scene.generation(), PathBuf::from(".gen-1"));
        std::fs::remove_file(&key).unwrap();
    }
    // A lineage that is a link leads nowhere.
    std::fs::remove_dir_all(&staged).unwrap();
    let outside = scene.pass.path("outside");
    std::fs::create_dir(&outside).unwrap();
    for name in ["fullchain.pem", "privkey.pem"] {
        std::fs::copy(scene.lineage.live.join(name), outside.join(name)).unwrap();
    }
    symlink(&outside, &staged).unwrap();
    let _ = run(scene.pass.command("")).ended(0);
    assert_eq!(scene.generation(), PathBuf::from(".gen-1"));
    assert!(secret.exists() && outside.join("privkey.pem").exists());
    std::fs::remove_file(&staged).unwrap();
    scene.stage();
    let _ = run(scene.pass.command("")).ended(0);
    until("deployed", certdeploy_tests::wait::PATIENCE, || (scene.generation() == Path::new(".gen-2")).then_some(()));
}
