//! What somebody did to deployed files: `check` says it, the next pass mends what can be mended, and ends with an error
//! for what cannot.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use certdeploy_tests::ca::Issued;
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::run;
use certdeploy_tests::readers::Readers;
use certdeploy_tests::scene::Scene;
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Ran, World};

/// One lineage that a pass has deployed, twice.
struct Deployed {
    pass: Pass,
    issued: Issued,
    before: Issued,
    _world: World,
}

impl Deployed {
    fn new() -> Self {
        let world = World::new();
        let mut lineage = world.lineage("example.com", &["example.com"]);
        let pass = Pass::over(&world, &lineage, "damage");
        let _ = run(pass.command("")).ended(0);
        let before = lineage.issued.clone();
        lineage.renew(&world.ca);
        let pass = Pass::over(&world, &lineage, "damage");
        let _ = run(pass.command("")).ended(0);
        let deployed = Self { pass, issued: lineage.issued, before, _world: world };
        assert_eq!(deployed.generation(), Path::new(".gen-2"));
        deployed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pass.path("certs/example.com").join(name)
    }

    fn generation(&self) -> PathBuf {
        fs::read_link(self.path("..data")).unwrap()
    }

    fn check(&self, code: i32) -> String {
        let mut command = self.pass.command("");
        command.arg("check");
        run(command).ended(code).said()
    }

    fn passes(&self) -> Ran {
        run(self.pass.command(""))
    }

    /// Readers find what was deployed, and nobody has anything left to say.
    #[track_caller]
    fn is_whole(&self) {
        for name in ["fullchain.pem", "privkey.pem"] {
            let file = name.parse().unwrap();
            assert!(fs::read_to_string(self.path(name)).unwrap() == self.issued.file(file), "{name}");
        }
        let said = self.check(0);
        assert!(!said.contains("warning: lineage"), "{said}");
        let said = self.passes().ended(0).said();
        assert!(!said.contains("Lineage example.com"), "{said}");
    }
}

#[test]
fn a_name_that_is_missing_comes_back_at_the_next_pass() {
    let deployed = Deployed::new();
    fs::remove_file(deployed.path("privkey.pem")).unwrap();
    let said = deployed.check(0);
    assert!(said.contains("warning: lineage example.com: privkey.pem is not there"), "{said}");
    assert!(!deployed.path("privkey.pem").exists(), "check mends nothing");
    let said = deployed.passes().ended(0).said();
    assert!(said.contains("privkey.pem was not there; it leads to generation 2 now"), "{said}");
    deployed.is_whole();
    symlink("..data/extra.pem", deployed.path("extra.pem")).unwrap();
    deployed.is_whole();
    assert!(deployed.path("extra.pem").is_symlink(), "what is no name of ours stays");
}

#[test]
fn a_lost_link_to_the_generation_is_found_again() {
    for lost in ["removed", "elsewhere", "generation gone"] {
        let deployed = Deployed::new();
        match lost {
            "generation gone" => fs::remove_dir_all(deployed.path(".gen-2")).unwrap(),
            _ => fs::remove_file(deployed.path("..data")).unwrap(),
        }
        if lost == "elsewhere" {
            symlink("nowhere", deployed.path("..data")).unwrap();
        }
        // The newest one is gone: the one before it is better than nothing, and no success.
        let (number, code, words) = match lost {
            "generation gone" => (
                1,
                1,
                "what was deployed last is lost; the next pass or start of the daemon lets it lead to generation 1",
            ),
            _ => (2, 0, "so nothing can be read; the next pass or start of the daemon lets it lead to generation 2"),
        };
        let said = deployed.check(code);
        assert!(said.contains(words), "{lost}: {said}");
        let said = deployed.passes().ended(code).said();
        assert!(said.contains(&format!("it leads to generation {number} now")), "{lost}: {said}");
        let issued = if number == 1 { deployed.before.clone() } else { deployed.issued.clone() };
        Deployed { issued, ..deployed }.is_whole();
    }
    let deployed = Deployed::new();
    for generation in [".gen-1", ".gen-2"] {
        fs::remove_dir_all(deployed.path(generation)).unwrap();
    }
    for said in [deployed.check(1), deployed.passes().ended(1).said()] {
        assert!(said.contains("none is left that is whole; push it anew"), "{said}");
    }
}

#[test]
fn files_that_make_no_set_are_an_error_until_the_next_upload() {
    let deployed = Deployed::new();
    let key = deployed.path("privkey.pem");
    fs::remove_file(&key).unwrap();
    fs::write(&key, deployed.before.file("privkey.pem".parse().unwrap())).unwrap();
    let words = "its files are not those that were deployed, and make no whole set";
    for said in [deployed.check(1), deployed.passes().ended(1).said()] {
        assert!(said.contains(words), "{said}");
    }
    // Nor does a name that leads to nothing.
    let lost = Deployed::new();
    fs::remove_file(lost.path(".gen-2/privkey.pem")).unwrap();
    for said in [lost.check(1), lost.passes().ended(1).said(), lost.passes().ended(1).said()] {
        assert!(said.contains("make no whole set (there is no privkey.pem)"), "{said}");
    }
    assert_eq!(lost.generation(), Path::new(".gen-2"));
    assert!(!key.is_symlink(), "what somebody put there is not taken away unasked");
    // A whole set of somebody else's is taken over.
    let chain = deployed.path("fullchain.pem");
    fs::remove_file(&chain).unwrap();
    fs::write(&chain, deployed.before.file("fullchain.pem".parse().unwrap())).unwrap();
    let said = deployed.check(0);
    assert!(said.contains("somebody else has changed its files; the next pass"), "{said}");
    let said = deployed.passes().ended(0).said();
    assert!(said.contains("somebody else has changed its files; what is there now"), "{said}");
    let deployed = Deployed { issued: deployed.before.clone(), ..deployed };
    deployed.is_whole();
}

/// The server is told what is there now, and brings back what was lost.
#[test]
fn what_a_daemon_lost_is_delivered_again() {
    let (mut scene, mut client) = Scene::deployed("");
    scene.lineage.renew(&scene.world.ca);
    let _ = scene.world.hook(&scene.lineage).ended(0);
    let _ = scene.world.server(&["--push"]).ended(0);
    scene.target.updates(&scene.lineage);
    assert_eq!(client.stop().code(), Some(0));
    let deployed = scene.target.deployed("example.com");
    fs::remove_dir_all(deployed.join(".gen-2")).unwrap();
    let mut client = scene.target.start();
    client.says("it leads to generation 1 now");
    assert!(!scene.target.holds(&scene.lineage));
    let _server = scene.world.start_server();
    scene.target.receives(&scene.lineage);
}

/// An update that puts a copy in the place of a link, as some programs want it: readers see what was deployed.
#[test]
fn a_copy_in_the_place_of_a_link_is_no_change_and_goes_with_the_next_deployment() {
    let (mut scene, mut client) = Scene::deployed("");
    let deployed = scene.target.deployed("example.com");
    let key = deployed.join("privkey.pem");
    let copy = |issued: &Issued| {
        fs::write(deployed.join("copy"), issued.file("privkey.pem".parse().unwrap())).unwrap();
        fs::rename(deployed.join("copy"), &key).unwrap();
    };
    copy(&scene.lineage.issued);
    let text = fs::read_to_string(scene.world.server_config()).unwrap();
    fs::write(scene.world.server_config(), format!("reconcile_interval: 1\n{text}")).unwrap();
    let server = scene.world.start_server();
    let before = client.said().matches("Got connection from").count();
    until("the server has asked twice", PATIENCE, || {
        (client.said().matches("Got connection from").count() >= before + 2).then_some(())
    });
    drop(server);
    assert_eq!(client.stop().code(), Some(0));
    let said = run(scene.target.command()).ended(0).said();
    assert!(!said.contains("changed its files") && !key.is_symlink(), "{said}");
    assert_eq!(fs::read_link(deployed.join("..data")).unwrap(), Path::new(".gen-1"));
    let readers = Readers::start(&deployed, &scene.lineage.issued);
    let client = scene.target.start();
    scene.lineage.renew(&scene.world.ca);
    readers.expect(&scene.lineage.issued);
    let _ = scene.world.hook(&scene.lineage).ended(0);
    let _ = scene.world.server(&["--push"]).ended(0);
    assert!(key.is_symlink() && scene.target.holds(&scene.lineage), "{}", client.said());
    assert_eq!(fs::read_link(deployed.join("..data")).unwrap(), Path::new(".gen-2"), "and no generation of its own");
    assert_eq!(readers.stop().faults, Vec::<String>::new());
}

#[test]
fn a_generation_without_files_or_record_is_seen() {
    let deployed = Deployed::new();
    fs::create_dir(deployed.path(".gen-9")).unwrap();
    fs::remove_file(deployed.path("..data")).unwrap();
    symlink(".gen-9", deployed.path("..data")).unwrap();
    for said in [deployed.check(1), deployed.passes().ended(1).said()] {
        assert!(said.contains("what was deployed last is lost"), "{said}");
    }
    deployed.is_whole();
    let deployed = Deployed::new();
    fs::remove_file(deployed.path(".gen-2/.record.json")).unwrap();
    let key = deployed.path(".gen-2/privkey.pem");
    fs::write(&key, deployed.before.file("privkey.pem".parse().unwrap())).unwrap();
    for said in [deployed.check(1), deployed.passes().ended(1).said()] {
        assert!(said.contains("make no whole set"), "{said}");
    }
    fs::write(&key, deployed.issued.file("privkey.pem".parse().unwrap())).unwrap();
    let _ = deployed.passes().ended(0);
    deployed.is_whole();
    let deployed = Deployed::new();
    fs::remove_file(deployed.path("..data")).unwrap();
    fs::create_dir(deployed.path("..data")).unwrap();
    for said in [deployed.check(1), deployed.passes().ended(1).said()] {
        assert!(said.contains("`..data` is no link, so nothing can be put there; move it away"), "{said}");
    }
    fs::remove_dir(deployed.path("..data")).unwrap();
    let _ = deployed.passes().ended(0);
    deployed.is_whole();
    let mut update = deployed.pass.command("update_services: [{type: script, name: /bin/true}]\n");
    fs::remove_file(deployed.path("..data")).unwrap();
    update.arg("update");
    assert!(run(update).ended(1).said().contains("has lost its current generation"));
    let mut rollback = deployed.pass.command("");
    rollback.args(["rollback", "example.com"]);
    assert!(run(rollback).ended(1).said().contains("has lost its current generation"));
}

#[test]
fn a_mode_that_somebody_widened_is_said() {
    let deployed = Deployed::new();
    let key = deployed.path(".gen-2/privkey.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = deployed.check(0);
    let words = format!("`{}` has mode 0644, not 0600", deployed.path("privkey.pem").display());
    assert!(said.contains(&words), "{said}");
}

/// What was rolled back is not taken again, so what is there instead is mended from what it was made of.
#[test]
fn after_a_rollback_damage_is_mended_from_the_generation_before() {
    for damage in ["truncated", "unlinked", "emptied"] {
        let (mut scene, client) = Scene::deployed("");
        let first = scene.lineage.issued.clone();
        scene.lineage.renew(&scene.world.ca);
        let push = |world: &World, lineage| {
            let _ = world.hook(lineage).ended(0);
            world.server(&["--push"])
        };
        let _ = push(&scene.world, &scene.lineage).ended(0);
        scene.target.updates(&scene.lineage);
        let mut rollback = scene.target.command();
        rollback.args(["rollback", "example.com"]);
        let _ = run(rollback).ended(0);
        let deployed = scene.target.deployed("example.com");
        match damage {
            "truncated" => fs::write(deployed.join(".gen-3/privkey.pem"), "").unwrap(),
            "emptied" => {
                for name in ["cert.pem", "fullchain.pem", "privkey.pem"] {
                    fs::remove_file(deployed.join(".gen-3").join(name)).unwrap();
                }
            }
            _ => fs::remove_file(deployed.join("fullchain.pem")).unwrap(),
        }
        let live = scene.lineage.live.display().to_string();
        let said = scene.world.server(&["--push", "--lineage", &live, "--domains", "example.com"]).ended(3).said();
        assert!(said.contains("was rolled back here"), "{said}");
        for name in ["fullchain.pem", "privkey.pem"] {
            let there = fs::read_to_string(deployed.join(name)).unwrap();
            assert!(there == first.file(name.parse().unwrap()), "{damage}: {name}: {}", client.said());
        }
        if damage == "truncated" {
            until("its users are told", PATIENCE, || {
                let told = fs::read_to_string(deployed.join(".updates.json")).unwrap_or_default();
                (told.contains("\"generation\":4") && told.contains("done")).then_some(())
            });
        }
    }
}

/// Something at the target changes deployed files after each deployment: that is no reason to deploy without end.
#[test]
fn what_is_lost_again_and_again_waits_for_the_next_comparison() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let script = world.path("spoils");
    let chain = target.deployed("example.com").join("..data/fullchain.pem");
    fs::write(&script, format!("#!/bin/sh\necho x >>{}\necho >>$0.runs\n", chain.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    target.updates = false;
    target.extra = format!("update_services: [{{type: script, name: {}}}]\n", script.display());
    target.write_config();
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();
    let mut server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    server.says("web1 has lost example.com again, soon after it was delivered again");
    let runs = || fs::read_to_string(world.path("spoils.runs")).unwrap_or_default().lines().count();
    assert_eq!(runs(), 2, "{}", server.said());
}

#[test]
fn a_push_brings_back_what_it_finds_lost() {
    let (Scene { world, target, mut lineage }, client) = Scene::deployed("");
    drop(client);
    let text = fs::read_to_string(&target.config).unwrap();
    fs::write(&target.config, text.replace("update_delay: null", "update_delay: 1s")).unwrap();
    let client = target.start();
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    fs::remove_file(target.deployed("example.com").join("privkey.pem")).unwrap();
    // It asks when the update is due.
    let ran = until("it finds that", PATIENCE, || {
        Some(world.server(&["--push"])).filter(|ran| ran.said().contains("holds nothing of example.com any more"))
    });
    assert!(target.holds(&lineage), "{}\n{}", ran.said(), client.said());
    let _ = ran.ended(0);
}
