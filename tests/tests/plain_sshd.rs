//! Peers that are not ours: OpenSSH's sshd as the receiver with one pass behind it, and stock `sftp -b` as the pusher.

use std::fmt::Write as _;

use certdeploy_common::cert::FileName;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::sshd::Sshd;
use certdeploy_tests::wire_tap::WireTap;
use certdeploy_tests::{Lineage, Target, World, sftp};

#[test]
fn a_lineage_pushed_into_sshd_is_picked_up_by_one_pass() {
    if !can_run("plain_sshd::a_lineage_pushed_into_sshd", &[Need::Root, Need::Program("sshd")]) {
        return;
    }
    let (world, target, _sshd, mut lineage) = beside_sshd();
    for issue in 1..=2 {
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        for name in [FileName::Fullchain, FileName::Privkey] {
            let staged = std::fs::read_to_string(target.source.join("example.com").join(name.as_str()));
            assert_eq!(staged.unwrap(), lineage.issued.file(name), "{name} as it lies in sshd's directory");
        }
        let key = std::fs::metadata(target.source.join("example.com/privkey.pem")).unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o077,
            0,
            "others cannot read the key"
        );
        let _ = target.one_pass().ended(0);
        assert!(target.holds(&lineage), "issue {issue} is deployed");
        assert!(target.updated(&lineage), "the script ran in the same pass");
        assert_eq!(target.script_runs().len(), issue);
        lineage.renew(&world.ca);
    }
    // Nothing new: a pass changes nothing and runs nothing.
    let before = target.snapshot();
    let _ = target.one_pass().ended(0);
    assert_eq!(target.snapshot(), before);
    assert_eq!(target.script_runs().len(), 2);
}

/// A target whose `source` an sshd fills for the server.
fn beside_sshd() -> (World, Target, Sshd, Lineage) {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let sshd = Sshd::start(&world.path("sshd"), &world.pusher_key);
    let lineage = world.lineage("example.com", &["example.com"]);
    world.write_server(&[]);
    let config = std::fs::read_to_string(world.server_config()).unwrap().replace("client_configs:\n", "");
    let entry = format!(
        "client_configs:\n  - address: 127.0.0.1\n    port: {}\n    username: root\n    path: {}\n    pubkey: {}\n    \
         domains: [example.com]\n",
        sshd.port,
        target.source.display(),
        sshd.host_key,
    );
    std::fs::write(world.server_config(), format!("{config}{entry}")).unwrap();
    (world, target, sshd, lineage)
}

/// As the Python daemon did: whoever had both needed no pass beside it.
#[test]
fn a_daemon_takes_what_an_sshd_puts_beside_it() {
    if !can_run("plain_sshd::a_daemon_takes", &[Need::Root, Need::Program("sshd")]) {
        return;
    }
    let (world, target, _sshd, mut lineage) = beside_sshd();
    let mut client = target.start();
    for issue in 1..=2 {
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        target.receives(&lineage);
        target.updates(&lineage);
        assert_eq!(target.script_runs().len(), issue, "once for each: {}", client.said());
        lineage.renew(&world.ca);
    }
    // What can never be taken is said once, and tried again when it is something else.
    let bad = target.source.join("example.com/fullchain.pem");
    std::fs::write(&bad, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    client.says("InvalidKey: Invalid key");
    std::fs::write(&bad, lineage.issued.file(FileName::Fullchain)).unwrap();
    std::fs::write(target.source.join("example.com/privkey.pem"), lineage.issued.file(FileName::Privkey)).unwrap();
    target.receives(&lineage);
    assert_eq!(client.said().matches("InvalidKey: Invalid key").count(), 1, "{}", client.said());
}

/// The batch that puts what was issued last into the staging of a client, files that `sftp` reads from disk.
fn put(lineage: &Lineage, order: &[FileName]) -> String {
    let mut batch = format!("-mkdir /{}\n", lineage.name);
    for name in order {
        let _ = writeln!(batch, "put {} /{}/{name}", lineage.live.join(name.as_str()).display(), lineage.name);
    }
    batch
}

const ORDER: [FileName; 3] = [FileName::Chain, FileName::Fullchain, FileName::Privkey];

fn world_with_client() -> (World, Target, Lineage) {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let lineage = world.lineage("example.com", &["example.com"]);
    (world, target, lineage)
}

#[test]
fn a_lineage_put_by_stock_sftp_is_deployed_when_the_channel_ends() {
    if !can_run("plain_sshd::a_lineage_put_by_stock_sftp", &[Need::Program("sftp")]) {
        return;
    }
    let (world, target, mut lineage) = world_with_client();
    let _client = target.start();
    for _ in 0..2 {
        let _ = sftp::batch(&world, target.port, &target.pinned, &put(&lineage, &ORDER)).ended(0);
        target.receives(&lineage);
        target.updates(&lineage);
        lineage.renew(&world.ca);
    }
}

#[test]
fn an_upload_without_manifest_that_is_cut_is_never_deployed() {
    if !can_run("plain_sshd::an_upload_that_is_cut", &[Need::Program("sftp")]) {
        return;
    }
    let (world, target, mut lineage) = world_with_client();
    let mut client = target.start();
    let tap = WireTap::before(target.port);
    let _ = sftp::batch(&world, tap.port, &target.pinned, &put(&lineage, &ORDER)).ended(0);
    target.updates(&lineage);
    let whole = tap.connections()[0].sent().len() as u64;
    let before = target.snapshot();

    for percent in [50, 60, 70, 80, 90] {
        lineage.renew(&world.ca);
        tap.cut_after(whole * percent / 100);
        let ran = sftp::batch(&world, tap.port, &target.pinned, &put(&lineage, &ORDER));
        assert_ne!(ran.code, Some(0), "sftp sees the cut at {percent} %");
        // A whole upload of another lineage goes through the same applier: what came before it has been judged.
        let name = format!("other{percent}.example");
        let other = world.lineage(&name, &[&name]);
        tap.cut_after(u64::MAX);
        let _ = sftp::batch(&world, tap.port, &target.pinned, &put(&other, &ORDER)).ended(0);
        target.updates(&other);
        let now: Vec<String> = target.snapshot().into_iter().filter(|line| !line.starts_with("other")).collect();
        assert_eq!(now, before, "a cut at {percent} % changed something");
    }
    // What is half in staging does not stand in the way of the next whole upload.
    let _ = sftp::batch(&world, tap.port, &target.pinned, &put(&lineage, &ORDER)).ended(0);
    target.receives(&lineage);
    assert!(client.runs());
}
