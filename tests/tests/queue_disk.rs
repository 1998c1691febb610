//! The disk below the queue: full, read-only, failing to sync. A hook that cannot promise says so; nothing that was
//! promised is lost; all is delivered when the disk works again.

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{command, run};
use certdeploy_tests::small_disk::SmallDisk;
use certdeploy_tests::{Lineage, Target, World};

struct Scene {
    target: Target,
    lineage: Lineage,
    disk: SmallDisk,
    /// Last: its directory goes when nothing is mounted there any more.
    world: World,
}

fn scene(options: &str) -> Scene {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let disk = SmallDisk::mount(world.path("disk"), options);
    world.write_server_with(&[&target], &disk.at.join("queue"), "");
    let lineage = world.lineage("example.com", &["example.com"]);
    Scene { world, target, lineage, disk }
}

fn is_root(name: &str) -> bool {
    can_run(&format!("queue_disk::{name}"), &[Need::Root, Need::Program("mount")])
}

#[test]
fn on_a_full_disk_the_hook_fails_with_the_way_out_and_all_is_delivered_when_space_is_back() {
    if !is_root("on_a_full_disk") {
        return;
    }
    // Full before there is a queue, and full when there is one.
    for history in [false, true] {
        let mut scene = scene("size=1m");
        let _client = scene.target.start();
        if history {
            let _ = scene.world.hook(&scene.lineage).ended(0);
            let _ = scene.world.server(&["--push"]).ended(0);
            assert!(scene.target.holds(&scene.lineage));
            scene.lineage.renew(&scene.world.ca);
        }
        let ballast = scene.disk.fill();
        let hook = scene.world.hook(&scene.lineage).ended(1);
        let queue = scene.disk.at.join("queue").display().to_string();
        let said = hook.said().to_lowercase();
        assert!(said.contains(&queue.to_lowercase()), "{said}");
        assert!(said.contains("space"), "{said}");
        let _ = scene.world.server(&["--push"]);
        assert!(!scene.target.holds(&scene.lineage));
        std::fs::remove_file(ballast).unwrap();
        let _ = scene.world.hook(&scene.lineage).ended(0);
        let _ = scene.world.server(&["--push"]).ended(0);
        assert!(scene.target.holds(&scene.lineage));
    }
}

#[test]
fn a_daemon_outlives_a_full_disk_and_delivers_when_space_is_back() {
    if !is_root("a_daemon_outlives_a_full_disk") {
        return;
    }
    let mut scene = scene("size=1m");
    let _client = scene.target.start();
    let mut server = scene.world.start_server();
    scene.target.receives(&scene.lineage);
    let ballast = scene.disk.fill();
    scene.lineage.renew(&scene.world.ca);
    let _ = scene.world.hook(&scene.lineage).ended(1);
    assert!(server.runs(), "{}", server.said());
    std::fs::remove_file(ballast).unwrap();
    let _ = scene.world.hook(&scene.lineage).ended(0);
    scene.target.receives(&scene.lineage);
    assert!(server.runs(), "{}", server.said());
}

#[test]
fn on_a_read_only_disk_the_hook_fails_and_says_so() {
    if !is_root("on_a_read_only_disk") {
        return;
    }
    for history in [false, true] {
        let scene = scene("size=4m");
        let _client = scene.target.start();
        if history {
            let _ = scene.world.hook(&scene.lineage).ended(0);
        }
        scene.disk.remount("ro");
        let hook = scene.world.hook(&scene.lineage).ended(1);
        let said = hook.said();
        assert!(said.to_lowercase().contains("read-only"), "{said}");
        assert!(said.contains(&scene.disk.at.display().to_string()), "{said}");
        scene.disk.remount("rw");
        let _ = scene.world.hook(&scene.lineage).ended(0);
        let _ = scene.world.server(&["--push"]).ended(0);
        assert!(scene.target.holds(&scene.lineage));
    }
}

#[test]
fn a_hook_whose_disk_fails_to_sync_is_no_success() {
    if !can_run("queue_disk::a_hook_whose_disk_fails_to_sync", &[Need::Program("strace")]) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    for error in ["EIO", "ENOSPC"] {
        lineage.renew(&world.ca);
        let hook = world.hook_command(&lineage);
        let mut strace = command("/usr/bin/strace");
        let inject = format!("inject=fsync,fdatasync:error={error}");
        strace.args(["-f", "-q", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject]);
        strace.arg(hook.get_program());
        for (name, value) in hook.get_envs() {
            if let Some(value) = value {
                strace.env(name, value);
            }
        }
        let ran = run(strace).ended(1);
        assert!(ran.said().contains("queue.sqlite"), "{}", ran.said());
        assert!(ran.said().contains("look at its space and its health"), "{}", ran.said());
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        assert!(target.holds(&lineage));
    }
}
