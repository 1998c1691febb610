//! RSA at both ends, in a build that has it: `cargo test --workspace --features certdeploy-server/rsa --test rsa`. In
//! any other build there is nothing to see here; what these say about RSA keys is in `trust.rs`.

use certdeploy_common::ssh::key;
use certdeploy_tests::Daemon;
use certdeploy_tests::need::{Need, can_run, find};
use certdeploy_tests::process::{command, free_port};
use certdeploy_tests::trust::{Agent, Hall, answered, fingerprint, keygen, made};

#[test]
fn rsa_keys_log_in_and_are_pinned() {
    let needs = ["sshd", "ssh-keygen", "ssh-agent", "ssh-add", "openssl"].map(Need::Program);
    if !key::rsa() || !can_run("rsa", &[&[Need::Root], &needs[..]].concat()) {
        return;
    }
    let hall = Hall::new("none");
    let folder = hall.world.path("server");
    let at = |name: &str| folder.join(name).display().to_string();
    let (openssh, _) = keygen(&folder, "openssh", &["-t", "rsa", "-b", "2048", "-N", ""]);
    made("openssl", &["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &at("pkcs8")]);
    made("openssl", &["pkey", "-in", &at("pkcs8"), "-traditional", "-out", &at("pkcs1")]);
    made("openssl", &["pkey", "-in", &at("pkcs8"), "-aes256", "-passout", "pass:open", "-out", &at("locked")]);
    std::fs::write(folder.join("passphrase"), "open").unwrap();
    made("chmod", &["600", &at("pkcs1"), &at("pkcs8"), &at("locked"), &at("passphrase")]);
    let public = made("ssh-keygen", &["-y", "-f", &at("pkcs1")]).stdout;
    let own = std::fs::read_to_string(format!("{}.pub", openssh.display())).unwrap();
    std::fs::write(hall.world.path("sshd/authorized_keys"), format!("{own}{public}")).unwrap();

    for name in ["openssh", "pkcs1", "pkcs8", "locked"] {
        let head = format!("privkey_filename: {}\nprivkey_passphrase_filename: {}", at(name), at("passphrase"));
        hall.configure(&head, &hall.pinned());
        hall.delivers(name);
    }
    let agent = Agent::start(&folder);
    agent.add(&[&at("openssh")]);
    let head = format!("privkey_filename: {}.pub\nssh_agent: {}", at("openssh"), agent.socket.display());
    hall.configure(&head, &hall.pinned());
    hall.delivers("an agent's RSA key");

    // An sshd that has an RSA host key only.
    let (host_key, host_public) = keygen(&folder, "host", &["-t", "rsa", "-b", "2048", "-N", ""]);
    let port = free_port();
    let config = std::fs::read_to_string(hall.world.path("sshd/sshd_config")).unwrap();
    let config = config.replace(&format!("Port {}", hall.sshd.port), &format!("Port {port}"));
    let ed25519 = hall.world.path("sshd/host_key").display().to_string();
    std::fs::write(folder.join("sshd_config"), config.replace(&ed25519, &host_key.display().to_string())).unwrap();
    let mut sshd = command(find("sshd").unwrap());
    sshd.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
    let mut sshd = Daemon::start("sshd with an RSA key", sshd, &folder.join("sshd.log"));
    sshd.says("Server listening");
    let head = format!("privkey_filename: {}", at("openssh"));
    let target = |pubkey: &str| {
        hall.configure(&head, pubkey);
        let text = std::fs::read_to_string(hall.world.server_config()).unwrap();
        let text = text.replace(&format!("port: {}", hall.sshd.port), &format!("port: {port}"));
        std::fs::write(hall.world.server_config(), text).unwrap();
    };
    target("");
    let wanted = fingerprint(&folder.join("host.pub"));
    let host = format!("127.0.0.1:{port}");
    let enrolled = answered(hall.world.server_command(&["enroll", &host, "--fingerprint", &wanted]), "").ended(0);
    assert!(enrolled.stderr.contains(&format!("2048 {wanted} 127.0.0.1 (RSA)")), "{}", enrolled.stderr);
    target(enrolled.stdout.trim());
    hall.delivers("to a pinned RSA host key");
    target(&format!("pubkey: {host_public}\n# the same, with its comment"));
    hall.delivers("to a pinned RSA host key with a comment");
    target(&hall.pinned());
    let _ = hall.fails(3, "BadHostKeyException");
}
