//! Going back: the Python program runs over what ours deployed, then ours runs again. Both work, nobody's files are lost,
//! and ours says of each lineage what readers really see.

use std::path::PathBuf;

use certdeploy_common::cert::FileName;
use certdeploy_tests::ca::Issued;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{command, run};
use certdeploy_tests::python::program;
use certdeploy_tests::small_disk::SmallDisk;
use certdeploy_tests::{Lineage, World};

const VERSIONS: [&str; 2] = ["0.5.4", "0.2.2"];
/// What the Python server uploads.
const UPLOADED: [FileName; 3] = [FileName::Chain, FileName::Fullchain, FileName::Privkey];

struct Scene {
    lineage: Lineage,
    pass: Pass,
    /// Another file system below `destination`, where the Python program writes through links.
    _apart: Option<SmallDisk>,
    /// Last: its directory goes when nothing is mounted there any more.
    world: World,
}

impl Scene {
    fn new(version: &str, apart: bool) -> Self {
        let world = World::new();
        let lineage = world.lineage("a.example", &["a.example"]);
        let pass = Pass::over(&world, &lineage, version);
        let _apart = apart.then(|| SmallDisk::mount(pass.path("certs"), "size=4m,mode=755"));
        Self { world, lineage, pass, _apart }
    }

    fn stage(&mut self, renew: bool) {
        if renew {
            self.lineage.renew(&self.world.ca);
        }
        let staged = self.pass.path("staging/a.example");
        std::fs::create_dir_all(&staged).unwrap();
        for name in UPLOADED {
            std::fs::copy(self.lineage.live.join(name.as_str()), staged.join(name.as_str())).unwrap();
        }
    }

    fn ours(&self) -> String {
        run(self.pass.command("keep_generations: 9\n")).ended(0).said()
    }

    fn python(&self, version: &str) {
        let config = self.pass.path("python.yml");
        let (source, destination) = (self.pass.path("staging"), self.pass.path("certs"));
        let text = format!("source: {}\ndestination: {}\nlog_level: DEBUG\n", source.display(), destination.display());
        std::fs::write(&config, text).unwrap();
        let mut client = command(program(version, "certdeploy-client").expect("made by tests/setup"));
        client.arg("--config").arg(&config);
        let _ = run(client).ended(0);
    }

    fn place(&self, name: &str) -> PathBuf {
        self.pass.path("certs/a.example").join(name)
    }

    #[track_caller]
    fn shows(&self, issued: &Issued, names: &[FileName]) {
        for name in names {
            let text = std::fs::read_to_string(self.place(name.as_str())).unwrap();
            assert!(text == issued.file(*name), "{name} is another");
        }
    }

    fn generation(&self) -> PathBuf {
        std::fs::read_link(self.place("..data")).unwrap()
    }

    fn is_ours(&self) -> bool {
        FileName::ALL.into_iter().all(|name| self.place(name.as_str()).is_symlink())
    }
}

fn there_and_back(version: &str, apart: bool) {
    let mut scene = Scene::new(version, apart);
    scene.stage(false);
    let _ = scene.ours();
    let first = scene.lineage.issued.clone();
    scene.shows(&first, &FileName::ALL);

    scene.stage(true);
    scene.python(version);
    let second = scene.lineage.issued.clone();
    scene.shows(&second, &UPLOADED);

    // Ours again, with nothing new: what readers see is a generation now, and whole.
    let said = scene.ours();
    assert!(said.contains("somebody else has changed its files"), "{said}");
    scene.shows(&second, &FileName::ALL);
    assert!(scene.is_ours());
    let generation = scene.generation();
    let said = scene.ours();
    assert!(!said.contains("generation") && scene.generation() == generation, "once: {said}");
    if !apart {
        // Nothing has written into the old ones.
        for name in FileName::ALL {
            let kept = std::fs::read_to_string(scene.place(".gen-1").join(name.as_str())).unwrap();
            assert!(kept == first.file(name), "{name} of the first generation");
        }
        let mut rollback = scene.pass.command("keep_generations: 9\n");
        rollback.args(["rollback", "a.example"]);
        let _ = run(rollback).ended(0);
        scene.shows(&first, &FileName::ALL);
    }

    scene.stage(true);
    let _ = scene.ours();
    scene.shows(&scene.lineage.issued.clone(), &FileName::ALL);

    // And once more, with an upload that waits for ours already.
    scene.stage(true);
    scene.python(version);
    scene.shows(&scene.lineage.issued.clone(), &UPLOADED);
    scene.stage(true);
    let _ = scene.ours();
    scene.shows(&scene.lineage.issued.clone(), &FileName::ALL);
    assert!(scene.is_ours());
}

#[test]
fn the_python_program_replaces_our_links_and_ours_takes_over_again() {
    for version in VERSIONS {
        if can_run("going_back::replaces_our_links", &[Need::Python(version)]) {
            there_and_back(version, false);
        }
    }
}

#[test]
fn the_python_program_writes_through_our_links_and_ours_notices() {
    for version in VERSIONS {
        if can_run("going_back::writes_through_our_links", &[Need::Python(version), Need::Root]) {
            there_and_back(version, true);
        }
    }
}

#[test]
fn a_generation_that_was_damaged_is_not_held_and_is_delivered_again() {
    let world = World::new();
    let target = world.target("web1", &["a.example"]);
    world.write_server_with(&[&target], &world.queue(), "reconcile_interval: 1\n");
    let lineage = world.lineage("a.example", &["a.example"]);
    let mut client = target.start();
    let _server = world.start_server();
    target.updates(&lineage);
    let _ = client.stop();
    let key = target.deployed("a.example").join("..data/privkey.pem");
    std::fs::write(&key, "junk").unwrap();
    let mut client = target.start();
    client.says("make no whole set");
    target.receives(&lineage);
    assert_eq!(target.generation("a.example"), Some(PathBuf::from(".gen-2")));
}
