//! The pair by `docker run`: certbot through the server's image, a push, a container and a service that are told, health
//! checks, and how it all ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use certdeploy_tests::certbot;
use certdeploy_tests::images::{CLIENT, DEBIAN, SERVER};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::free_port;
use certdeploy_tests::wait::{PATIENCE, until};
use rustix::process::Signal;

use crate::scene::{Scene, forced, shells, signal};

const NEEDS: &[Need] = &[Need::Root, Need::Program("dockerd"), Need::Program("pebble")];

#[test]
fn a_certificate_goes_from_certbot_to_a_container_and_a_service() {
    if !can_run("images: the pair", NEEDS) {
        return;
    }
    let scene = Scene::new();
    let host = scene.host();
    let listen = format!("127.0.0.1:{}", free_port());
    let _ = host.ask(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", &listen]);
    let service = ["service", "create", "-d", "--no-resolve-image", "--init", "--network", "host"];
    let task = ["--stop-grace-period", "1s", "--name", "ingress", DEBIAN, "sleep", "inf"];
    let _ = host.ask(&[&service[..], &task].concat());

    scene.issue();
    let link = scene.world.path("le-docker/renewal-hooks/deploy/certdeploy-hook");
    assert_eq!(std::fs::read_link(link).expect("the hook's link"), Path::new("/usr/local/bin/certdeploy-server"));
    scene.start_web("web", "shared_certs");
    let started = scene.inspect("web", ".State.StartedAt");
    scene.start_client("client", "shared_certs");
    scene.start_server("server", &["-v", "queue:/var/lib/certdeploy"]);
    // What has been issued before the daemon's start is compared at its start.
    scene.arrives("web");
    until("the container restarts", PATIENCE, || (scene.inspect("web", ".State.StartedAt") != started).then_some(()));
    until("the service is updated", PATIENCE, || (forced(host, "ingress") == "1").then_some(()));
    until("the script's child ends", PATIENCE, || scene.world.path("conf-client/alone").exists().then_some(()));
    let first = scene.inspect("client", ".State.Pid").parse().expect("a process id");
    until("the dead child is asked for", PATIENCE, || shells(first).is_empty().then_some(()));

    let renew = ["exec", "server", "certbot", "renew", "--force-renewal", "--no-random-sleep-on-renew"];
    let _ = certbot::alone(|| host.docker(&renew)).ended(0);
    scene.arrives("web");
    until("the service is updated", PATIENCE, || (forced(host, "ingress") == "2").then_some(()));

    // Made anew with only the document's mounts: without a queue, and a client that has lost everything.
    let _ = host.ask(&["rm", "-f", "-v", "server", "client", "web"]);
    scene.start_web("web", "new_certs");
    scene.start_client("client", "new_certs");
    scene.start_server("server", &[]);
    scene.arrives("web");
    for name in ["server", "client"] {
        scene.becomes(name, "healthy");
        let daemon = scene.daemon(name);
        signal(daemon, Signal::STOP);
        scene.becomes(name, "unhealthy");
        signal(daemon, Signal::CONT);
        scene.becomes(name, "healthy");
        scene.stops(name);
    }
}

#[test]
fn the_entry_points_do_what_those_of_the_python_program_do() {
    if !can_run("images: entry points", NEEDS) {
        return;
    }
    let scene = Scene::new();
    let host = scene.host();
    let server = |more: &[&str], words: &[&str]| {
        host.docker(&[&["run", "--rm", "--network", "none"], more, &[SERVER], words].concat())
    };
    let client = |more: &[&str], words: &[&str]| {
        host.docker(&[&["run", "--rm", "--network", "none"], more, &[CLIENT], words].concat())
    };
    assert!(server(&[], &["--version"]).ended(0).said().starts_with("certbot "));
    assert!(server(&[], &["certbot", "--version"]).ended(0).said().starts_with("certbot "));
    assert!(server(&[], &["lexicon", "--version"]).ended(0).said().contains("lexicon"));
    assert!(server(&[], &["certdeploy-server", "--help"]).ended(0).stdout.contains("certdeploy-server [OPTIONS]"));
    let words = server(&[], &["/bin/sh", "-c", "for word; do echo \"<$word>\"; done", "sh", "a b", "*"]).ended(0);
    assert_eq!(words.stdout, "<a b>\n<*>\n");
    let words = client(&[], &["/bin/sh", "-c", "echo \"$1\"", "sh", "a  b"]).ended(0);
    assert_eq!(words.stdout, "a  b\n");
    // certbot is the one who complains, so the words came through whole.
    assert!(server(&[], &["renew", "--no such"]).ended(2).said().contains("--no such"));

    for (said, ran) in [
        ("there is no /etc/certdeploy/server.yml: mount a directory", server(&[], &[])),
        ("there is no /etc/certdeploy/client.yml: mount a directory", client(&[], &[])),
    ] {
        assert!(ran.said().contains(said), "{}", ran.said());
        let _ = ran.ended(1);
    }
    let conf = scene.mount("conf-server", "/etc/certdeploy");
    std::fs::write(scene.world.path("conf-server/mock"), "#!/bin/sh\necho mock \"$@\" >&2\n").expect("write");
    std::fs::set_permissions(scene.world.path("conf-server/mock"), PermissionsExt::from_mode(0o775)).expect("chmod");
    let config = scene.world.path("conf-server/server.yml");
    let text = std::fs::read_to_string(&config).expect("read");
    std::fs::write(&config, format!("renew_exec: /etc/certdeploy/mock\nlog_level: DEBUG\n{text}")).expect("write");
    for variable in ["CERTDEPLOY_RENEW_ONLY=true", "CERTDEPLOY_SERVER_RENEW_ONLY=true"] {
        let ran = server(&["-v", &conf, "-e", variable], &[]).ended(0);
        assert!(ran.said().contains("mock renew"), "{variable}: {}", ran.said());
    }
    // Nothing is owed, so it ends. The misspelt names are what the Python program reads.
    for name in ["SERVER_PUSH_ONLY", "PUSH_ONLY"] {
        for start in ["CERTDEPLOY", "CERTDEPOLY"] {
            let variable = format!("{start}_{name}=true");
            let (mount, name) = (["-v", &conf, "-e", &variable], format!("push-{start}-{name}"));
            // As a daemon it would stay for ever.
            let words = ["run", "-d", "--network", "none", "--name", &name];
            let _ = host.ask(&[&words[..], &mount, &[SERVER]].concat());
            until(&format!("a push by {variable} ends: {}", scene.log(&name)), PATIENCE, || {
                (scene.inspect(&name, ".State.Status") == "exited").then_some(())
            });
            assert_eq!(scene.inspect(&name, ".State.ExitCode"), "0", "{variable}: {}", scene.log(&name));
        }
    }
    // Only the literal word counts.
    let ran = server(&["-v", &conf, "-e", "CERTDEPLOY_SERVER_RENEW_ONLY=false"], &["--version"]);
    assert!(ran.ended(0).said().starts_with("certbot "));
}

#[test]
fn the_examples_in_the_images_are_right() {
    if !can_run("images: examples", NEEDS) {
        return;
    }
    let scene = Scene::new();
    let host = scene.host();
    for (image, example, key) in [(SERVER, "server.yml", "server_key"), (CLIENT, "client.yml", "client_key")] {
        let check = format!(
            "cp /usr/share/doc/{image}/examples/{example} /etc/certdeploy/ && {image} keygen /etc/certdeploy/{key} && \
             mkdir -p /etc/letsencrypt/live && {image} check"
        );
        let words = ["run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", image, "-c", &check];
        let ran = host.docker(&words).ended(0);
        assert!(!ran.said().contains("WARNING"), "{}", ran.said());
        let size: u64 = scene.inspect(image, ".Size").parse().expect("a number");
        let limit = if image == SERVER { 350_000_000 } else { 220_000_000 };
        eprintln!("{image}: {} MB", size / 1_000_000);
        assert!(size < limit, "{image} has {size} bytes");
        let volumes: &[&str] =
            if image == SERVER { &["/etc/letsencrypt", "/var/lib/certdeploy"] } else { &["/certdeploy/certs"] };
        let declared = scene.inspect(image, "json .Config.Volumes");
        assert!(volumes.iter().all(|volume| declared.contains(&format!("\"{volume}\""))), "{declared}");
        for label in ["title", "description", "source", "licenses", "version"] {
            let format = format!("index .Config.Labels \"org.opencontainers.image.{label}\"");
            assert!(!scene.inspect(image, &format).is_empty(), "{image} says no {label}");
        }
    }
}
