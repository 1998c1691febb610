//! The power fails before each durable step of the hook and of a deployment. After it comes back nothing that was
//! promised is missing, nothing is mixed, and the next run puts everything right.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use certdeploy_common::cert::FileName;
use certdeploy_tests::ca::Issued;
use certdeploy_tests::loop_image::LoopImage;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::power::{Step, died, died_in_the_end, dying_at, last_step, steps, watched, without_syncs};
use certdeploy_tests::process::{Daemon, run};
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::{Lineage, Target, World};

fn ready(name: &str) -> bool {
    can_run(name, &[Need::Root, Need::Program("strace"), Need::Program("mkfs.ext4"), Need::Program("mount")])
}

#[test]
fn a_hook_that_said_0_has_its_renewal_on_the_disk() {
    if !ready("power_cut::a_hook_that_said_0") {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let mut image = LoopImage::new();
    world.write_server_with(&[&target], &image.mount.join("queue"), "");
    let _client = target.start();
    let trace = world.path("trace");
    // First with no queue yet, then with one that has a history.
    for history in [false, true] {
        if history {
            image.restore();
            let _ = world.hook(&lineage).ended(0);
            let _ = world.server(&["--push"]).ended(0);
        }
        image.keep();
        lineage.renew(&world.ca);
        let whole = run(watched(&world.hook_command(&lineage), &trace)).ended(0);
        assert!(!died_in_the_end(&trace, whole.id));
        let steps = steps(&trace);
        assert!(steps.iter().any(|step| step.call.ends_with("sync")), "the hook syncs nothing: {steps:?}");
        for step in steps.iter().map(Some).chain([None]) {
            image.restore();
            lineage.renew(&world.ca);
            let hook = match step {
                Some(step) => run(dying_at(&world.hook_command(&lineage), step, &trace)),
                None => run(watched(&world.hook_command(&lineage), &trace)).ended(0),
            };
            let _ = died_in_the_end(&trace, hook.id);
            image.cut_power();
            let at = format!("history {history}, step {step:?}, {}", last_step(&trace));
            if hook.code == Some(0) {
                let _ = world.server(&["--push"]).ended(0);
                assert!(target.holds(&lineage), "a hook said 0 and its renewal is not in the queue: {at}");
            } else {
                let _ = world.hook(&lineage).ended(0);
                let _ = world.server(&["--push"]).ended(0);
                assert!(target.holds(&lineage), "the queue does not work after {at}");
            }
        }
        let states = steps.len() + 1;
        println!("hook, history {history}: {states} states");
    }
}

#[test]
fn a_hook_without_its_syncs_would_be_found_out() {
    if !ready("power_cut::a_hook_without_its_syncs") {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let mut image = LoopImage::new();
    world.write_server_with(&[&target], &image.mount.join("queue"), "");
    let _client = target.start();
    let _ = run(without_syncs(&world.hook_command(&lineage), &world.path("trace"))).ended(0);
    image.cut_power();
    let _ = world.server(&["--push"]);
    assert!(!target.holds(&lineage), "the power cut takes nothing: the tests beside this one prove nothing");
}

/// What a reader finds: a whole pair that was issued together, by `..data` and by path.
fn deployed_pair(target: &Target, known: &BTreeMap<&str, &Issued>, at: &str) -> String {
    let lineage = target.deployed("example.com");
    let read = |folder: &Path, name: FileName| {
        std::fs::read_to_string(folder.join(name.as_str())).unwrap_or_else(|error| panic!("{at}: {name}: {error}"))
    };
    let mut found = Vec::new();
    for folder in [lineage.join("..data"), lineage.clone()] {
        let pair =
            (read(&folder, FileName::Fullchain), read(&folder, FileName::Privkey), read(&folder, FileName::Cert));
        let which = known
            .iter()
            .find(|(_, issued)| (&pair.0, &pair.1, &pair.2) == (&issued.fullchain, &issued.privkey, &issued.cert));
        found.push(which.unwrap_or_else(|| panic!("{at}: {} holds a mix", folder.display())).0.to_string());
    }
    assert_eq!(found[0], found[1], "{at}");
    found.swap_remove(0)
}

struct Disk {
    world: World,
    target: Target,
    lineage: Lineage,
    image: LoopImage,
    old: Issued,
}

/// A client whose `source` and `destination` are on the image, with one generation deployed.
fn disk() -> Disk {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let image = LoopImage::new();
    for name in ["certs", "staging"] {
        std::fs::create_dir(image.mount.join(name)).unwrap();
    }
    target.move_to(&image.mount.join("certs"), &image.mount.join("staging"));
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    {
        let _client = target.start();
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        target.updates(&lineage);
    }
    let old = lineage.issued.clone();
    lineage.renew(&world.ca);
    Disk { world, target, lineage, image, old }
}

#[test]
fn one_pass_swaps_whole_pairs_whenever_the_power_fails() {
    if !ready("power_cut::one_pass") {
        return;
    }
    let Disk { world, target, lineage, mut image, old } = disk();
    stage(&target, &lineage);
    image.keep();
    let known = BTreeMap::from([("old", &old), ("new", &lineage.issued)]);
    let trace = world.path("trace");
    let mut states = BTreeMap::<String, u32>::new();
    let whole = run(watched(&target.command(), &trace)).ended(0);
    assert!(!died_in_the_end(&trace, whole.id));
    for step in steps(&trace).iter().map(Some).chain([None]) {
        image.restore();
        let _ = std::fs::remove_file(&target.runs);
        let pass = match step {
            Some(step) => run(dying_at(&target.command(), step, &trace)),
            None => run(watched(&target.command(), &trace)).ended(0),
        };
        let _ = died_in_the_end(&trace, pass.id);
        image.cut_power();
        let at = format!("step {step:?}, {}", last_step(&trace));
        let pair = deployed_pair(&target, &known, &at);
        assert!(pass.code != Some(0) || pair == "new", "the pass said 0 and the old pair is there: {at}");
        *states.entry(pair).or_default() += 1;
        let _ = target.one_pass().ended(0);
        assert_eq!(deployed_pair(&target, &known, &at), "new", "the next pass finishes the work: {at}");
        assert!(target.updated(&lineage), "the script never ran for the new pair: {at}");
    }
    println!("one pass: {states:?}");
    assert!(states.contains_key("old") && states.contains_key("new"), "{states:?}");
}

/// Puts what was issued last into `source`, as a plain sshd would have.
fn stage(target: &Target, lineage: &Lineage) {
    let staged = target.source.join("example.com");
    std::fs::create_dir_all(&staged).unwrap();
    for name in [FileName::Fullchain, FileName::Privkey] {
        let file = staged.join(name.as_str());
        std::fs::write(&file, lineage.issued.file(name)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        // Long ago: a pass leaves alone what may still be growing.
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    }
}

#[test]
fn a_pass_without_its_syncs_would_be_found_out() {
    if !ready("power_cut::a_pass_without_its_syncs") {
        return;
    }
    let Disk { world, target, lineage, mut image, old: _ } = disk();
    stage(&target, &lineage);
    image.keep();
    let _ = run(without_syncs(&target.command(), &world.path("trace"))).ended(0);
    image.cut_power();
    assert!(!target.holds(&lineage), "the power cut takes nothing: the tests beside this one prove nothing");
}

#[test]
fn what_a_daemon_acknowledged_is_on_its_disk() {
    if !ready("power_cut::what_a_daemon_acknowledged") {
        return;
    }
    let Disk { world, target, lineage, mut image, old } = disk();
    image.keep();
    let known = BTreeMap::from([("old", &old), ("new", &lineage.issued)]);
    let trace = world.path("trace");
    let mut states = BTreeMap::<String, u32>::new();
    let domains = lineage.renewed_domains();
    let live = lineage.live.display().to_string();
    let push = || world.server(&["--push", "--lineage", &live, "--domains", &domains]);
    let mut daemon = |step: Option<&Step>| {
        image.restore();
        let _ = std::fs::remove_file(&target.runs);
        target.port_falls_free();
        let mut command = target.command();
        command.arg("--daemon");
        let command = step.map_or_else(|| watched(&command, &trace), |step| dying_at(&command, step, &trace));
        let mut client = Daemon::start("client", command, &target.log);
        let came_up = holds_within(PATIENCE, || client.said().contains("Listening for") || !client.runs());
        assert!(came_up, "{}", client.said());
        let pushed = push();
        if pushed.code == Some(0) {
            // What follows the receipt has its steps, too.
            let _ = holds_within(Duration::from_secs(5), || target.updated(&lineage) || !client.runs());
            let _ = holds_within(Duration::from_millis(100), || died(&trace));
        }
        // Whichever of its processes was hit, the power is gone for all of them.
        client.kill();
        image.cut_power();
        let at = format!("step {step:?}, {}", last_step(&trace));
        let pair = deployed_pair(&target, &known, &at);
        assert!(pushed.code != Some(0) || pair == "new", "acknowledged, and not on the disk: {at}");
        assert!(step.is_some() || pushed.code == Some(0), "{}", pushed.said());
        *states.entry(pair).or_default() += 1;
        let mut recovered = target.start();
        let _ = push().ended(0);
        assert_eq!(deployed_pair(&target, &known, &at), "new", "{at}");
        target.updates(&lineage);
        recovered.kill();
    };
    daemon(None);
    for step in steps(&trace) {
        daemon(Some(&step));
    }
    println!("daemon: {states:?}");
    assert!(states.contains_key("old") && states.contains_key("new"), "{states:?}");
}
