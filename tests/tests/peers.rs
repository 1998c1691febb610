//! The pusher against programs that are not ours: three lineages each, by the daemon, at a renewal, and by `--push`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::peer::Peer;
use certdeploy_tests::python::Python;
use certdeploy_tests::sshd::Serves;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Daemon, Lineage, World, dropbear, proftpd, sshd, until};

const NAMES: [&str; 3] = ["one.example", "two.example", "three.example"];

fn three(world: &World) -> Vec<Lineage> {
    NAMES.iter().map(|name| world.lineage(name, &[name])).collect()
}

fn domains() -> Vec<String> {
    NAMES.iter().map(|name| (*name).to_owned()).collect()
}

/// Every file below `folder`, with its mode.
fn files(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), meta.permissions().mode() & 0o7777));
        }
    }
    found
}

fn staged(folder: &Path, lineage: &Lineage) -> bool {
    let file = |name: &str| std::fs::read_to_string(folder.join(&lineage.name).join(name)).ok();
    file("privkey.pem").as_ref() == Some(&lineage.issued.privkey)
        && file("fullchain.pem").as_ref() == Some(&lineage.issued.fullchain)
}

/// Hooks and renews three lineages past the daemon, then past `--push`; `arrived` waits for one.
fn three_times_three(world: &World, peer: &Peer, mut arrived: impl FnMut(&Lineage)) {
    world.write_server_for(&[peer], "");
    let mut lineages = three(world);
    let mut server = world.start_server();
    for issue in 1..=2 {
        for lineage in &lineages {
            let _ = world.hook(lineage).ended(0);
        }
        lineages.iter().for_each(&mut arrived);
        until(&format!("the server knows of issue {issue}:\n{}", server.said()), PATIENCE, || {
            let status = world.status();
            lineages
                .iter()
                .all(|lineage| certdeploy_tests::status::acknowledged(&status, &peer.name, lineage))
                .then_some(())
        });
        lineages.iter_mut().for_each(|lineage| lineage.renew(&world.ca));
    }
    assert!(server.stop().success());
    for lineage in &lineages {
        let _ = world.hook(lineage).ended(0);
    }
    let _ = world.server(&["--push"]).ended(0);
    lineages.iter().for_each(&mut arrived);
}

/// The same with a peer that only keeps what it gets.
fn kept(world: &World, (mut peer, daemon): (Peer, Daemon)) {
    peer.domains = domains();
    let folder = peer.staged.clone();
    three_times_three(world, &peer, |lineage| {
        until(&format!("{} arrived; the peer said:\n{}", lineage.name, daemon.said()), PATIENCE, || {
            staged(&folder, lineage).then_some(())
        });
    });
    for name in NAMES {
        let found = files(&folder.join(name));
        let mut names: Vec<_> = found.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["fullchain.pem", "manifest.json", "privkey.pem"], "nothing else is left at the peer");
        for (path, mode) in &found {
            assert_eq!(mode & 0o177, 0, "{} has {mode:o}", path.display());
        }
    }
}

const MOUNT: [Need; 3] = [Need::Root, Need::Program("unshare"), Need::Program("mount")];

fn needs(program: &'static str) -> Vec<Need> {
    MOUNT.into_iter().chain([Need::Program(program)]).collect()
}

#[test]
fn sshd_itself_gets_three_lineages() {
    if can_run("peers::sshd_itself", &needs("sshd")) {
        let world = World::new();
        kept(&world, sshd::start(&world.path("peer"), &world.pusher_key, Serves::Internal));
    }
}

#[test]
fn sshd_with_a_chroot_gets_three_lineages() {
    if can_run("peers::sshd_with_a_chroot", &needs("sshd")) {
        let world = World::new();
        // sshd takes no root below /tmp, where everybody may write.
        let root = tempfile::Builder::new().prefix("certdeploy-").tempdir_in("/run").unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        kept(&world, sshd::start(&world.path("peer"), &world.pusher_key, Serves::Chroot(root.path())));
    }
}

#[test]
fn sftp_server_below_sshd_gets_three_lineages() {
    if can_run("peers::sftp_server_below_sshd", &needs("sshd")) {
        let world = World::new();
        kept(&world, sshd::start(&world.path("peer"), &world.pusher_key, Serves::External));
    }
}

#[test]
fn sftp_server_below_dropbear_gets_three_lineages() {
    if can_run("peers::sftp_server_below_dropbear", &needs("dropbear")) {
        let world = World::new();
        kept(&world, dropbear::start(&world.path("peer"), &world.pusher_key));
    }
}

#[test]
fn proftpd_gets_three_lineages() {
    if can_run("peers::proftpd", &needs("proftpd")) {
        let world = World::new();
        kept(&world, proftpd::start(&world.path("peer"), &world.pusher_key));
    }
}

#[test]
fn what_a_push_that_was_cut_left_at_sshd_is_removed_by_a_later_one() {
    if !can_run("peers::what_a_push_that_was_cut_left", &needs("sshd")) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("one.example", &["one.example"]);
    let (mut peer, _daemon) = sshd::start(&world.path("peer"), &world.pusher_key, Serves::Internal);
    peer.domains = domains();
    world.write_server_for(&[&peer], "");
    let folder = peer.staged.join("one.example");
    std::fs::create_dir(&folder).unwrap();
    let left = format!(".privkey.pem.{}.part", "0a".repeat(16));
    let fresh = format!(".privkey.pem.{}.part", "0b".repeat(16));
    let foreign = ".privkey.pem.backup.part".to_owned();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600);
    for (name, at) in [(&left, Some(long_ago)), (&fresh, None), (&foreign, Some(long_ago))] {
        let file = std::fs::File::create(folder.join(name)).unwrap();
        at.map_or(Ok(()), |at| file.set_modified(at)).unwrap();
    }
    std::process::Command::new("chown").args(["-R", "4711:4711"]).arg(&folder).status().unwrap();
    let _ = world.hook(&lineage).ended(0);
    let pushed = world.server(&["--push"]).ended(0);
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        [fresh, foreign, "fullchain.pem".to_owned(), "manifest.json".to_owned(), "privkey.pem".to_owned()]
    );
    assert!(pushed.said().contains(&left), "{}", pushed.said());
}

/// What a Python client may be asked; it answers anything else with an error, or dies.
const PYTHON_VERBS: [&str; 5] = ["stat", "mkdir", "open", "write", "close"];

fn python(version: &'static str) {
    if !can_run(&format!("peers::python {version}"), &[Need::Python(version)]) {
        return;
    }
    let world = World::new();
    let mut python = Python::start(version, &world.path("peer"), &world.pusher_key);
    python.peer.domains = domains();
    three_times_three(&world, &python.peer, |lineage| python.deploys(lineage));
    assert!(python.daemon.runs(), "it lives:\n{}", python.daemon.said());
    for name in NAMES {
        let key = std::fs::metadata(python.destination.join(name).join("privkey.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o7777, 0o600, "{name}");
    }
    assert_eq!(files(&python.peer.staged), [], "nothing is left in its source");
    // 0.2 does not say what it is asked; it is asked the same.
    let requests = python.requests();
    let strange: Vec<_> = requests.iter().filter(|verb| !PYTHON_VERBS.contains(&verb.as_str())).collect();
    assert!((!requests.is_empty() || version == "0.2.2") && strange.is_empty(), "{strange:?} of {requests:?}");
    assert_eq!(python.connections(), 9, "one for each push");
}

#[test]
fn the_python_client_0_5_4_deploys_three_lineages_and_lives() {
    python("0.5.4");
}

#[test]
fn the_python_client_0_2_2_deploys_three_lineages_and_lives() {
    python("0.2.2");
}
