//! Sets that lack files of what is there, files that are cut, files that somebody else put: what fits is kept, what can
//! be made is made, what neither fits nor comes is waited for and said. Nothing that readers use goes missing.

use certdeploy_common::cert::FileName;
use certdeploy_common::cert::FileName::{Cert, Chain, Fullchain, Privkey};
use certdeploy_tests::ca::Validity;
use certdeploy_tests::sets::{ALL, Sets};
use certdeploy_tests::{World, sftp};

#[test]
fn a_fullchain_that_was_renewed_with_the_same_key_is_completed_from_what_is_there() {
    let mut scene = Sets::new("same-key");
    let first = scene.issue();
    scene.stage(&first, &[Chain, Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    scene.holds(&first, &ALL);
    let second = scene.issue_again(&first);
    scene.stage(&second, &[Fullchain]);
    let ran = scene.pass("").ended(0);
    scene.holds(&second, &ALL);
    assert!(ran.said().contains("Deployed lineage a.example"), "{}", ran.said());
    // The same again, whole: nothing new.
    scene.stage(&second, &[Chain, Fullchain, Privkey]);
    let ran = scene.pass("").ended(0);
    assert!(!ran.said().contains("Deployed lineage"), "{}", ran.said());
}

#[test]
fn a_half_whose_key_is_another_waits_quietly_and_then_loudly() {
    let mut scene = Sets::new("half");
    let first = scene.issue();
    scene.stage(&first, &[Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    let second = scene.issue();
    scene.stage(&second, &[Chain, Fullchain]);
    let ran = scene.pass("").ended(0);
    assert!(ran.said().contains("INFO") && ran.said().contains("waits for privkey.pem"), "{}", ran.said());
    scene.holds(&first, &[Cert, Fullchain, Privkey]);
    let ran = scene.pass("settle_time: 0\n").ended(1);
    assert!(ran.said().contains("ERROR") && ran.said().contains("waits for privkey.pem"), "{}", ran.said());
    assert!(ran.said().contains("the private key does not belong to the certificate"), "{}", ran.said());
    scene.stage(&second, &[Privkey]);
    let _ = scene.pass("settle_time: 0\n").ended(0);
    scene.holds(&second, &ALL);
}

#[test]
fn a_key_that_comes_first_waits_for_its_certificate() {
    let mut scene = Sets::new("key-first");
    let first = scene.issue();
    scene.stage(&first, &[Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    let second = scene.issue();
    scene.stage(&second, &[Privkey]);
    let ran = scene.pass("").ended(0);
    assert!(ran.said().contains("waits for cert.pem and fullchain.pem"), "{}", ran.said());
    scene.holds(&first, &[Cert, Fullchain, Privkey]);
    scene.stage(&second, &[Fullchain]);
    let _ = scene.pass("").ended(0);
    scene.holds(&second, &[Cert, Fullchain, Privkey]);
}

#[test]
fn a_chain_that_does_not_come_any_more_is_made_of_the_fullchain() {
    let mut scene = Sets::new("no-chain");
    let first = scene.issue();
    scene.stage(&first, &[Chain, Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    // Another issuer, so that a stale chain would be seen.
    let other = certdeploy_tests::Ca::new();
    let second = other.issue(&scene.names, Validity::usual(9));
    assert_ne!(first.chain, second.chain);
    scene.stage(&second, &[Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    scene.holds(&second, &ALL);
    // And the other way round.
    let third = other.issue(&scene.names, Validity::usual(10));
    scene.stage(&third, &[Cert, Chain, Privkey]);
    let _ = scene.pass("").ended(0);
    scene.holds(&third, &ALL);
}

#[test]
fn plain_files_are_taken_over_whole() {
    let mut scene = Sets::new("takeover");
    let first = scene.issue();
    scene.left_plain(&first, &[Chain, Fullchain, Privkey]);
    std::fs::write(scene.pass.path("certs/a.example/dhparam.pem"), "mine").unwrap();
    let other = certdeploy_tests::Ca::new();
    let second = other.issue(&scene.names, Validity::usual(9));
    scene.stage(&second, &[Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    scene.holds(&second, &ALL);
    assert_eq!(std::fs::read_to_string(scene.pass.path("certs/a.example/dhparam.pem")).unwrap(), "mine");
    let kept = scene.pass.path("certs/a.example/.gen-0");
    for name in [Chain, Fullchain, Privkey] {
        assert_eq!(std::fs::read_to_string(kept.join(name.as_str())).unwrap(), first.file(name), "{name}");
    }
}

#[test]
fn a_key_that_somebody_put_there_by_hand_stays_as_long_as_it_fits() {
    let mut scene = Sets::new("own-key");
    let first = scene.issue();
    scene.left_plain(&first, &[Privkey]);
    scene.stage(&first, &[Fullchain]);
    let _ = scene.pass("").ended(0);
    scene.holds(&first, &[Cert, Fullchain, Privkey]);
    let second = scene.issue_again(&first);
    scene.stage(&second, &[Fullchain]);
    let _ = scene.pass("").ended(0);
    scene.holds(&second, &[Cert, Fullchain, Privkey]);
    let third = scene.issue();
    scene.stage(&third, &[Fullchain]);
    let _ = scene.pass("settle_time: 0\n").ended(1);
    scene.holds(&second, &[Cert, Fullchain, Privkey]);
    // Taken away, it is not missed.
    std::fs::remove_file(scene.place(Privkey)).unwrap();
    let _ = scene.pass("settle_time: 0\n").ended(0);
    scene.holds(&third, &[Cert, Fullchain]);
}

#[test]
fn a_server_that_sends_no_key_does_not_take_away_or_belie_the_one_that_is_there() {
    let world = World::new();
    let target = world.target("web1", &["a.example"]);
    world.write_server(&[&target]);
    let config = std::fs::read_to_string(world.server_config()).unwrap();
    let config = config.replace("    domains:", "    needs_privkey: false\n    domains:");
    std::fs::write(world.server_config(), format!("push_retries: 0\n{config}")).unwrap();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let place = target.deployed("a.example");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("privkey.pem"), &lineage.issued.privkey).unwrap();
    let _client = target.start();
    let push = |lineage: &certdeploy_tests::Lineage| {
        let _ = world.hook(lineage).ended(0);
        world.server(&["--push"])
    };
    let _ = push(&lineage).ended(0);
    assert!(target.holds(&lineage), "the key that was there, behind its name, beside the new certificate");
    let had = target.snapshot();
    lineage.renew(&world.ca);
    let ran = push(&lineage).ended(3);
    assert!(ran.said().contains("privkey.pem that is deployed here did not come"), "{}", ran.said());
    assert_eq!(target.snapshot(), had);
    std::fs::remove_file(place.join("privkey.pem")).unwrap();
    let _ =
        world.server(&["--push", "--lineage", &lineage.live.display().to_string(), "--domains", "a.example"]).ended(0);
    assert_eq!(target.file("a.example", Fullchain).as_deref(), Some(lineage.issued.fullchain.as_str()));
    assert_eq!(target.file("a.example", Privkey), None);
}

#[test]
fn a_fullchain_cut_between_two_certificates_waits_while_it_may_grow() {
    let mut scene = Sets::new("cut-between");
    let first = scene.issue();
    scene.stage(&first, &[Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    let second = scene.issue();
    scene.stage(&second, &[Privkey]);
    scene.put(Fullchain, &second.cert);
    let ran = scene.pass("").ended(0);
    assert!(ran.said().contains("fewer certificates than the deployed one"), "{}", ran.said());
    scene.holds(&first, &[Cert, Fullchain, Privkey]);
    scene.put(Fullchain, &second.fullchain);
    let _ = scene.pass("").ended(0);
    scene.holds(&second, &[Cert, Fullchain, Privkey]);
    // Old enough, it is meant so.
    let third = scene.issue();
    scene.stage(&third, &[Privkey]);
    scene.put(Fullchain, &third.cert);
    let _ = scene.pass("settle_time: 0\n").ended(0);
    assert_eq!(scene.file(Fullchain).as_deref(), Some(third.cert.as_str()));
}

#[test]
fn junk_is_refused_at_once_and_a_cut_file_when_it_does_not_grow() {
    let mut scene = Sets::new("junk");
    let issued = scene.issue();
    scene.stage(&issued, &[Fullchain]);
    for junk in ["junk\n", "\u{0}\u{1}\u{2}", "-----BEGIN PRIVATE KEY-----\n!!!\n", "<html></html>"] {
        scene.put(Privkey, junk);
        let ran = scene.pass("").ended(1);
        assert!(ran.said().contains("InvalidKey: Invalid key "), "{junk:?}: {}", ran.said());
    }
    scene.put(Privkey, &"A".repeat(10 * 1024 * 1024));
    let ran = scene.pass("").ended(1);
    assert!(ran.said().contains("is larger than 16384 bytes"), "{}", ran.said());
    for length in [0, 5, 30, 100, issued.privkey.len() - 8] {
        scene.put(Privkey, &issued.privkey[..length]);
        let ran = scene.pass("").ended(0);
        assert!(ran.said().contains("is still arriving"), "{length}: {}", ran.said());
        let _ = scene.pass("settle_time: 0\n").ended(1);
    }
    assert!(!scene.place(Fullchain).exists());
    scene.put(Privkey, &issued.privkey);
    let _ = scene.pass("").ended(0);
    scene.holds(&issued, &[Cert, Fullchain, Privkey]);
}

#[test]
fn a_certificate_that_is_not_valid_yet_does_not_keep_out_those_that_are() {
    let mut scene = Sets::new("not-yet");
    let early = scene.world.ca.issue(&scene.names, Validity::from_tomorrow());
    scene.stage(&early, &[Fullchain, Privkey]);
    let ran = scene.pass("").ended(0);
    assert!(ran.said().contains("is not valid before"), "{}", ran.said());
    scene.holds(&early, &[Cert, Fullchain, Privkey]);
    let good = scene.issue();
    scene.stage(&good, &[Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    scene.holds(&good, &[Cert, Fullchain, Privkey]);
}

#[test]
fn two_halves_that_come_in_two_sessions_are_one_set() {
    let world = World::new();
    let target = world.target("web1", &["a.example"]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let _client = target.start();
    let put = |lineage: &certdeploy_tests::Lineage, names: &[FileName]| {
        let mut commands = "mkdir a.example\n".to_owned();
        for name in names {
            commands += &format!("put {}/{name} a.example/{name}\n", lineage.live.display());
        }
        let _ = sftp::batch(&world, target.port, &target.pinned, &commands).ended(0);
    };
    put(&lineage, &[Chain, Fullchain, Privkey]);
    target.updates(&lineage);
    for halves in [[&[Chain, Fullchain][..], &[Privkey][..]], [&[Privkey][..], &[Fullchain][..]]] {
        lineage.renew(&world.ca);
        put(&lineage, halves[0]);
        put(&lineage, halves[1]);
        target.receives(&lineage);
        target.updates(&lineage);
        assert_eq!(target.file("a.example", Chain).as_deref(), Some(lineage.issued.chain.as_str()));
    }
    // A half of another set must not keep out what is whole by itself.
    lineage.renew(&world.ca);
    put(&lineage, &[Privkey]);
    lineage.renew(&world.ca);
    put(&lineage, &[Chain, Fullchain]);
    put(&lineage, &[Fullchain, Privkey]);
    target.receives(&lineage);
    let incoming = target.source.join(".incoming");
    certdeploy_tests::until("staging is clean", certdeploy_tests::wait::PATIENCE, || {
        std::fs::read_dir(&incoming).is_ok_and(|mut left| left.next().is_none()).then_some(())
    });
}
