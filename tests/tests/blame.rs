//! Whose fault a failed update is. With `on_failure: rollback` files that never served are taken back, and nothing else:
//! not those that served before, not another lineage of the batch, and not a certificate for its new permissions.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, run};
use certdeploy_tests::status::line;
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::{Lineage, World, until};

/// Writes a script that notes whom it was told of and fails with many words, while there is a file `broken` in `folder`,
/// if one of them has what was issued last. Returns its entry.
fn picky(world: &World, folder: &Path, certs: &Path) -> String {
    let path = folder.join("update");
    let text = format!(
        "#!/bin/sh\necho $CERTDEPLOY_LINEAGES >>{folder}/told\ntest -e {folder}/broken || exit 0\n\
         for one in $CERTDEPLOY_LINEAGES; do\n\
         cmp -s {certs}/$one/fullchain.pem {live}/$one/fullchain.pem || continue\n\
         echo no good: $(printf %0400d 0) >&2\nexit 7\ndone\n",
        folder = folder.display(),
        certs = certs.display(),
        live = world.letsencrypt().join("live").display(),
    );
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    format!("update_services:\n  - {{type: script, name: {}, on_failure: rollback}}\n", path.display())
}

fn told(folder: &Path) -> Vec<String> {
    std::fs::read_to_string(folder.join("told")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Passes over lineages that are called `a.example`, `b.example`...
struct Scene {
    world: World,
    lineages: Vec<Lineage>,
    pass: Pass,
    /// The lines of the config.
    entry: String,
}

impl Scene {
    /// All lineages are staged.
    fn new(names: &[&str]) -> Self {
        let world = World::new();
        let lineages: Vec<Lineage> = names.iter().map(|name| world.lineage(name, &[name])).collect();
        let pass = Pass::over(&world, &lineages[0], "blame");
        let entry = picky(&world, &pass.path(""), &pass.path("certs"));
        let scene = Self { world, lineages, pass, entry };
        scene.lineages.iter().for_each(|lineage| scene.stage(lineage));
        scene
    }

    fn stage(&self, lineage: &Lineage) {
        let staged = self.pass.path("staging").join(&lineage.name);
        std::fs::create_dir_all(&staged).expect("a folder");
        for file in ["fullchain.pem", "privkey.pem"] {
            std::fs::copy(lineage.live.join(file), staged.join(file)).expect("copy");
        }
    }

    /// Renews and stages it; returns what it was before.
    fn renew(&mut self, number: usize) -> String {
        let old = self.lineages[number].issued.fullchain.clone();
        self.lineages[number].renew(&self.world.ca);
        self.stage(&self.lineages[number]);
        old
    }

    fn client(&self, lines: &str, words: &[&str]) -> Ran {
        let mut client = self.pass.command(&format!("keep_generations: 9\n{lines}"));
        client.args(words);
        run(client)
    }

    fn broken(&self, broken: bool) {
        match broken {
            true => std::fs::write(self.pass.path("broken"), "").expect("write"),
            false => std::fs::remove_file(self.pass.path("broken")).expect("mend"),
        }
    }

    fn deployed(&self, lineage: &str) -> String {
        std::fs::read_to_string(self.pass.path("certs").join(lineage).join("fullchain.pem")).expect("fullchain.pem")
    }

    fn generation(&self, lineage: &str) -> String {
        let link = std::fs::read_link(self.pass.path("certs").join(lineage).join("..data")).expect("a link");
        link.display().to_string()
    }

    fn ledger(&self, lineage: &str) -> String {
        std::fs::read_to_string(self.pass.path("certs").join(lineage).join(".updates.json")).expect("the ledger")
    }

    fn key_mode(&self) -> u32 {
        let key = self.pass.path("certs/a.example/privkey.pem").metadata().expect("privkey.pem");
        key.permissions().mode() & 0o7777
    }
}

#[test]
fn files_that_served_once_stay_when_an_update_fails_later() {
    let mut scene = Scene::new(&["a.example"]);
    let _ = scene.client(&scene.entry, &[]).ended(0);
    let old = scene.renew(0);
    let _ = scene.client(&scene.entry, &[]).ended(0);
    let new = scene.deployed("a.example");
    assert_ne!(old, new);
    scene.broken(true);
    for words in [&["update"][..], &["update", "--failed"], &[]] {
        let ran = scene.client(&scene.entry, words).ended(3);
        let why = "Not rolled back: the updates of lineage a.example went well with these files before; they stay";
        assert!(ran.stdout.contains(why), "{words:?}: {}", ran.said());
        assert!(scene.deployed("a.example") == new, "{words:?}: {}", ran.said());
        assert_eq!(scene.generation("a.example"), ".gen-2", "{words:?}");
        assert!(scene.ledger("a.example").contains("not rolled back: the updates"), "{}", scene.ledger("a.example"));
    }
    scene.broken(false);
    let _ = scene.client(&scene.entry, &["update", "--failed"]).ended(0);
    assert!(scene.ledger("a.example").contains("\"done\""), "{}", scene.ledger("a.example"));
}

#[test]
fn a_failed_first_deployment_stays_and_the_ledger_says_that_nothing_was_rolled_back() {
    let scene = Scene::new(&["a.example"]);
    scene.broken(true);
    let ran = scene.client(&scene.entry, &[]).ended(3);
    let why = "ot rolled back: lineage a.example has no earlier generation to go back to";
    assert!(ran.stdout.contains(why), "{}", ran.said());
    let ledger = scene.ledger("a.example");
    assert!(ledger.contains("no good") && ledger.contains(why), "{ledger}");
    assert_eq!(scene.deployed("a.example"), scene.lineages[0].issued.fullchain);
    assert_eq!((scene.generation("a.example").as_str(), told(&scene.pass.path("")).len()), (".gen-1", 1));
}

#[test]
fn new_permissions_that_an_update_fails_with_cost_nobody_the_certificate() {
    let mut scene = Scene::new(&["a.example"]);
    let entry = scene.entry.clone();
    let _ = scene.client(&entry, &[]).ended(0);
    let first = scene.renew(0);
    let _ = scene.client(&entry, &[]).ended(0);
    let second = scene.deployed("a.example");
    assert!(first != second && scene.key_mode() == 0o600);

    scene.broken(true);
    let wider = format!("{entry}file_permissions: {{privkey: {{mode: 0640}}}}\n");
    for words in [&[][..], &["update", "--failed"]] {
        let ran = scene.client(&wider, words).ended(3);
        let why = "the generation before of lineage a.example has the same certificate; it stays as it is";
        assert!(ran.stdout.contains(why), "{words:?}: {}", ran.said());
        assert!(scene.deployed("a.example") == second, "{words:?}: {}", ran.said());
        assert_eq!((scene.generation("a.example").as_str(), scene.key_mode()), (".gen-3", 0o640));
    }

    // A certificate that comes together with new permissions goes back by itself; these hold for what is put back.
    let _ = scene.renew(0);
    let narrower = format!("{entry}file_permissions: {{privkey: {{mode: 0400}}}}\n");
    let ran = scene.client(&narrower, &[]).ended(3);
    assert!(scene.deployed("a.example") == second, "{}", ran.said());
    assert_eq!(scene.key_mode(), 0o400, "{}", ran.said());
    assert!(scene.ledger("a.example").contains("rolled back to the files of generation 4"), "{}", ran.said());
}

#[test]
fn of_a_batch_those_go_back_that_never_served() {
    let mut scene = Scene::new(&["a.example", "b.example", "c.example"]);
    let entry = scene.entry.clone();
    let _ = scene.client(&entry, &[]).ended(0);
    let old = [scene.renew(0), scene.renew(1)];
    // Deployed, and nobody is told.
    let _ = scene.client("", &[]).ended(0);
    let third = scene.deployed("c.example");
    scene.broken(true);
    let ran = scene.client(&entry, &["update"]).ended(3);
    for (name, old) in ["a.example", "b.example"].iter().zip(&old) {
        assert!(scene.deployed(name) == *old, "{name}: {}", ran.said());
        assert_eq!(scene.generation(name), ".gen-3", "{name}");
        let ledger = scene.ledger(name);
        assert!(ledger.contains("rolled back to the files of generation 1 (serial "), "{ledger}");
        assert!(ledger.contains("no good"), "{ledger}");
    }
    assert!(scene.deployed("c.example") == third && scene.generation("c.example") == ".gen-1", "{}", ran.said());
    let ledger = scene.ledger("c.example");
    assert!(ledger.contains("not rolled back: the updates of lineage c.example went well"), "{ledger}");
    // Those that went back were told so, and the third alone is still to be told.
    let _ = scene.client(&entry, &["update", "--failed"]).ended(3);
    scene.broken(false);
    let _ = scene.client(&entry, &["update", "--failed"]).ended(0);
    let all = "a.example b.example c.example";
    assert_eq!(told(&scene.pass.path("")), [all, all, "a.example b.example", "c.example", "c.example"]);
}

#[test]
fn the_pusher_of_a_daemon_learns_that_it_was_rolled_back() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let folder = target.destination.with_file_name("");
    target.updates = false;
    target.extra = format!("update_retry_interval: 0.1\n{}", picky(&world, &folder, &target.destination));
    target.write_config();
    world.write_server(&[&target]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();
    let mut server = world.start_server();
    let _ = world.hook(&lineage).ended(0);
    let shown = |what: &str, good: &dyn Fn(&serde_json::Value) -> bool| {
        until(what, PATIENCE, || line(&world.status(), "web1", "example.com").filter(|line| good(line)).cloned())
    };
    let first = shown("the first is in use", &|line| line["update"] == "done");
    let old = lineage.issued.fullchain.clone();
    std::fs::write(folder.join("broken"), "").expect("write");
    lineage.renew(&world.ca);
    let _ = world.hook(&lineage).ended(0);
    let back = shown("it is back", &|line| line["update"] == "failed");
    let reason = back["update_reason"].as_str().expect("a reason");
    assert!(reason.contains("no good") && reason.contains("rolled back to the files of generation 1"), "{reason}");
    assert_eq!((&back["serial"], &back["generation"]), (&first["serial"], &3.into()), "{back}");
    assert_eq!(world.status()["fine"], false);
    assert_eq!(target.file("example.com", certdeploy_common::cert::FileName::Fullchain), Some(old));
    // Once told of what was put back, nobody runs anything again, and nobody pushes what was refused by its users.
    let more = holds_within(Duration::from_secs(2), || told(&folder).len() != 3);
    assert!(!more, "{:?}", told(&folder));

    assert_eq!(server.stop().code(), Some(0), "{}", server.said());
    std::fs::remove_file(folder.join("broken")).expect("mend");
    let path = lineage.live.display().to_string();
    let _ = world.server(&["--push", "--force", "--lineage", &path, "--domains", "example.com"]).ended(0);
    target.receives(&lineage);
    until("its users are told", PATIENCE, || (told(&folder).len() == 4).then_some(()));
}
