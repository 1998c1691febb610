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
    let cases: [(FileName, Damage, &str); 8] = [
        (FileName::Privkey, empty, "privkey.pem holds no PEM block"),
        (FileName::Fullchain, empty, "fullchain.pem holds no PEM block"),
        (FileName::Chain, empty, "chain.pem holds no PEM block"),
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
