//! `enroll` against a real sshd, and the names that have more than one address.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use certdeploy_tests::Ran;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::run;
use certdeploy_tests::trust::{Hall, answered, fingerprint, keygen, with_hosts};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

const NEEDS: [Need; 3] = [Need::Root, Need::Program("sshd"), Need::Program("ssh-keygen")];

fn enroll(hall: &Hall, more: &[&str], answer: &str) -> Ran {
    let host = format!("127.0.0.1:{}", hall.sshd.port);
    answered(hall.world.server_command(&[&["enroll", &host], more].concat()), answer)
}

#[test]
fn a_yes_pins_the_host_key_and_anything_else_does_not() {
    if !can_run("enroll::yes_or_no", &NEEDS) {
        return;
    }
    let hall = Hall::new("{pusher}");
    let known = hall.world.path("known_hosts");
    let line = format!("[127.0.0.1]:{} {}\n", hall.sshd.port, without_comment(&hall.sshd.host_key));
    hall.configure(&format!("known_hosts: {}", known.display()), "");
    let _ = hall.fails(1, "certdeploy-server enroll 127.0.0.1:");

    for answer in ["no\n", "y\n", ""] {
        let ran = enroll(&hall, &[], answer).ended(1);
        assert!(ran.stdout.is_empty() && !known.exists(), "{answer:?}: {}", ran.said());
        let shown = format!("256 {} 127.0.0.1 (ED25519)", fingerprint(&hall.world.path("sshd/host_key.pub")));
        assert!(ran.stderr.contains(&shown), "{shown} is not in:\n{}", ran.stderr);
        assert!(ran.stderr.ends_with("Nothing is pinned.\n"), "{}", ran.stderr);
    }
    let ran = enroll(&hall, &[], "yes\n").ended(0);
    assert_eq!(ran.stdout, format!("pubkey: {}\n", without_comment(&hall.sshd.host_key)));
    assert_eq!(std::fs::read_to_string(&known).unwrap(), line);
    hall.delivers("after enroll");

    // Again: nothing to ask, nothing to write. The port is the configured one's.
    let ran = run(hall.world.server_command(&["enroll", "127.0.0.1"])).ended(0);
    assert!(ran.stderr.contains("pinned already"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(&known).unwrap(), line);
}

#[test]
fn a_fingerprint_that_is_known_stands_for_the_yes() {
    if !can_run("enroll::fingerprint", &NEEDS) {
        return;
    }
    let hall = Hall::new("{pusher}");
    hall.configure("", "");
    let (_, other) = keygen(&hall.world.path("server"), "other", &["-t", "ed25519", "-N", ""]);
    let wrong = fingerprint(&hall.world.path("server/other.pub"));
    let right = fingerprint(&hall.world.path("sshd/host_key.pub"));
    let ran = enroll(&hall, &["--fingerprint", &wrong], "yes\n").ended(1);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("is not the one that was given"), "{}", ran.said());
    let _ = enroll(&hall, &["--fingerprint", "SHA256:short"], "yes\n").ended(1);
    let ran = enroll(&hall, &["--fingerprint", &right], "").ended(0);
    assert!(ran.stderr.contains("Put this line into its entry"), "{}", ran.stderr);
    hall.configure("", ran.stdout.trim());
    hall.delivers("with the line that enroll printed");

    // Another key is pinned: that is said aloud, and a fingerprint is not enough.
    let known = hall.world.path("known_hosts");
    let old = format!("[127.0.0.1]:{} {other}\n# the end", hall.sshd.port);
    std::fs::write(&known, &old).unwrap();
    hall.configure(&format!("known_hosts: {}", known.display()), "");
    let ran = enroll(&hall, &["--fingerprint", &right], "").ended(1);
    assert!(ran.stderr.contains("WARNING: ANOTHER HOST KEY IS PINNED: SHA256:"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(&known).unwrap(), old);
    let ran = enroll(&hall, &["--fingerprint", &right], "yes\n").ended(0);
    assert!(ran.stderr.contains("take line 1 out of"), "{}", ran.stderr);
    let now = std::fs::read_to_string(&known).unwrap();
    let key = without_comment(&hall.sshd.host_key);
    assert_eq!(now, format!("{old}\n[127.0.0.1]:{} {key}\n", hall.sshd.port));
    hall.delivers("with both keys known");

    // A revoked key is not pinned, whatever is answered; a host that is not there is said.
    std::fs::write(&known, format!("@revoked * {key}\n")).unwrap();
    let ran = enroll(&hall, &[], "yes\n").ended(1);
    assert!(ran.stderr.contains("revoked by line 1 of"), "{}", ran.stderr);
    let closed = certdeploy_tests::process::free_port();
    let ran = run(hall.world.server_command(&["enroll", &format!("127.0.0.1:{closed}")])).ended(1);
    assert!(ran.stderr.contains("NoValidConnectionsError: "), "{}", ran.stderr);
}

#[test]
fn all_addresses_of_a_name_are_tried_and_a_silent_one_costs_little() {
    if !can_run("enroll::addresses", &[&NEEDS[..], &[Need::Program("unshare")]].concat()) {
        return;
    }
    let hall = Hall::new("{pusher}");
    hall.configure("sftp_tcp_timeout: 60", &hall.pinned());
    let text = std::fs::read_to_string(hall.world.server_config()).unwrap();
    std::fs::write(hall.world.server_config(), text.replace("address: 127.0.0.1", "address: two-faced.test")).unwrap();
    let push = || {
        let hosts = "::1 two-faced.test\n127.0.0.1 two-faced.test\n";
        run(with_hosts(&hall.world.path("server"), hosts, &hall.push_command()))
    };
    let _ = push().ended(0);

    // An address that takes no connection and refuses none: the queue of its listener is full.
    let port = hall.sshd.port;
    let silent = SocketAddr::new("::1".parse().unwrap(), port);
    let listener = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&listener, true).unwrap();
    bind(&listener, &silent).unwrap();
    listen(&listener, 0).unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&silent, Duration::from_millis(300)) {
        held.push(stream);
        assert!(held.len() < 10, "the address should fall silent");
    }
    let ran = push().ended(0);
    assert!(ran.elapsed < Duration::from_secs(30), "it waited for the silent address: {:?}", ran.elapsed);

    // Nobody there at all: each address is named.
    let closed = certdeploy_tests::process::free_port();
    let text = std::fs::read_to_string(hall.world.server_config()).unwrap();
    std::fs::write(hall.world.server_config(), text.replace(&port.to_string(), &closed.to_string())).unwrap();
    let said = push().ended(3).said();
    let tried = format!("Unable to connect to port {closed} on ::1 (");
    assert!(said.contains(&tried) && said.contains(", 127.0.0.1 ("), "{said}");
}

fn without_comment(line: &str) -> String {
    line.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
