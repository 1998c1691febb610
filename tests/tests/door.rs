//! The client's door: who may push and what, where it listens, whose sockets, how it opens files, how it ends.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use certdeploy_common::ssh::key;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{command, free_port, port_is_free};
use certdeploy_tests::ssh::{self, Sftp, flags};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Daemon, Lineage, Target, World, sftp, until};
use rustix::process::Signal;

/// A second pusher: its key, and the public line.
fn other(world: &World) -> (PathBuf, String) {
    let path = world.path("other_key");
    let line = key::generate(&path, "another-server").expect("a key");
    (path, line)
}

/// Puts `new` where `old` stands in the target's config.
fn change(target: &Target, old: &str, new: &str) {
    let text = std::fs::read_to_string(&target.config).expect("client.yml");
    assert!(text.contains(old), "{text}");
    std::fs::write(&target.config, text.replace(old, new)).expect("write");
}

/// The target's daemon once it says `needle`.
fn started(target: &Target, command: Command, needle: &str) -> Daemon {
    let mut daemon = Daemon::start("certdeploy-client", command, &target.log);
    daemon.says(needle);
    daemon
}

fn daemon(target: &Target) -> Command {
    let mut command = target.command();
    command.arg("--daemon");
    command
}

/// What plain peers put of a lineage.
fn put(session: &mut Sftp, lineage: &Lineage) -> Result<(), ssh::Reply> {
    let made = session.make_directory(&lineage.name);
    if made.code() != Some(0) {
        return Err(made);
    }
    let create = flags::WRITE | flags::CREATE | flags::TRUNCATE;
    for (name, text) in [("fullchain", &lineage.issued.fullchain), ("privkey", &lineage.issued.privkey)] {
        session.put(&format!("{}/{name}.pem", lineage.name), create, text.as_bytes())?;
    }
    Ok(())
}

/// `server.yml` with another key.
fn push_as(world: &World, key: &Path, lineage: &Lineage) -> certdeploy_tests::Ran {
    let text = std::fs::read_to_string(world.server_config()).expect("server.yml");
    let changed = text.replace(&world.server_key().display().to_string(), &key.display().to_string());
    let config = world.path("server/other.yml");
    let queue = format!("queue_dir: {}", world.queue().display());
    std::fs::write(&config, changed.replace(&queue, &format!("{queue}-other"))).expect("write");
    let mut push = command(certdeploy_tests::process::binary("certdeploy-server"));
    push.arg("--config").arg(config).args(["--push", "--domains", &lineage.name, "--lineage"]).arg(&lineage.live);
    certdeploy_tests::process::run(push)
}

#[test]
fn a_pusher_that_is_confined_uploads_and_sees_its_own_lineages_only() {
    let world = World::new();
    let target = world.target("web", &["a.example", "b.example"]);
    let (other, line) = other(&world);
    let entries = format!("\n    - {}\n    - {{pubkey: {line}, lineages: [b.example]}}", world.pusher_key);
    change(&target, &format!(" {}", world.pusher_key), &entries);
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    let (a, b) = (world.lineage("a.example", &["a.example"]), world.lineage("b.example", &["b.example"]));
    let client = target.start();

    let ran = push_as(&world, &other, &a);
    assert_ne!(ran.code, Some(0), "{}", ran.said());
    let why = "this pusher may not upload lineage a.example: it is not among the `lineages`";
    assert!(ran.said().contains(why), "{}", ran.said());
    assert!(client.said().contains(why), "{}", client.said());
    assert!(target.file("a.example", certdeploy_common::cert::FileName::Privkey).is_none());
    // That the other one is still owed is in its exit code.
    let _ = push_as(&world, &other, &b).ended(3);
    target.receives(&b);

    let live = a.live.display().to_string();
    let _ = world.server(&["--push", "--lineage", &live, "--domains", "a.example"]).ended(0);
    target.receives(&a);
    let seen = |key: &Path| {
        let mut session = Sftp::open(ssh::client("certdeploy", target.port, &[key]));
        let held: serde_json::Value = serde_json::from_str(&session.get(".held.json").expect("held")).expect("JSON");
        held["lineages"].as_object().expect("lineages").keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(seen(&world.server_key()), ["a.example", "b.example"]);
    assert_eq!(seen(&other), ["b.example"]);

    let mut session = Sftp::open(ssh::client("certdeploy", target.port, &[&other]));
    let refused = put(&mut session, &a).unwrap_err();
    assert_eq!((refused.code(), refused.words().contains(why)), (Some(3), true), "{refused:?}");
    assert!(session.open_file("a.example/privkey.pem", flags::WRITE | flags::CREATE).is_err());
    put(&mut session, &b).expect("its own");
    session.bye();
}

/// The confinement must hold when the push is found after a crash: what the receiver committed is left as it is.
#[test]
fn a_confined_push_that_is_found_after_a_restart_is_confined_still() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let (other, line) = other(&world);
    change(&target, &format!(" {}", world.pusher_key), &format!("\n    - {{pubkey: {line}, lineages: [b.example]}}"));
    world.write_server_with(&[&target], &world.queue(), "push_retries: 0\n");
    let a = world.lineage("a.example", &["a.example"]);
    let mut client = target.start();
    // By then the receiver has been told all that it needs.
    client.says("The receiver is confined by");
    until("the daemon is healthy", PATIENCE, || {
        let mut command = target.command();
        command.arg("healthcheck");
        (certdeploy_tests::process::run(command).code == Some(0)).then_some(())
    });
    // The applier stands still, so that the push is committed and nobody looks at it.
    let receiver = until("a receiver", PATIENCE, || certdeploy_tests::process::children(client.id()).first().copied());
    client.signal(Signal::STOP);
    let staged = || {
        let entries = std::fs::read_dir(target.source.join(".incoming")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).find(|path| path.join("manifest.json").exists())
    };
    let push = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| push_as(&world, &other, &a));
        let push = until("a committed push", PATIENCE, staged);
        client.kill();
        let _ = pushing.join();
        push
    });
    until("the receiver ends", PATIENCE, || (!Path::new(&format!("/proc/{receiver}")).exists()).then_some(()));
    assert!(push.join("scope.json").exists(), "{push:?}");
    let again = target.start();
    assert!(again.said().contains("this pusher may not upload lineage a.example"), "{}", again.said());
    assert!(staged().is_none() && !target.deployed("a.example").exists());
}

#[test]
fn it_listens_on_several_addresses_of_both_families() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let second = free_port();
    let addresses = format!("listen_address: ['127.0.0.1', '[::1]:{second}', '127.0.0.2', '::']");
    change(&target, "listen_address: 127.0.0.1", &addresses);
    let mut client = target.start();
    for address in [format!("[::1]:{}", target.port), format!("[::1]:{second}"), format!("127.0.0.2:{}", target.port)] {
        TcpStream::connect(&address).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    assert!(TcpStream::connect(("127.0.0.1", second)).is_err(), "the second port is that of one address");
    assert!(client.stop().success());

    change(&target, &addresses, "listen_address: ''\n  socket_backlog: 7");
    let mut client = started(&target, daemon(&target), "Listening for incoming connections at :::");
    TcpStream::connect(("127.0.0.1", target.port)).expect("IPv4");
    TcpStream::connect(("::1", target.port)).expect("IPv6");
    let sockets = certdeploy_tests::process::run({
        let mut ss = command("/usr/bin/ss");
        ss.args(["-Hltn", &format!("sport = :{}", target.port)]);
        ss
    });
    assert!(sockets.stdout.contains(" 7 "), "the backlog: {}", sockets.said());
    // Connections that linger must not keep the next start away.
    let _lingering = TcpStream::connect(("127.0.0.1", target.port));
    assert!(client.stop().success());
    let _again = started(&target, daemon(&target), "Listening for incoming connections at :::");
}

#[test]
fn an_address_that_cannot_be_had_is_named_with_the_way_out() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let taken = std::net::TcpListener::bind(("127.0.0.1", target.port)).expect("bind");
    let ended = certdeploy_tests::process::run(daemon(&target)).ended(1);
    let said = format!("Failed to listen on 127.0.0.1:{}: Address already in use", target.port);
    assert!(ended.said().contains(&said) && ended.said().contains("ss -ltnp"), "{}", ended.said());
    drop(taken);
    change(&target, "listen_address: 127.0.0.1", "listen_address: 192.0.2.77");
    let ended = certdeploy_tests::process::run(daemon(&target)).ended(1);
    assert!(ended.said().contains("this machine does not have this address"), "{}", ended.said());
}

#[test]
fn sockets_that_systemd_hands_over_are_used_and_no_others() {
    if !can_run("door", &[Need::Program("systemd-socket-activate")]) {
        return;
    }
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let lineage = world.lineage("a.example", &["a.example"]);
    world.write_server(&[&target]);
    let unused = free_port();
    change(&target, &format!("listen_port: {}", target.port), &format!("listen_port: {unused}"));
    let activate = |what: &[&str]| {
        let mut activate = command("/usr/bin/systemd-socket-activate");
        activate.args(what).arg("-l").arg(format!("127.0.0.1:{}", target.port));
        let client = daemon(&target);
        activate.arg(client.get_program()).args(client.get_args());
        Daemon::start("certdeploy-client", activate, &target.log)
    };
    let mut client = activate(&[]);
    // The first connection starts it.
    let _ = world.hook(&lineage).ended(0);
    until("a push through the handed socket", PATIENCE, || (world.server(&["--push"]).code == Some(0)).then_some(()));
    target.updates(&lineage);
    assert!(client.said().contains("systemd has handed over 1 listening socket(s)"), "{}", client.said());
    assert!(port_is_free(unused), "the port of the config is not bound");
    let environment = std::fs::read_to_string(&target.script_environment).expect("the script's environment");
    assert!(!environment.contains("LISTEN_"), "{environment}");
    assert!(client.stop().success());

    let mut client = activate(&["--datagram"]);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    until("it starts and refuses", PATIENCE, || {
        let _ = socket.send_to(b"x", ("127.0.0.1", target.port));
        client.said().contains("descriptor 3 is no TCP socket").then_some(())
    });
    assert!(!client.ends().success());
}

#[test]
fn files_are_opened_in_every_way_that_clients_know() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let lineage = world.lineage("a.example", &["a.example"]);
    let mut client = target.start();
    let mut session = Sftp::open(ssh::client("certdeploy", target.port, &[&world.server_key()]));
    assert_eq!(session.make_directory("a.example").code(), Some(0));
    let (write, create) = (flags::WRITE, flags::WRITE | flags::CREATE);
    let (one, two) = lineage.issued.privkey.split_at(100);
    let path = "a.example/privkey.pem";
    // As `reput`, `put -a` and a log writer do it: nothing that is there is lost.
    session.put(path, create, one.as_bytes()).expect("new");
    for (offset, flags, piece) in
        [(0, create | flags::APPEND, &two[..50]), (150, write, &two[50..60]), (9, write | flags::APPEND, &two[60..])]
    {
        let handle = session.open_file(path, flags).expect("open");
        assert_eq!(session.write(&handle, offset, piece.as_bytes()).code(), Some(0));
        assert_eq!(session.close(&handle).code(), Some(0));
    }
    let exclusive = session.open_file(path, create | flags::EXCLUSIVE).unwrap_err();
    assert!(exclusive.words().contains("exists"), "{exclusive:?}");
    let path = "a.example/fullchain.pem";
    assert_eq!(session.open_file(path, write).unwrap_err().code(), Some(2), "no such file");
    session.put(path, create | flags::TRUNCATE, &[b'x'; 9000]).expect("put");
    session.put(path, create | flags::TRUNCATE, lineage.issued.fullchain.as_bytes()).expect("again");
    session.bye();
    target.receives(&lineage);
    assert!(client.runs());
}

#[test]
fn a_push_that_is_under_way_at_the_end_is_finished() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let lineage = world.lineage("a.example", &["a.example"]);
    let mut client = target.start();
    let mut session = Sftp::open(ssh::client("certdeploy", target.port, &[&world.server_key()]));
    put(&mut session, &lineage).expect("put");
    client.signal(Signal::TERM);
    until("nobody else gets in", PATIENCE, || TcpStream::connect(("127.0.0.1", target.port)).is_err().then_some(()));
    let late = flags::WRITE | flags::CREATE;
    session.put("a.example/cert.pem", late, lineage.issued.cert.as_bytes()).expect("it goes on");
    session.bye();
    assert!(client.ends().success(), "{}", client.said());
    let _ = target.start();
    target.receives(&lineage);
}

/// The peer leaves the whole connection, so that it is over before its upload is taken over.
#[test]
fn an_upload_that_ends_with_its_connection_counts_at_the_end_and_after_a_reload() {
    for order in [Signal::TERM, Signal::HUP] {
        let world = World::new();
        let target = world.target("web", &["a.example"]);
        let lineage = world.lineage("a.example", &["a.example"]);
        let mut client = target.start();
        let mut session = Sftp::open(ssh::client("certdeploy", target.port, &[&world.server_key()]));
        put(&mut session, &lineage).expect("put");
        client.signal(order);
        if order == Signal::TERM {
            let refused = || TcpStream::connect(("127.0.0.1", target.port)).is_err().then_some(());
            until("nobody else gets in", PATIENCE, refused);
            session.terminate();
            assert!(client.ends().success(), "{}", client.said());
            assert!(target.holds(&lineage), "{}", client.said());
        } else {
            client.says("Reloaded `");
            session.terminate();
            target.receives(&lineage);
        }
    }
}

#[test]
fn four_hundred_lineages_in_one_plain_upload_are_all_put_in_place() {
    const MANY: usize = 400;
    let world = World::new();
    let mut target = world.target("web", &["a.example"]);
    target.updates = false;
    target.write_config();
    let mut lineage = world.lineage("a.example", &["a.example"]);
    let mut client = target.start();
    let mut session = Sftp::open(ssh::client("certdeploy", target.port, &[&world.server_key()]));
    for n in 0..MANY {
        lineage.name = format!("{n}.example");
        put(&mut session, &lineage).expect("put");
    }
    session.bye();
    let in_place = || (0..MANY).all(|n| target.deployed(&format!("{n}.example")).exists()).then_some(());
    until("all are in place", 4 * PATIENCE, in_place);
    assert!(client.runs(), "{}", client.said());
    assert!(client.stop().success(), "{}", client.said());
}

#[test]
fn refused_operations_are_one_line_for_each_connection() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let client = target.start();
    let mut batch = String::from("-mkdir a.example\n");
    for n in 0..50 {
        batch.push_str(&format!(
            "-mkdir ../{}{n}\n-rm /etc/passwd\n-ln a b\n-rename a.example b.example\n",
            "x".repeat(200)
        ));
    }
    let _ = sftp::batch(&world, target.port, &target.pinned, &batch);
    let said = until("the line", PATIENCE, || {
        let said = client.said();
        said.contains(" more like it)").then_some(said)
    });
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("Refused")).collect();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(line.starts_with("WARNING:certdeploy-client: Refused 127.0.0.1:"), "{line}");
    assert!(line.contains("MKDIR `/../xxx") && line.contains("`: `..` "), "{line}");
    assert!(line.len() < 400, "{line}");
}
