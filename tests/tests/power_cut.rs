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
use certdeploy_tests::power::{died, died_in_the_end, dying_at, last_step};
use certdeploy_tests::process::{Daemon, run};
use certdeploy_tests::wait::holds_within;
use certdeploy_tests::{Lineage, Target, World};

/// More steps than any of these programs takes in one thread.
const MOST: u32 = 400;

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
    let mut image = LoopImage::new(&world.path("disk"));
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
        let mut states = 0;
        for step in 1..=MOST {
            image.restore();
            lineage.renew(&world.ca);
            let hook = run(dying_at(&world.hook_command(&lineage), step, &trace));
            let unhurt = !died_in_the_end(&trace, hook.id);
            image.cut_power();
            states += 1;
            let at = format!("history {history}, step {step}, {}", last_step(&trace));
            if hook.code == Some(0) {
                let _ = world.server(&["--push"]).ended(0);
                assert!(target.holds(&lineage), "a hook said 0 and its renewal is not in the queue: {at}");
            } else {
                let _ = world.hook(&lineage).ended(0);
                let _ = world.server(&["--push"]).ended(0);
                assert!(target.holds(&lineage), "the queue does not work after {at}");
            }
            if unhurt {
                assert_eq!(hook.code, Some(0), "{}", hook.said());
                break;
            }
        }
        assert!((3..MOST).contains(&states), "{states} states: the hook synced nothing, or never ended");
        println!("hook, history {history}: {states} states");
    }
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
    let image = LoopImage::new(&world.path("disk"));
    for name in ["certs", "staging"] {
        std::fs::create_dir(image.mount.join(name)).unwrap();
    }
    target.move_to(&image.mount.join("certs"), &image.mount.join("staging"));
    world.write_server(&[&target]);
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
    let staged = target.source.join("example.com");
    std::fs::create_dir_all(&staged).unwrap();
    for name in [FileName::Fullchain, FileName::Privkey] {
        let file = staged.join(name.as_str());
        std::fs::write(&file, lineage.issued.file(name)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    image.keep();
    let known = BTreeMap::from([("old", &old), ("new", &lineage.issued)]);
    let trace = world.path("trace");
    let mut states = BTreeMap::<String, u32>::new();
    for step in 1..=MOST {
        image.restore();
        let _ = std::fs::remove_file(&target.runs);
        let pass = run(dying_at(&target.command(), step, &trace));
        let unhurt = !died_in_the_end(&trace, pass.id);
        image.cut_power();
        let at = format!("step {step}, {}", last_step(&trace));
        let pair = deployed_pair(&target, &known, &at);
        assert!(pass.code != Some(0) || pair == "new", "the pass said 0 and the old pair is there: {at}");
        *states.entry(pair).or_default() += 1;
        let _ = target.one_pass().ended(0);
        assert_eq!(deployed_pair(&target, &known, &at), "new", "the next pass finishes the work: {at}");
        assert!(target.updated(&lineage), "the script never ran for the new pair: {at}");
        if unhurt {
            break;
        }
    }
    println!("one pass: {states:?}");
    assert!(states.contains_key("old") && states.contains_key("new"), "{states:?}");
    assert!(states.values().sum::<u32>() < MOST);
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
    for step in 1..=MOST {
        image.restore();
        let _ = std::fs::remove_file(&target.runs);
        target.port_falls_free();
        let mut command = target.command();
        command.arg("--daemon");
        let mut client = Daemon::start("client", dying_at(&command, step, &trace), &target.log);
        let came_up =
            holds_within(Duration::from_secs(20), || client.said().contains("Listening for") || !client.runs());
        assert!(came_up, "{}", client.said());
        let pushed = push();
        let at = format!("step {step}, {}", last_step(&trace));
        if pushed.code == Some(0) {
            // What follows the receipt has its steps, too.
            let _ = holds_within(Duration::from_secs(5), || target.updated(&lineage) || !client.runs());
            let _ = holds_within(Duration::from_millis(200), || died(&trace));
        }
        // Which of its processes was hit, if any; then the power is gone for all of them.
        let unhurt = pushed.code == Some(0) && !died(&trace);
        client.kill();
        image.cut_power();
        let pair = deployed_pair(&target, &known, &at);
        assert!(pushed.code != Some(0) || pair == "new", "acknowledged, and not on the disk: {at}");
        *states.entry(pair).or_default() += 1;
        let recovered = target.start();
        let _ = push().ended(0);
        assert_eq!(deployed_pair(&target, &known, &at), "new", "{at}");
        target.updates(&lineage);
        drop(recovered);
        if unhurt {
            assert_eq!(pushed.code, Some(0), "{}", pushed.said());
            break;
        }
    }
    println!("daemon: {states:?}");
    assert!(states.contains_key("old") && states.contains_key("new"), "{states:?}");
    assert!(states.values().sum::<u32>() < MOST);
}
