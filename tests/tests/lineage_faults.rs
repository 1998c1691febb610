//! Lineages that are not whole or not good: certbot killed inside its swap of links, files missing, mixed, empty, junk,
//! huge. Nothing of them is pushed; once they are whole they are, without anybody's doing.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use certdeploy_common::cert::FileName;
use certdeploy_tests::ca::Validity;
use certdeploy_tests::scene::Scene;
use certdeploy_tests::status::line;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, World, until};

/// What certbot's archive calls this file in this version.
fn archived(world: &World, name: FileName, version: u32) -> PathBuf {
    let file = name.as_str().replace(".pem", &format!("{version}.pem"));
    world.letsencrypt().join("archive/example.com").join(file)
}

fn point(lineage: &Lineage, name: FileName, version: u32) {
    let link = lineage.live.join(name.as_str());
    let _ = std::fs::remove_file(&link);
    let file = name.as_str().replace(".pem", &format!("{version}.pem"));
    symlink(format!("../../archive/{}/{file}", lineage.name), link).unwrap();
}

#[test]
fn certbot_killed_anywhere_inside_its_swap_pushes_nothing_until_it_is_whole() {
    let (mut scene, _client) = Scene::deployed("push_retries: 0\n");
    for version in 2..4 {
        let before = scene.target.snapshot();
        scene.lineage.renew(&scene.world.ca);
        // certbot removes a link and makes the new one, file by file; killed after each of these steps.
        for swapped in 0..FileName::ALL.len() {
            for removed in [false, true] {
                for (number, name) in FileName::ALL.into_iter().enumerate() {
                    point(&scene.lineage, name, if number < swapped { version } else { version - 1 });
                }
                if removed {
                    std::fs::remove_file(scene.lineage.live.join(FileName::ALL[swapped].as_str())).unwrap();
                }
                let whole_old = swapped == 0 && !removed;
                if whole_old {
                    continue;
                }
                let _ = scene.world.hook(&scene.lineage).ended(0);
                let pushed = scene.world.server(&["--push"]);
                assert_eq!(scene.target.snapshot(), before, "{swapped} links swapped: {}", pushed.said());
            }
        }
        FileName::ALL.into_iter().for_each(|name| point(&scene.lineage, name, version));
        let _ = scene.world.server(&["--push"]).ended(0);
        assert!(scene.target.holds(&scene.lineage), "whole again, and still owed");
    }
}

type Damage = fn(&Path);

#[test]
fn files_that_are_no_good_are_refused_with_a_reason_and_delivered_once_they_are_mended() {
    let cut: Damage = |file| {
        let text = std::fs::read(file).unwrap();
        std::fs::write(file, &text[..text.len() / 2]).unwrap();
    };
    let empty: Damage = |file| std::fs::write(file, "").unwrap();
    let junk: Damage = |file| std::fs::write(file, [0_u8, 159, 146, 150].repeat(500)).unwrap();
    let huge: Damage = |file| std::fs::write(file, vec![b'A'; 10 * 1024 * 1024]).unwrap();
    let fifo: Damage = |file| {
        std::fs::remove_file(file).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let cases: [(FileName, Damage, &str); 7] = [
        (FileName::Privkey, empty, "privkey.pem holds no PEM block"),
        (FileName::Fullchain, empty, "fullchain.pem holds no PEM block"),
        (FileName::Fullchain, junk, "fullchain.pem holds no PEM block"),
        (FileName::Privkey, cut, "privkey.pem has a PEM block that is cut"),
        (FileName::Fullchain, cut, "fullchain.pem has a PEM block that is cut"),
        (FileName::Fullchain, huge, "fullchain.pem is larger than 131072 bytes"),
        (FileName::Privkey, fifo, "privkey.pem is not a regular file"),
    ];
    let (mut scene, _client) = Scene::deployed("push_retries: 0\n");
    for (version, (name, damage, reason)) in (2..).zip(cases) {
        scene.lineage.renew(&scene.world.ca);
        let file = archived(&scene.world, name, version);
        let good = std::fs::read(&file).unwrap();
        damage(&file);
        let before = scene.target.snapshot();
        let _ = scene.world.hook(&scene.lineage).ended(0);
        let pushed = scene.world.server(&["--push"]).ended(3);
        assert!(pushed.said().contains(reason), "{reason:?} is not in:\n{}", pushed.said());
        assert_eq!(scene.target.snapshot(), before, "{reason}");
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, good).unwrap();
        let _ = scene.world.hook(&scene.lineage).ended(0);
        let _ = scene.world.server(&["--push"]).ended(0);
        assert!(scene.target.holds(&scene.lineage), "mended after: {reason}");
    }
}

#[test]
fn a_daemon_delivers_what_was_mended_by_itself() {
    let (mut scene, _client) = Scene::deployed("push_retries: 0\n");
    scene.lineage.renew(&scene.world.ca);
    let key = archived(&scene.world, FileName::Privkey, 2);
    let good = std::fs::read(&key).unwrap();
    // The key of another generation, under the right name.
    std::fs::write(&key, scene.world.ca.issue(&scene.lineage.domains, Validity::usual(9)).privkey).unwrap();
    let text = std::fs::read_to_string(scene.world.server_config()).unwrap();
    std::fs::write(scene.world.server_config(), format!("reconcile_interval: 1\n{text}")).unwrap();
    let server = scene.world.start_server();
    let _ = scene.world.hook(&scene.lineage).ended(0);
    until("it is refused", PATIENCE, || {
        let status = scene.world.status();
        line(&status, "web1", "example.com").filter(|line| line["state"] == "refused").map(|_| ())
    });
    std::fs::write(&key, good).unwrap();
    scene.target.receives(&scene.lineage);
    // A lineage that was deleted is owed no more, also while no daemon looks.
    drop(server);
    std::fs::write(&key, "").unwrap();
    let _ = scene.world.hook(&scene.lineage).ended(0);
    let _ = scene.world.server(&["--push"]).ended(3);
    std::fs::remove_dir_all(&scene.lineage.live).unwrap();
    let status = scene.world.status();
    assert_eq!(line(&status, "web1", "example.com").unwrap()["state"], "gone", "{status}");
    assert_eq!(status["fine"], true, "{status}");
}

/// Its renewal came without the hook, and cannot be had.
#[test]
fn a_lineage_that_goes_bad_is_no_matter_of_the_log_alone() {
    let (mut scene, _client) = Scene::deployed("push_retries: 0\nreconcile_interval: 1\n");
    scene.lineage.renew(&scene.world.ca);
    let key = archived(&scene.world, FileName::Privkey, 2);
    let good = std::fs::read_to_string(&key).unwrap();
    std::fs::write(&key, good.replace("PRIVATE", "ENCRYPTED PRIVATE")).unwrap();
    let server = scene.world.start_server();
    until("it is refused", PATIENCE, || {
        let status = scene.world.status();
        let refused = line(&status, "web1", "example.com").is_some_and(|line| line["state"] == "refused");
        (refused && status["fine"] == false).then_some(())
    });
    assert!(server.said().contains("privkey.pem is encrypted with a passphrase"), "{}", server.said());
    std::fs::write(&key, good).unwrap();
    scene.target.receives(&scene.lineage);
    until("all is well", PATIENCE, || (scene.world.status()["fine"] == true).then_some(()));
}

#[test]
fn what_a_target_does_not_need_is_not_demanded() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let text = std::fs::read_to_string(world.server_config()).unwrap();
    let text = text.replace("    domains:", "    needs_privkey: false\n    domains:");
    std::fs::write(world.server_config(), text).unwrap();
    let lineage = world.lineage("example.com", &["example.com"]);
    for name in [FileName::Privkey, FileName::Chain, FileName::Cert] {
        std::fs::remove_file(lineage.live.join(name.as_str())).unwrap();
    }
    let _client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    assert_eq!(target.file("example.com", FileName::Fullchain).as_deref(), Some(lineage.issued.fullchain.as_str()));
    assert_eq!(target.file("example.com", FileName::Privkey), None);
}

#[test]
fn an_empty_chain_matters_to_those_only_that_need_it() {
    let (mut scene, _client) = Scene::deployed("push_retries: 0\n");
    scene.lineage.renew(&scene.world.ca);
    std::fs::write(archived(&scene.world, FileName::Chain, 2), "").unwrap();
    let _ = scene.world.hook(&scene.lineage).ended(0);
    let _ = scene.world.server(&["--push"]).ended(0);
    let fullchain = Some(scene.lineage.issued.fullchain.clone());
    assert_eq!(scene.target.file("example.com", FileName::Fullchain), fullchain);
    let said = scene.world.server(&["check"]).said();
    assert!(said.contains("chain.pem holds no PEM block; it is left out"), "{said}");
    let text = std::fs::read_to_string(scene.world.server_config()).unwrap();
    let text = text.replace("    domains:", "    needs_chain: true\n    domains:");
    std::fs::write(scene.world.server_config(), text).unwrap();
    let _ = scene.world.hook(&scene.lineage).ended(0);
    let said = scene.world.server(&["--push"]).ended(3).said();
    assert!(said.contains("chain.pem holds no PEM block, and this target needs it"), "{said}");
    assert_eq!(scene.target.file("example.com", FileName::Fullchain), fullchain);
}

/// What a client says of a set that a plain peer has uploaded, whole, by its own lights.
#[test]
fn a_client_refuses_each_bad_set_with_a_reason_and_keeps_what_it_has() {
    let (mut scene, client) = Scene::deployed("");
    let other = scene.world.ca.issue(&scene.lineage.domains, Validity::usual(50));
    scene.lineage.renew(&scene.world.ca);
    let good = &scene.lineage.issued;
    let stranger = certdeploy_tests::Ca::new().issue(&scene.lineage.domains, Validity::usual(60));
    let expired = scene.world.ca.issue(&scene.lineage.domains, Validity::over());
    let crossed = format!("{}{}", good.cert, stranger.chain);
    let (cut, huge) = (&good.fullchain[..good.fullchain.len() - 40], "A".repeat(10 * 1024 * 1024));
    let cases: [(&str, &str, &str); 10] = [
        (&good.fullchain, &other.privkey, "privkey.pem: the private key does not belong to the certificate"),
        (&good.fullchain, "", "privkey.pem holds no PEM block"),
        ("", &good.privkey, "fullchain.pem holds no PEM block"),
        ("junk", &good.privkey, "fullchain.pem holds no PEM block"),
        (&good.privkey, &good.privkey, "fullchain.pem has an unexpected PEM block `PRIVATE KEY`"),
        (&good.fullchain, &good.cert, "privkey.pem has an unexpected PEM block `CERTIFICATE`"),
        (cut, &good.privkey, "fullchain.pem has a PEM block that is cut"),
        (&crossed, &good.privkey, "certificate 1 of fullchain.pem was not issued by the one after it"),
        (&expired.fullchain, &expired.privkey, "expired at"),
        (&huge, &good.privkey, "131072"),
    ];
    let had = scene.target.snapshot();
    let folder = scene.world.path("bad");
    std::fs::create_dir(&folder).unwrap();
    let put = |fullchain: &str, privkey: &str| {
        std::fs::write(folder.join("fullchain.pem"), fullchain).unwrap();
        std::fs::write(folder.join("privkey.pem"), privkey).unwrap();
        let commands = format!("-mkdir example.com\nput {}/*.pem example.com/\n", folder.display());
        certdeploy_tests::sftp::batch(&scene.world, scene.target.port, &scene.target.pinned, &commands)
    };
    for (fullchain, privkey, reason) in cases {
        let before = client.said().len();
        let ran = put(fullchain, privkey);
        until(&format!("it says {reason:?}; it said {}", &client.said()[before..]), PATIENCE, || {
            (ran.said() + &client.said()[before..]).contains(reason).then_some(())
        });
        assert_eq!(scene.target.snapshot(), had, "{reason}");
    }
    let _ = put(&good.fullchain, &good.privkey).ended(0);
    scene.target.receives(&scene.lineage);
}
