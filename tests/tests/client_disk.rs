//! The disks below the client: full, read-only, failing to sync, taken away, two of them. The old files stay whole under
//! the eyes of readers, and what was refused for want of a disk is delivered when it is back.

use std::path::PathBuf;

use certdeploy_common::cert::FileName;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Daemon, Ran, binary, children, command, open_files, run};
use certdeploy_tests::readers::Readers;
use certdeploy_tests::small_disk::SmallDisk;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, Target, World, until};

fn is_root(name: &str) -> bool {
    can_run(&format!("client_disk::{name}"), &[Need::Root, Need::Program("mount")])
}

/// Which of the client's directories is on the disk that fails.
#[derive(Debug, Clone, Copy)]
enum On {
    Destination,
    Source,
}

struct Scene {
    target: Target,
    lineage: Lineage,
    disk: SmallDisk,
    client: Daemon,
    readers: Readers,
    /// Last: its directory goes when nothing is mounted there any more.
    world: World,
}

/// A client with one generation, one of its directories on a disk of its own.
fn scene(on: On, options: &str) -> Scene {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let disk = SmallDisk::mount(world.path("disk"), options);
    let (destination, source) = (target.destination.clone(), target.source.clone());
    let moved = disk.at.join("own");
    std::fs::create_dir(&moved).unwrap();
    match on {
        On::Destination => target.move_to(&moved, &source),
        On::Source => target.move_to(&destination, &moved),
    }
    target.extra = "generation_min_age: 0\nkeep_generations: 2\n".to_owned();
    target.write_config();
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    target.updates(&lineage);
    let readers = Readers::start(&target.deployed("example.com"), &lineage.issued);
    lineage.renew(&world.ca);
    readers.expect(&lineage.issued);
    Scene { world, target, lineage, disk, client, readers }
}

impl Scene {
    fn push(&self) -> Ran {
        let _ = self.world.hook(&self.lineage).ended(0);
        self.world.server(&["--push"])
    }

    /// What is asserted after a failure: who says so, and that nothing is lost or left.
    fn failed_and_then_delivers(mut self, failed: &Ran, words: &str, mend: impl FnOnce(&SmallDisk)) {
        let said = failed.said() + &self.client.said();
        assert_eq!(failed.code, Some(3), "{said}");
        assert!(said.to_lowercase().contains(words), "{words:?} is not in:\n{said}");
        assert!(!self.target.holds(&self.lineage));
        assert!(self.client.runs(), "{said}");
        let generations = || {
            let entries = std::fs::read_dir(self.target.deployed("example.com")).unwrap().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".gen-")).count()
        };
        assert_eq!(generations(), 1, "what was begun is taken away again");
        mend(&self.disk);
        let _ = self.push().ended(0);
        self.target.receives(&self.lineage);
        self.target.updates(&self.lineage);
        assert_eq!(generations(), 2);
        assert_eq!(self.readers.stop().faults, Vec::<String>::new());
        staging_is_clean(&self.target.source);
        // Before the disk goes.
        let _ = self.client.stop();
    }
}

fn staging_is_clean(source: &std::path::Path) {
    until("staging is clean", PATIENCE, || {
        std::fs::read_dir(source.join(".incoming")).is_ok_and(|mut left| left.next().is_none()).then_some(())
    });
}

#[test]
fn on_a_full_disk_the_old_files_stay_and_the_new_ones_come_when_space_is_back() {
    if !is_root("on_a_full_disk") {
        return;
    }
    for on in [On::Destination, On::Source] {
        let scene = scene(on, "size=512k,mode=755");
        let ballast = scene.disk.fill();
        let failed = scene.push();
        scene.failed_and_then_delivers(&failed, "space", |_| std::fs::remove_file(ballast).unwrap());
    }
}

#[test]
fn on_a_read_only_disk_the_old_files_stay_and_the_new_ones_come_when_it_is_writable() {
    if !is_root("on_a_read_only_disk") {
        return;
    }
    for on in [On::Destination, On::Source] {
        let scene = scene(on, "size=1m,mode=755");
        scene.disk.remount("ro");
        let failed = scene.push();
        scene.failed_and_then_delivers(&failed, "read-only", |disk| disk.remount("rw"));
    }
}

#[test]
fn a_destination_that_is_taken_away_under_the_daemon_is_said_and_used_again_when_it_is_back() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let mut client = target.start();
    let push = |lineage: &Lineage| {
        let _ = world.hook(lineage).ended(0);
        world.server(&["--push"])
    };
    let _ = push(&lineage).ended(0);
    target.updates(&lineage);
    // In one step: the daemon may be writing into it.
    std::fs::rename(&target.destination, world.path("taken-away")).unwrap();
    lineage.renew(&world.ca);
    let ran = push(&lineage).ended(3);
    assert!(ran.said().contains(&target.destination.display().to_string()), "{}", ran.said());
    assert!(client.runs(), "{}", client.said());
    std::fs::create_dir(&target.destination).unwrap();
    let _ = push(&lineage).ended(0);
    target.receives(&lineage);
    target.updates(&lineage);
    assert!(client.runs(), "{}", client.said());
}

fn pass(world: &World, name: &str) -> (Pass, Lineage) {
    let lineage = world.lineage("example.com", &["example.com"]);
    let pass = Pass::over(world, &lineage, name);
    (pass, lineage)
}

fn stage(pass: &Pass, lineage: &Lineage) {
    let staged = pass.path("staging/example.com");
    std::fs::create_dir_all(&staged).unwrap();
    for file in ["fullchain.pem", "privkey.pem"] {
        std::fs::copy(lineage.live.join(file), staged.join(file)).unwrap();
    }
}

fn holds(pass: &Pass, lineage: &Lineage) -> bool {
    [FileName::Cert, FileName::Fullchain, FileName::Privkey].into_iter().all(|name| {
        let file: PathBuf = pass.path("certs/example.com").join(name.as_str());
        std::fs::read_to_string(file).is_ok_and(|text| text == lineage.issued.file(name))
    })
}

/// Every sync of a pass fails once: the pass says so, nothing is mixed, and the next one finishes the work.
#[test]
fn a_pass_whose_disk_fails_to_sync_is_no_success_and_mixes_nothing() {
    if !can_run("client_disk::a_pass_whose_disk_fails_to_sync", &[Need::Program("strace")]) {
        return;
    }
    let world = World::new();
    let (pass, mut lineage) = pass(&world, "sync");
    let _ = run(pass.command("")).ended(0);
    assert!(holds(&pass, &lineage));
    let readers = Readers::start(&pass.path("certs/example.com"), &lineage.issued);
    let (mut failed, mut number) = (0, 1);
    loop {
        lineage.renew(&world.ca);
        readers.expect(&lineage.issued);
        stage(&pass, &lineage);
        let client = pass.command("");
        let mut strace = command("/usr/bin/strace");
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={number}");
        let trace = pass.path("trace");
        strace.args(["-f", "-q", "-e", "trace=fsync,fdatasync", "-e", &inject, "-o"]).arg(&trace);
        strace.arg(client.get_program()).args(client.get_args());
        let ran = run(strace);
        if !std::fs::read_to_string(&trace).unwrap().contains("(INJECTED)") {
            let _ = ran.ended(0);
            break;
        }
        assert!(ran.code == Some(1) || holds(&pass, &lineage), "{:?}: {}", ran.code, ran.said());
        if ran.code == Some(1) {
            failed += 1;
            assert!(ran.said().contains("nput/output error"), "{}", ran.said());
        }
        let _ = run(pass.command("")).ended(0);
        assert!(holds(&pass, &lineage), "sync {number}");
        number += 1;
    }
    assert!(failed >= 4, "{failed} of {number} syncs made a pass fail: the files, the generation, the swap");
    assert_eq!(readers.stop().faults, Vec::<String>::new());
}

#[test]
fn source_and_destination_must_be_apart() {
    let world = World::new();
    let (pass, _) = pass(&world, "apart");
    for folder in ["staging/inside", "certs/inside"] {
        std::fs::create_dir_all(pass.path(folder)).unwrap();
    }
    std::os::unix::fs::symlink(pass.path("certs"), pass.path("alias")).unwrap();
    for (source, destination, words) in [
        ("staging", "staging", "is `destination`"),
        ("alias", "certs", "is `destination`"),
        ("certs/inside", "certs", "lies inside `destination`"),
        ("staging", "staging/inside", "has `destination` inside it"),
    ] {
        let command = pass.command("");
        let config = pass.path("client.yml");
        let text =
            format!("source: {}\ndestination: {}\n", pass.path(source).display(), pass.path(destination).display());
        std::fs::write(&config, text).unwrap();
        let ran = run(command).ended(1);
        let said = ran.said();
        assert!(said.contains("client.yml:1:9: Invalid config option: `source`") && said.contains(words), "{said}");
    }
}

/// One sync after the other fails once in each process of a daemon: nothing is acknowledged that is not there, whoever
/// is told that it failed delivers it again, and nobody reads a mix.
#[test]
fn a_daemon_whose_disk_fails_to_sync_acknowledges_only_what_is_there() {
    if !can_run("client_disk::a_daemon_whose_disk_fails_to_sync", &[Need::Root, Need::Program("strace")]) {
        return;
    }
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    target.updates = false;
    target.extra = "generation_min_age: 0\n".to_owned();
    target.write_config();
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    let mut lineage = world.lineage("example.com", &["example.com"]);
    {
        let _client = target.start();
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
    }
    let readers = Readers::start(&target.deployed("example.com"), &lineage.issued);
    let (mut by_receiver, mut number) = (0, 1);
    loop {
        lineage.renew(&world.ca);
        readers.expect(&lineage.issued);
        let trace = world.path("trace");
        let _ = std::fs::remove_file(&trace);
        let mut strace = command("/usr/bin/strace");
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={number}");
        strace.args(["-D", "-f", "-q", "-e", "trace=fsync,fdatasync", "-e", &inject, "-o"]).arg(&trace);
        strace.arg(binary("certdeploy-client")).arg("--config").arg(&target.config).arg("--daemon");
        target.port_falls_free();
        let mut client = Daemon::start("certdeploy-client whose disk fails", strace, &target.log);
        client.says("The receiver is confined by");
        let receiver = children(client.id()).into_iter().find(|id| !open_files(*id).is_empty()).expect("a receiver");
        let _ = world.hook(&lineage).ended(0);
        let pushed = world.server(&["--push"]);
        let said = pushed.said() + &client.said();
        let threads: Vec<String> = std::fs::read_dir(format!("/proc/{receiver}/task"))
            .expect("threads")
            .map(|thread| thread.expect("a thread").file_name().to_string_lossy().into_owned())
            .collect();
        assert!(pushed.code == Some(3) || target.holds(&lineage), "acknowledged, and not there:\n{said}");
        assert!(client.runs(), "{said}");
        let _ = client.stop();
        let traced = std::fs::read_to_string(&trace).expect("a trace");
        let failed = |line: &&str| line.contains("(INJECTED)");
        let its = |line: &&str| threads.iter().any(|id| line.split_whitespace().next() == Some(id));
        if traced.lines().filter(failed).any(|line| its(&line)) {
            by_receiver += 1;
            assert_eq!(pushed.code, Some(3), "the upload is not on the disk, and is acknowledged:\n{said}");
        }
        let _client = target.start();
        let _ = world.server(&["--push"]).ended(0);
        assert!(target.holds(&lineage), "{}", target.log.display());
        if !traced.lines().any(|line| failed(&line)) {
            break;
        }
        number += 1;
    }
    assert!(by_receiver > 2, "{by_receiver} syncs of the receiver failed, of {number}");
    assert_eq!(readers.stop().faults, Vec::<String>::new());
}

#[test]
fn an_update_that_cannot_be_written_down_is_no_success() {
    if !is_root("an_update_that_cannot_be_written_down") {
        return;
    }
    let mut scene = scene(On::Destination, "size=1m");
    assert_eq!(scene.client.stop().code(), Some(0));
    let update = || {
        let mut command = scene.target.command();
        command.arg("update");
        run(command)
    };
    let _ = update().ended(0);
    scene.disk.remount("ro");
    let said = update().ended(1).said();
    assert!(said.contains("Cannot write down the update of example.com: Read-only file system"), "{said}");
    assert!(said.contains("once that is mended, run `certdeploy-client update`"), "{said}");
    scene.disk.remount("rw");
    let _ = update().ended(0);
}
