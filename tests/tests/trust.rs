//! Whom the server trusts and who it is: pins of three kinds, keys in all their forms, an agent, certificates, against a
//! real sshd.

use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::run;
use certdeploy_tests::trust::{Agent, Hall, keygen, made};

const NEEDS: [Need; 3] = [Need::Root, Need::Program("sshd"), Need::Program("ssh-keygen")];

fn write(hall: &Hall, name: &str, text: &str) -> String {
    let path = hall.world.path(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A file that only its owner can read.
fn secret(hall: &Hall, name: &str, text: &str) -> String {
    let path = write(hall, name, text);
    made("chmod", &["600", &path]);
    path
}

#[test]
fn a_host_key_may_be_pinned_by_known_hosts_or_a_file() {
    if !can_run("trust::pins", &NEEDS) {
        return;
    }
    let hall = Hall::new("{pusher}");
    let (port, key) = (hall.sshd.port, &hall.sshd.host_key);
    let (_, other) = keygen(&hall.world.path("server"), "other", &["-t", "ecdsa", "-N", ""]);

    let known = write(&hall, "known_hosts", &format!("# mine\nweb9 {other}\n[127.0.0.1]:{port} {key}\n"));
    let head = format!("known_hosts: {known}");
    hall.configure(&head, "");
    hall.delivers("a plain entry of known_hosts");
    made("ssh-keygen", &["-q", "-H", "-f", &known]);
    assert!(!std::fs::read_to_string(&known).unwrap().contains("127.0.0.1"), "ssh-keygen has hashed it");
    hall.delivers("a hashed entry of known_hosts");

    let scanned = made("ssh-keyscan", &["-p", &port.to_string(), "127.0.0.1"]).stdout;
    let scanned = write(&hall, "scanned", &format!("# what ssh-keyscan said\n{scanned}"));
    hall.configure("", &format!("pubkey_filename: {scanned}"));
    hall.delivers("the output of ssh-keyscan as pubkey_filename");

    write(&hall, "known_hosts", &format!("@revoked * {key}\n[127.0.0.1]:{port} {key}\n"));
    hall.configure(&head, "");
    let ran = hall.fails(3, "BadHostKeyException");
    assert!(ran.said().contains("@revoked"), "{}", ran.said());

    write(&hall, "known_hosts", &format!("web9 {other}\n"));
    let want = format!("missing required key `pubkey`: the host key of 127.0.0.1:{port} is neither in");
    let ran = hall.fails(1, &want);
    assert!(ran.said().contains(&format!("`certdeploy-server enroll 127.0.0.1:{port}`")), "{}", ran.said());
    assert!(ran.said().contains("server.yml:10:5: "), "{}", ran.said());
}

#[test]
fn two_pins_carry_a_host_over_to_a_new_key_and_a_third_key_is_refused_once() {
    if !can_run("trust::rotation", &NEEDS) {
        return;
    }
    let hall = Hall::new("{pusher}");
    let folder = hall.world.path("server");
    let (_, old) = keygen(&folder, "old", &["-t", "ecdsa", "-N", ""]);
    hall.configure("", &format!("pubkey:\n  - {old}\n  - {}", hall.sshd.host_key));
    hall.delivers("the second of two pins");

    hall.configure("", &format!("pubkey: {old}"));
    let said = hall.fails(3, "BadHostKeyException: Host key for server '[127.0.0.1]:").said();
    assert_eq!(
        said.matches("BadHostKeyException").count(),
        1,
        "push_retries is 3, but this is not tried again:\n{said}"
    );
    for want in
        ["ssh-ed25519 SHA256:", "expected 'SHA256:", "Nothing was sent", "`certdeploy-server enroll [127.0.0.1]:"]
    {
        assert!(said.contains(want), "{want} is not in:\n{said}");
    }
    let status = hall.world.status();
    assert_eq!(status["deliveries"][0]["state"], "host key", "{status}");
}

#[test]
fn an_encrypted_key_opens_with_a_passphrase_of_a_file_or_of_systemd() {
    if !can_run("trust::passphrase", &NEEDS) {
        return;
    }
    let hall = Hall::new("{pusher}");
    let folder = hall.world.path("server");
    let (path, public) = keygen(&folder, "locked", &["-t", "ed25519", "-a", "1", "-N", "open sesame"]);
    std::fs::write(hall.world.path("sshd/authorized_keys"), format!("{public}\n")).unwrap();
    let key = format!("privkey_filename: {}\n", path.display());
    let right = secret(&hall, "right", "open sesame\n");
    let wrong = secret(&hall, "wrong", "sesame\n");
    let in_file = |path: &str| format!("{key}privkey_passphrase_filename: {path}");

    hall.configure(&in_file(&right), &hall.pinned());
    hall.delivers("a passphrase in a file");
    let said = [
        (key.clone(), "is encrypted with a passphrase"),
        (in_file(&wrong), "does not open with the passphrase that was given"),
        (in_file("/nowhere"), "for `privkey_passphrase_filename`. cannot read `/nowhere`"),
        (format!("{}\nprivkey_passphrase_credential: x", in_file(&right)), "cannot both be set"),
        (format!("{key}privkey_passphrase_credential: x"), "$CREDENTIALS_DIRECTORY is not set"),
    ]
    .map(|(head, want)| {
        hall.configure(&head, &hall.pinned());
        hall.fails(1, want).said()
    });
    made("chmod", &["644", &right]);
    hall.configure(&in_file(&right), &hall.pinned());
    let _ = hall.fails(1, "can be read by others");
    assert!(said.iter().all(|said| !said.contains("sesame")), "a passphrase is never told: {said:?}");

    // systemd shows the mask of its ACL as the group's right.
    made("chmod", &["440", &right]);
    hall.configure(&format!("{key}privkey_passphrase_credential: right"), &hall.pinned());
    // Nor is a person's shell; there `check` says so and finds nothing wrong.
    let check = hall.world.server(&["check"]).ended(0);
    assert!(check.said().contains("note: the passphrase is the credential \"right\""), "{}", check.said());
    made("chmod", &["644", &path.display().to_string()]);
    let check = hall.world.server(&["check"]).ended(1);
    assert!(check.said().contains("chmod 600"), "{}", check.said());
    made("chmod", &["600", &path.display().to_string()]);
    // certbot's timer is not given the credential: the hook does without.
    let _ = hall.world.hook(&hall.lineage).ended(0);
    let mut push = hall.push_command();
    push.env("CREDENTIALS_DIRECTORY", hall.world.path(""));
    let _ = run(push).ended(0);
    assert!(hall.world.path("staged/example.com/privkey.pem").is_file(), "delivered with the credential");
}

#[test]
fn an_agent_signs_when_it_is_configured_and_never_else() {
    if !can_run("trust::agent", &[&NEEDS[..], &[Need::Program("ssh-agent"), Need::Program("ssh-add")]].concat()) {
        return;
    }
    let hall = Hall::new("{pusher}");
    let folder = hall.world.path("server");
    let (path, public) = keygen(&folder, "held", &["-t", "ecdsa", "-N", ""]);
    std::fs::write(hall.world.path("sshd/authorized_keys"), format!("{public}\n")).unwrap();
    let agent = Agent::start(&folder);
    let (exotic, _) = keygen(&folder, "exotic", &["-t", "rsa", "-b", "2048", "-N", ""]);
    agent.add(&[&exotic.display().to_string()]);
    agent.add(&[&path.display().to_string()]);

    // In the environment only: our own key is tried, and no other.
    hall.configure("", &hall.pinned());
    let mut push = hall.push_command();
    push.env("SSH_AUTH_SOCK", &agent.socket).env("HOME", &folder);
    let ran = run(push);
    assert!(ran.said().contains("AuthenticationException: Authentication failed"), "{}", ran.said());

    // The public key's file is enough; the private key's file works too.
    let public = format!("{}.pub", path.display());
    let head = |key: &str| format!("privkey_filename: {key}\nssh_agent: {}", agent.socket.display());
    for key in [&public, &path.display().to_string()] {
        hall.configure(&head(key), &hall.pinned());
        hall.delivers(key);
    }
    hall.configure(&head(&public), &hall.pinned());
    std::fs::rename(&path, folder.join("hidden")).unwrap();
    hall.delivers("without the private key anywhere but in the agent");

    agent.add(&["-D"]);
    agent.add(&[&exotic.display().to_string()]);
    let _ = hall.fails(3, "does not hold the key SHA256:");
    // The agent asks nobody, as there is no program to ask with: it refuses.
    agent.add(&["-c", &folder.join("hidden").display().to_string()]);
    let _ = hall.fails(3, "does not sign with SHA256:");

    drop(agent);
    let _ = hall.world.hook(&hall.lineage).ended(0);
    let _ = hall.fails(3, "does not answer: ");
}

#[test]
fn a_user_certificate_logs_in_and_an_expired_one_is_named() {
    if !can_run("trust::certificate", &NEEDS) {
        return;
    }
    let hall = Hall::new("none");
    let folder = hall.world.path("server");
    let (authority, public) = keygen(&folder, "authority", &["-t", "ed25519", "-N", ""]);
    std::fs::write(hall.world.path("sshd/authorized_keys"), format!("cert-authority {public}\n")).unwrap();
    let key = format!("{}.pub", hall.world.server_key().display());
    let certificate = format!("{}-cert.pub", hall.world.server_key().display());
    let sign = |more: &[&str]| {
        let common = ["-q", "-s", &authority.display().to_string(), "-I", "certdeploy", "-n", "root"];
        made("ssh-keygen", &[&common[..], more, &[&key]].concat());
    };
    let head = format!("privkey_cert_filename: {certificate}");
    sign(&["-V", "-5m:+1h"]);
    hall.configure("", &hall.pinned());
    let _ = hall.fails(3, "Authentication failed");
    hall.configure(&head, &hall.pinned());
    hall.delivers("a certificate");

    sign(&["-V", "20200101:20200102"]);
    let said = hall.fails(3, "whose certificate expired on 2020-01-0").said();
    assert!(said.contains("targets will not let us in"), "the warning at the start:\n{said}");

    // Certificates come and go: a hook does without.
    std::fs::remove_file(&certificate).unwrap();
    let _ = hall.world.hook(&hall.lineage).ended(0);
    let _ = hall.fails(1, "for `privkey_cert_filename`. cannot read `");

    sign(&["-h"]);
    let _ = hall.fails(1, "it is a certificate of a host");
    let (_, other) = keygen(&folder, "other", &["-t", "ed25519", "-N", ""]);
    std::fs::write(&key, format!("{other}\n")).unwrap();
    sign(&[]);
    let _ = hall.fails(1, "It is a certificate for another key");
}

#[test]
fn rsa_keys_of_every_form_are_refused_with_the_way_out() {
    if !can_run("trust::rsa", &[&NEEDS[..], &[Need::Program("openssl")]].concat()) {
        return;
    }
    if certdeploy_common::ssh::key::rsa() {
        return;
    }
    let hall = Hall::new("{pusher}");
    let folder = hall.world.path("server");
    let at = |name: &str| folder.join(name).display().to_string();
    let (openssh, public) = keygen(&folder, "rsa", &["-t", "rsa", "-b", "2048", "-N", ""]);
    made("openssl", &["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &at("pkcs8")]);
    made("openssl", &["pkey", "-in", &at("pkcs8"), "-traditional", "-out", &at("pkcs1")]);
    made("openssl", &["pkey", "-in", &at("pkcs8"), "-aes256", "-passout", "pass:open", "-out", &at("locked")]);
    let passphrase = secret(&hall, "passphrase", "open");
    for file in [openssh.display().to_string(), at("pkcs1"), at("pkcs8"), at("locked")] {
        made("chmod", &["600", &file]);
        let head = format!("privkey_filename: {file}\nprivkey_passphrase_filename: {passphrase}");
        hall.configure(&head, &hall.pinned());
        let said = hall.fails(1, "is an RSA key, which this build does not use").said();
        assert!(said.contains("`keygen PATH` makes one") && said.contains("`--features rsa`"), "{said}");
    }
    hall.configure("", &format!("pubkey: {public}"));
    let _ = hall.fails(1, "is an RSA key, which this build does not use");
}
