//! Bad input: each kind has its message, and changes nothing.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use certdeploy_common::cert::FileName;
use certdeploy_tests::ca::Validity;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{command, run};
use certdeploy_tests::scene::Scene;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::wire_tap::WireTap;
use certdeploy_tests::{Lineage, Ran, World, sftp, until};

#[track_caller]
fn refused(ran: &Ran, needles: &[&str]) {
    assert_ne!(ran.code, Some(0), "{}", ran.said());
    for needle in needles {
        assert!(ran.said().contains(needle), "{needle:?} is not in:\n{}", ran.said());
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_right_one() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let place = |path: &Path, key: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        let (line, text) = text.lines().enumerate().find(|(_, line)| line.contains(key)).unwrap();
        format!("{}:{}:{}: ", path.display(), line + 1, text.find(key).unwrap() + 1)
    };
    edit(&world.server_config(), "    pubkey:", "    pubkye:");
    let at = place(&world.server_config(), "pubkye");
    let words = ["unknown key \"pubkye\" (did you mean \"pubkey\"?)", &at, "ERROR:certdeploy-server: "];
    refused(&world.hook(&lineage).ended(1), &words);
    assert!(!world.queue().join("test").exists());

    edit(&target.config, "destination:", "destinaton:");
    let at = place(&target.config, "destinaton");
    let words = ["Invalid config option: unknown key \"destinaton\" (did you mean \"destination\"?)", &at];
    refused(&target.one_pass().ended(1), &words);
    assert_eq!(target.snapshot(), Vec::<String>::new());
}

#[test]
fn a_key_file_that_is_missing_is_named() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    std::fs::rename(world.server_key(), world.path("elsewhere")).unwrap();
    let words = [&world.server_key().display().to_string(), "privkey_filename"];
    queued_but_not_pushed(&world, &lineage, &words);
    refused(&world.server(&["--daemon"]).ended(1), &words);
    std::fs::rename(&target.host_key, world.path("elsewhere too")).unwrap();
    let mut client = target.start_unseen();
    assert_eq!(client.ends().code(), Some(1));
    let key = target.host_key.display().to_string();
    assert!(client.said().contains(&key) && client.said().contains("privkey_filename"), "{}", client.said());
}

#[test]
fn an_ssh_key_that_others_can_read_is_refused_with_the_way_out() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    for path in [&world.server_key(), &target.host_key] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    queued_but_not_pushed(&world, &lineage, &[&format!("chmod 600 {}", world.server_key().display())]);
    let mut client = target.start_unseen();
    assert_eq!(client.ends().code(), Some(1));
    assert!(client.said().contains(&format!("chmod 600 {}", target.host_key.display())), "{}", client.said());
}

/// The hook says what is wrong with the key, and has done its work all the same; who pushes fails by it.
#[track_caller]
fn queued_but_not_pushed(world: &World, lineage: &Lineage, words: &[&str]) {
    let hook = world.hook(lineage).ended(0);
    for word in
        [words, &["ERROR:certdeploy-server: ", "is queued, but nothing is delivered until this is mended"]].concat()
    {
        assert!(hook.said().contains(word), "{word:?} is not in:\n{}", hook.said());
    }
    let status = world.server(&["status"]).ended(3);
    assert!(status.said().contains(" in the queue"), "{}", status.said());
    refused(&world.server(&["--push"]).ended(1), words);
    let mut both = world.hook_command(lineage);
    both.arg("--push");
    refused(&run(both).ended(1), words);
}

/// Each of these once ended the hook before the renewal was on the disk, and certbot does not call it again.
#[test]
fn host_keys_and_the_current_directory_are_no_matter_of_the_hook() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let known = world.path("server/known_hosts");
    let head = format!("known_hosts: {}\n", known.display());
    world.write_server_with(&[&target], &world.queue(), &head);
    let good = std::fs::read_to_string(world.server_config()).unwrap();
    let pinned = good.lines().find(|line| line.starts_with("    pubkey: ")).unwrap();
    let _client = target.start();
    for (pin, hosts, word) in [
        ("    pubkey_filename: /nowhere", &b""[..], "for `pubkey_filename`. cannot read `/nowhere`"),
        ("", b"", "missing required key `pubkey`"),
        (pinned, b"m\xfcller ssh-ed25519 AAAA\n", "for `known_hosts`"),
        ("    pubkey: nonsense", b"", "not an SSH public key"),
    ] {
        std::fs::write(&known, hosts).unwrap();
        std::fs::write(world.server_config(), good.replacen(pinned, pin, 1)).unwrap();
        lineage.renew(&world.ca);
        let _ = world.hook(&lineage).ended(0);
        refused(&world.server(&["--push"]).ended(1), &[word]);
        let mut both = world.hook_command(&lineage);
        both.arg("--push");
        refused(&run(both).ended(1), &[word]);
        std::fs::write(&known, "").unwrap();
        std::fs::write(world.server_config(), &good).unwrap();
        let _ = world.server(&["--push"]).ended(0);
        target.receives(&lineage);
    }
    // certbot was started in a directory that is gone.
    for (path, code, word) in
        [(lineage.live.as_path(), 0, "Queued lineage /"), (Path::new("live/x"), 1, "give its absolute path")]
    {
        let gone = world.path("gone");
        std::fs::create_dir(&gone).unwrap();
        let hook = world.hook_command(&lineage);
        let mut command = command("sh");
        command.args(["-c", "rmdir \"$PWD\" && exec \"$0\""]).arg(hook.get_program()).current_dir(&gone);
        command.envs(hook.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("RENEWED_LINEAGE", path);
        let ran = run(command).ended(code);
        assert!(ran.said().contains(word), "{}", ran.said());
    }
}

/// Pushes what lies in `live/` now, and shows that nothing at the target changed.
#[track_caller]
fn not_pushed(scene: &Scene, needles: &[&str]) {
    let before = scene.target.snapshot();
    let runs = scene.target.script_runs();
    let _ = scene.world.hook(&scene.lineage);
    refused(&scene.world.server(&["--push"]), needles);
    assert_eq!(scene.target.snapshot(), before);
    assert_eq!(scene.target.script_runs(), runs);
}

#[test]
fn the_key_of_another_certificate_is_refused_by_both_ends() {
    let (mut scene, _client) = Scene::deployed("");
    let other = scene.world.ca.issue(&scene.lineage.domains, Validity::usual(7));
    let mut crossed = scene.world.ca.issue(&scene.lineage.domains, Validity::usual(8));
    crossed.privkey = other.privkey;
    scene.lineage.install(crossed);
    not_pushed(&scene, &["the private key does not belong to the certificate"]);
    if can_run("bad_input::the_key_of_another_certificate (client)", &[Need::Program("sftp")]) {
        put_is_refused(&scene, "the private key does not belong to the certificate");
    }
}

#[test]
fn an_expired_leaf_is_refused_by_both_ends() {
    let (mut scene, _client) = Scene::deployed("");
    let expired = scene.world.ca.issue(&scene.lineage.domains, Validity::over());
    scene.lineage.install(expired);
    not_pushed(&scene, &["expired"]);
    if can_run("bad_input::an_expired_leaf (client)", &[Need::Program("sftp")]) {
        put_is_refused(&scene, "expired");
    }
}

/// Puts what lies in `live/` by stock sftp, without our server's checks in front.
#[track_caller]
fn put_is_refused(scene: &Scene, needle: &str) {
    let before = scene.target.snapshot();
    let mut batch = format!("-mkdir /{}\n", scene.lineage.name);
    for name in [FileName::Fullchain, FileName::Privkey] {
        let _ =
            writeln!(batch, "put {} /{}/{name}", scene.lineage.live.join(name.as_str()).display(), scene.lineage.name);
    }
    let _ = sftp::batch(&scene.world, scene.target.port, &scene.target.pinned, &batch).ended(0);
    until(&format!("the client's log says {needle:?}"), PATIENCE, || {
        let log = std::fs::read_to_string(&scene.target.log).unwrap_or_default();
        log.contains(needle).then_some(())
    });
    assert_eq!(scene.target.snapshot(), before);
}

#[test]
fn a_lineage_whose_name_leads_elsewhere_is_refused_by_the_hook() {
    let (scene, _client) = Scene::deployed("");
    let before = scene.target.snapshot();
    for name in ["live/..", "live/../..", "live/.hidden"] {
        let mut hook = scene.world.hook_command(&scene.lineage);
        hook.env("RENEWED_LINEAGE", scene.world.letsencrypt().join(name));
        refused(&certdeploy_tests::process::run(hook).ended(1), &["is not a safe lineage name"]);
    }
    let _ = scene.world.server(&["--push"]).ended(0);
    assert_eq!(scene.target.snapshot(), before);
}

#[test]
fn paths_that_lead_out_of_staging_are_refused_over_sftp() {
    if !can_run("bad_input::paths_that_lead_out_of_staging", &[Need::Program("sftp")]) {
        return;
    }
    let (scene, mut client) = Scene::deployed("");
    let Scene { world, target, lineage } = &scene;
    let before = target.snapshot();
    let key = lineage.live.join("privkey.pem").display().to_string();
    let outside = world.path("planted");
    let targets = [
        "/../planted".to_owned(),
        "/example.com/../../planted".to_owned(),
        "../../planted".to_owned(),
        "/....//planted".to_owned(),
        outside.display().to_string(),
        "/etc/certdeploy-planted".to_owned(),
        format!("{}/../planted", target.source.display()),
        format!("{}-evil/privkey.pem", target.source.display()),
        "/..data/privkey.pem".to_owned(),
    ];
    for path in &targets {
        let ran = sftp::batch(world, target.port, &target.pinned, &format!("put {key} {path}\n"));
        assert_ne!(ran.code, Some(0), "{path} was taken:\n{}", ran.said());
    }
    for verb in ["mkdir /../planted", "symlink /etc/passwd /example.com/privkey.pem", "rename /example.com /../planted"]
    {
        let ran = sftp::batch(world, target.port, &target.pinned, &format!("{verb}\n"));
        assert_ne!(ran.code, Some(0), "{verb} was taken:\n{}", ran.said());
    }
    assert!(!outside.exists() && !Path::new("/etc/certdeploy-planted").exists());
    assert_eq!(target.snapshot(), before);
    assert!(client.runs());
    // Reading is nobody's business either: keys never come back out.
    let ran = sftp::batch(
        world,
        target.port,
        &target.pinned,
        &format!("get /example.com/privkey.pem {}\n", outside.display()),
    );
    assert_ne!(ran.code, Some(0), "{}", ran.said());
}

#[test]
fn a_push_that_is_cut_changes_nothing_and_is_delivered_later() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let tap = WireTap::before(target.port);
    target.connect_port = tap.port;
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let mut client = target.start();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    target.updates(&lineage);
    let whole = tap.connections()[0].sent().len() as u64;

    let mut before_the_commit = 0;
    for percent in [10, 30, 50, 60, 65, 70, 75, 80, 85, 90] {
        lineage.renew(&world.ca);
        let before = target.snapshot();
        let _ = world.hook(&lineage).ended(0);
        tap.cut_after(whole * percent / 100);
        let pushed = world.server(&["--push"]);
        // Late cuts may hit after the commit: then it is deployed, and the next push learns so.
        if !target.holds(&lineage) {
            assert_eq!(target.snapshot(), before, "a cut at {percent} % changed something");
            assert_eq!(pushed.code, Some(3), "still owed after a cut at {percent} %: {}", pushed.said());
            before_the_commit += 1;
        }
        tap.cut_after(u64::MAX);
        let _ = world.server(&["--push"]).ended(0);
        target.receives(&lineage);
        target.updates(&lineage);
    }
    assert!(before_the_commit >= 5, "only {before_the_commit} cuts hit an upload");
    assert!(client.runs());
}
