//! The client's examples of the document: each deploys and runs its scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use certdeploy_tests::World;
use certdeploy_tests::process::run;

use super::{Kind, of_kind};

/// A client's example as a whole config.
fn client_config(block: &str, folder: &Path) -> String {
    let own = |name: &str| folder.join(name).display().to_string();
    let mut text = block
        .replace("<put your service definitions here>", "- {type: script, name: /bin/true}")
        .replace("/var/cache/certdeploy", &own("staging"))
        .replace("/certdeploy/staging", &own("staging"))
        .replace("/etc/letsencrypt/live", &own("certs"))
        .replace("/certdeploy/certs", &own("certs"))
        .replace("/etc/certdeploy/client_key", &own("host_key"))
        .replace("/etc/certdeploy/server_key.pub", &own("server_key.pub"));
    if !text.contains("destination:") {
        text.push_str(&format!("destination: {}\n", own("certs")));
    }
    text
}

/// Each example deploys what a plain sshd has put, and runs its scripts. There is neither systemd nor an engine here,
/// so what needs them fails, is said, and stops nothing else.
#[test]
fn each_client_config_deploys_and_runs_its_scripts() {
    for block in of_kind(Kind::Client) {
        let world = World::new();
        let target = world.target("web1", &["example.com"]);
        let folder: PathBuf = target.config.parent().unwrap().to_owned();
        fs::write(folder.join("server_key.pub"), &world.pusher_key).unwrap();
        let bin = folder.join("bin");
        fs::create_dir(&bin).unwrap();
        let ran = folder.join("ran");
        for name in ["script_in_path.sh", "script.sh", "touch-flag-file.sh", "poke-the-custom-server.sh"] {
            fs::write(bin.join(name), format!("#!/bin/sh\necho {name} >>{}\n", ran.display())).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let text = client_config(&block, &folder).replace("33774", &target.port.to_string());
        let text = text.replace("/path/to", &bin.display().to_string());
        let staging = if text.contains("source:") { "" } else { &format!("source: {}\n", target.source.display()) };
        fs::write(&target.config, format!("{text}{staging}docker_url: unix://{}/no-engine\n", folder.display()))
            .unwrap();
        let command = |more: &[&str]| {
            let mut command = target.command();
            command.args(more).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
            command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus");
            run(command)
        };
        let _ = command(&["check"]).ended(0);
        let printed = command(&["check", "--effective"]).ended(0).stdout;
        let lineage = world.lineage("example.com", &["example.com"]);
        let put = target.source.join("example.com");
        fs::create_dir(&put).unwrap();
        for name in certdeploy_common::cert::FileName::ALL {
            fs::write(put.join(name.as_str()), lineage.issued.file(name)).unwrap();
        }
        let more = ["type: systemd", "type: docker"].iter().any(|kind| text.contains(kind));
        let pass = command(&[]).ended(if more { 3 } else { 0 });
        assert!(target.holds(&lineage), "{text}\n{}", pass.said());
        let runs = fs::read_to_string(&ran).unwrap_or_default().lines().count();
        assert_eq!(runs, text.matches(".sh").count(), "{text}\n{}", pass.said());
        // The same by the config that is printed: nothing is new, and only what failed runs again.
        fs::write(&target.config, printed).unwrap();
        let _ = command(&[]).ended(if more { 3 } else { 0 });
        assert_eq!(fs::read_to_string(&ran).unwrap_or_default().lines().count(), runs, "{text}");
    }
}

#[test]
fn the_client_s_recipes_run() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let folder: PathBuf = target.config.parent().unwrap().to_owned();
    fs::write(folder.join("server_key.pub"), &world.pusher_key).unwrap();
    let recipes =
        of_kind(Kind::Client).into_iter().filter(|block| block.contains("<put your service definitions here>"));
    let mut listening = 0;
    for block in recipes {
        let text = client_config(&block, &folder).replace("33774", &target.port.to_string());
        let text = if text.contains("source:") { text } else { format!("{text}source: {}\n", target.source.display()) };
        fs::write(&target.config, &text).unwrap();
        let _ = target.one_pass().ended(0);
        if text.contains("sftpd:") {
            let mut daemon = target.start_unseen();
            certdeploy_tests::until("it listens", certdeploy_tests::wait::PATIENCE, || {
                (!target.port_is_closed()).then_some(())
            });
            assert!(daemon.stop().success(), "{}", daemon.said());
            listening += 1;
        }
    }
    assert_eq!(listening, 2);
}
