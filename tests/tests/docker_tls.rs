//! The engine over TCP with TLS: who it is and who we are is checked, and what is wrong is said.

use std::path::{Path, PathBuf};

use certdeploy_tests::engine::{Engine, IMAGE};
use certdeploy_tests::need::{Need, can_run, find};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, command, free_port, run};
use certdeploy_tests::{Lineage, World};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

const NEEDS: &[Need] = &[Need::Root, Need::Program("dockerd"), Need::Program("busybox")];

/// A CA with a certificate for the engine and one for its client, as files below `folder`.
fn authority(folder: &Path) -> impl Fn(&str) -> PathBuf + use<> {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    ca.distinguished_name.push(DnType::CommonName, folder.display().to_string());
    let ca_key = KeyPair::generate().expect("a key");
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = Issuer::new(ca, ca_key);
    std::fs::write(folder.join("ca.pem"), ca_pem).expect("write");
    for (name, names, usage) in [
        ("server", vec!["127.0.0.1".to_owned()], ExtendedKeyUsagePurpose::ServerAuth),
        ("client", vec!["client".to_owned()], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(folder.join(format!("{name}.pem")), cert.pem()).expect("write");
        std::fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem()).expect("write");
    }
    let folder = folder.to_owned();
    move |name| folder.join(name)
}

fn pass(world: &World, lineage: &Lineage, name: &str, lines: &str) -> Ran {
    let update =
        "update_services: [{type: docker_container, name: web}]\ndocker_timeout: 1\ndocker_request_timeout: 5\n";
    run(Pass::over(world, lineage, name).command(&format!("{lines}\n{update}")))
}

#[test]
fn both_ends_are_checked() {
    if !can_run("docker: TLS", NEEDS) {
        return;
    }
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let (ours, theirs) = (authority(&world.path("ours")), authority(&world.path("theirs")));
    let port = free_port();
    let tcp = format!("tcp://127.0.0.1:{port}");
    let file = |name| ours(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server-key.pem"));
    let more = ["-H", &tcp, "--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    let engine = Engine::start_with(&world.path("engine"), command(find("dockerd").expect("dockerd")), &more);
    let _ = engine.ask(&["run", "-d", "--network", "none", "--name", "web", IMAGE, "/bin/sleep", "100000"]);
    let started = || engine.ask(&["inspect", "-f", "{{.State.StartedAt}}", "web"]);
    let (cert, key) = (file("client.pem"), file("client-key.pem"));
    let strange = |name| theirs(name).display().to_string();
    let client = format!("docker_tls_cert: {cert}\ndocker_tls_key: {key}");
    let lines = |url: &str, ca: &str, client: &str| format!("docker_url: {url}\ndocker_tls_ca: {ca}\n{client}");

    for (name, url) in [("tcp", tcp.clone()), ("https", format!("https://127.0.0.1:{port}"))] {
        let before = started();
        let _ = pass(&world, &lineage, name, &lines(&url, &ca, &client)).ended(0);
        assert_ne!(before, started(), "{name}");
    }
    let before = started();
    let stranger = format!("docker_tls_cert: {}\ndocker_tls_key: {}", strange("client.pem"), strange("client-key.pem"));
    let plain = format!("docker_url: {tcp}");
    for (name, lines, said) in [
        ("no certificate of ours", lines(&tcp, &ca, ""), "set `docker_tls_cert` and `docker_tls_key`"),
        ("a stranger's certificate", lines(&tcp, &ca, &stranger), "alert"),
        ("another CA", lines(&tcp, &strange("ca.pem"), &client), "UnknownIssuer"),
        ("another name", lines(&format!("tcp://localhost:{port}"), &ca, &client), "not valid for name \"localhost\""),
        ("the system's CAs", format!("docker_url: https://127.0.0.1:{port}\n{client}"), "`"),
        ("no TLS", plain, "HTTP"),
        ("no key in the file", lines(&tcp, &ca, &format!("docker_tls_cert: {cert}\ndocker_tls_key: {ca}")), "ca.pem`"),
    ] {
        let ran = pass(&world, &lineage, name, &lines).ended(3);
        assert!(ran.stdout.contains("DockerError: Failed to update container name=web: "), "{name}: {}", ran.said());
        assert!(ran.stdout.contains(said), "{name} lacks {said:?}: {}", ran.said());
        assert!(!ran.stdout.contains("BEGIN"), "{name}");
    }
    assert_eq!(before, started(), "none of these was let in");
}

#[test]
fn what_does_not_go_together_is_refused_by_the_config() {
    let world = World::new();
    let lineage = world.lineage("a.example", &["a.example"]);
    let files = authority(&world.path("files"));
    let file = |name| files(name).display().to_string();
    let (ca, cert) = (file("ca.pem"), file("client.pem"));
    for (name, lines, said) in [
        ("ssh", "docker_url: ssh://me@host".to_owned(), "ssh -N -L"),
        ("http", format!("docker_url: http://h:1\ndocker_tls_ca: {ca}"), "`docker_url` says http; write https"),
        (
            "no key",
            format!("docker_url: tcp://h:1\ndocker_tls_cert: {cert}"),
            "`docker_tls_cert` needs `docker_tls_key` too",
        ),
        (
            "no file",
            "docker_url: tcp://h:1\ndocker_tls_ca: /nowhere".to_owned(),
            "`docker_tls_ca` must be a file that exists",
        ),
    ] {
        let ran = pass(&world, &lineage, name, &lines).ended(1);
        assert!(ran.stdout.contains(said), "{name} lacks {said:?}: {}", ran.said());
    }
    let ran = pass(&world, &lineage, "socket", &format!("docker_url: unix:///nowhere\ndocker_tls_ca: {ca}")).ended(3);
    assert!(ran.stdout.contains("`docker_tls_ca` means nothing"), "{}", ran.said());
}
