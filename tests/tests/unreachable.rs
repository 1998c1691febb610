//! Targets that cannot be pushed to, each for a reason of its own: each has its own words, none takes long, and the one
//! that is well gets its certificate meanwhile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use certdeploy_common::ssh::key;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::peer::Peer;
use certdeploy_tests::sshd::Serves;
use certdeploy_tests::status::{acknowledged, line};
use certdeploy_tests::{Lineage, Target, World, process, sshd};

/// A listener that does `serve` with each connection; it ends with the test.
fn serving(serve: impl Fn(&mut TcpStream) + Send + Sync + Copy + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(&mut stream));
        }
    });
    port
}

fn until_end(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer), Ok(read) if read > 0) {}
}

fn http(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    let _ = stream.read(&mut buffer);
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
}

fn endless_banner(stream: &mut TcpStream) {
    for _ in 0..1024 {
        if stream.write_all(&[b'x'; 1024]).is_err() {
            return;
        }
    }
    until_end(stream);
}

fn endless_lines(stream: &mut TcpStream) {
    while stream.write_all(b"Welcome!\r\n").is_ok() {}
}

fn garbage_after_the_banner(stream: &mut TcpStream) {
    let _ = stream.write_all(b"SSH-2.0-x\r\n");
    let _ = stream.write_all(&[0xff; 4096]);
    until_end(stream);
}

fn slow_banner(stream: &mut TcpStream) {
    for byte in b"SSH-2.0-slow".iter().cycle() {
        if stream.write_all(std::slice::from_ref(byte)).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

const LIMITS: &str = "push_mode: parallel\npush_retries: 0\nsftp_tcp_timeout: 2\nsftp_banner_timeout: 2\n\
                      sftp_auth_timeout: 2\nsftp_operation_timeout: 2\npush_timeout: 6\n";

#[test]
fn each_reason_has_its_own_words_and_delays_nobody_else() {
    let world = World::new();
    let lineage = world.lineage("example.com", &["example.com"]);
    let target = world.target("well", &["example.com"]);
    let _client = target.start();
    let stranger = key::generate(&world.path("stranger"), "stranger").unwrap();
    let other_key = Target::new(&world.path("other_key"), "other_key", &["example.com"], &stranger);
    let _other_key = other_key.start();

    let peer = |name: &str, port: u16| {
        let mut peer = Peer::new(name, port, &target.pinned, "certdeploy", &world.path(name));
        peer.domains = vec!["example.com".to_owned()];
        peer
    };
    let mut changed = peer("changed", target.port);
    changed.host_key.clone_from(&stranger);
    let mut user = peer("user", target.port);
    user.user = "somebody".to_owned();
    let mut key = peer("key", other_key.port);
    key.host_key.clone_from(&other_key.pinned);
    let mut name = peer("name", 22);
    name.address = "no-such-host.invalid".to_owned();
    let banner = "SSHException: Error reading SSH protocol banner";
    let cases = [
        (changed, "BadHostKeyException: Host key for server '[127.0.0.1]:"),
        (user, "AuthenticationException: Authentication failed: user 'somebody' with the key SHA256:"),
        (key, "AuthenticationException: Authentication failed: user 'certdeploy' with the key SHA256:"),
        (name, "gaierror: cannot resolve `no-such-host.invalid`: "),
        (peer("closed", process::free_port()), "NoValidConnectionsError: Unable to connect to port"),
        (peer("http", serving(http)), banner),
        (peer("hangs-up", serving(|_| ())), banner),
        (peer("endless-banner", serving(endless_banner)), banner),
        (peer("endless-lines", serving(endless_lines)), banner),
        (peer("garbage", serving(garbage_after_the_banner)), "SSHException: "),
        (
            peer("silent", serving(until_end)),
            "TimeoutError: the SSH handshake (Error reading SSH protocol banner) took",
        ),
        (
            peer("slow", serving(slow_banner)),
            "TimeoutError: the SSH handshake (Error reading SSH protocol banner) took",
        ),
    ];
    let well = peer("well", target.port);
    let mut peers: Vec<&Peer> = cases.iter().map(|(peer, _)| peer).collect();
    peers.push(&well);
    world.write_server_for(&peers, LIMITS);

    let start = Instant::now();
    let _ = world.hook(&lineage).ended(0);
    let pushed = world.server(&["--push"]).ended(3);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(target.holds(&lineage), "{}", pushed.said());
    let status = world.status();
    assert!(acknowledged(&status, "well", &lineage));
    for (peer, words) in &cases {
        let line = line(&status, &peer.name, "example.com").unwrap_or_else(|| panic!("{} is in {status}", peer.name));
        let error = line["last_error"].as_str().unwrap_or_default();
        assert!(error.starts_with(words), "{}: {words:?} is not the start of {error:?}", peer.name);
        assert!(pushed.said().contains(error), "the log says so, too: {error}\n{}", pushed.said());
        let state = if peer.name == "changed" { "host key" } else { "owed" };
        assert_eq!(line["state"], state, "{}", peer.name);
    }
}

/// A file system so small that it can be filled.
struct Full(std::path::PathBuf);

impl Full {
    fn mount(place: &std::path::Path) -> Self {
        std::fs::create_dir_all(place).unwrap();
        let mut mount = process::command("/bin/mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=0777", "none"]).arg(place);
        let _ = process::run(mount).ended(0);
        Self(place.to_owned())
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let mut umount = process::command("/bin/umount");
        umount.arg("-l").arg(&self.0);
        let _ = process::run(umount);
    }
}

fn listing(folder: &std::path::Path) -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            (entry.file_name().into_string().unwrap(), text)
        })
        .collect();
    found.sort();
    found
}

#[track_caller]
fn push(world: &World, lineage: &Lineage, peer: &Peer, code: i32, words: &str) {
    world.write_server_for(&[peer], LIMITS);
    let _ = world.hook(lineage).ended(0);
    let pushed = world.server(&["--push"]).ended(code);
    assert!(pushed.said().contains(words), "{words:?} is not in:\n{}", pushed.said());
}

#[test]
fn a_plain_peer_that_takes_no_files_keeps_its_old_ones_and_no_halves() {
    let needs = [Need::Root, Need::Program("sshd"), Need::Program("unshare"), Need::Program("mount")];
    if !can_run("unreachable::a_plain_peer_that_takes_no_files", &needs) {
        return;
    }
    let world = World::new();
    let mut lineage = world.lineage("example.com", &["example.com"]);
    let full = Full::mount(&world.path("full"));
    let (mut peer, _sshd) = sshd::start(&world.path("peer"), &world.pusher_key, Serves::Internal);
    peer.domains = vec!["example.com".to_owned()];
    let staged = |name: &str| world.path(name).join("example.com");

    peer.path = world.path("full").display().to_string();
    push(&world, &lineage, &peer, 0, "Pushed ");
    let before = listing(&staged("full"));
    assert_eq!(before.len(), 3, "two files and the manifest: {before:?}");

    // A file of somebody else's takes what is left of the space, and the renewal finds none.
    let rest = (0..64).take_while(|_| filled(&full.0)).count();
    assert!(rest < 64);
    lineage.renew(&world.ca);
    push(&world, &lineage, &peer, 3, "(while writing: is its disk full, or a quota used up?)");
    assert_eq!(listing(&staged("full")), before, "the old files, and nothing half");

    // Where its user may not write.
    std::fs::remove_file(full.0.join("filler")).unwrap();
    std::fs::set_permissions(staged("full"), std::fs::Permissions::from_mode(0o555)).unwrap();
    std::os::unix::fs::chown(staged("full"), Some(0), Some(0)).unwrap();
    push(&world, &lineage, &peer, 3, "PermissionError: `");
    assert_eq!(listing(&staged("full")), before);

    // And where there is nothing yet, every directory is made, and that is said; `path` may begin at the session's start.
    for (path, place) in [("", ""), ("some/where", "some/where"), ("./new/path", "new/path")] {
        path.clone_into(&mut peer.path);
        peer.name = format!("sshd {path}");
        push(
            &world,
            &lineage,
            &peer,
            0,
            if path.is_empty() { "Pushed " } else { "at the target: `path` was not there" },
        );
        let folder = peer.staged.join(place).join("example.com");
        assert_eq!(std::fs::read_to_string(folder.join("privkey.pem")).unwrap(), lineage.issued.privkey, "{path:?}");
    }
}

/// Adds a page to the filler; whether there was room.
fn filled(folder: &std::path::Path) -> bool {
    let file = std::fs::File::options().create(true).append(true).open(folder.join("filler"));
    file.and_then(|mut file| file.write_all(&[0; 4096])).is_ok()
}
