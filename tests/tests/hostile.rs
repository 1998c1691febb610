//! Peers that mean harm: one attack of each kind that has worked against somebody, names that lead elsewhere, uploads
//! without end, and somebody who swaps files under our hands. Nothing outside staging changes, and the same process
//! serves the next push.

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use certdeploy_common::cert::Digest;
use certdeploy_common::ssh::key;
use certdeploy_tests::chance::Chance;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{children, command, run};
use certdeploy_tests::ssh::{self, Sftp, flags, kind, text};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Daemon, Lineage, Target, World, memory, python, until};

/// A client that runs, with a lineage deployed.
struct Host {
    world: World,
    target: Target,
    lineage: Lineage,
    client: Daemon,
    receiver: u32,
}

impl Host {
    fn new() -> Self {
        let world = World::new();
        let target = world.target("web", &["a.example"]);
        let lineage = world.lineage("a.example", &["a.example"]);
        world.write_server(&[&target]);
        let client = target.start();
        let receiver = until("a receiver", PATIENCE, || children(client.id()).first().copied());
        let mut host = Self { world, target, lineage, client, receiver };
        host.pushes();
        host
    }

    fn session(&self) -> Sftp {
        Sftp::open(ssh::client("certdeploy", self.target.port, &[&self.world.server_key()]))
    }

    /// The next issue gets in, through the same two processes.
    fn pushes(&mut self) {
        self.lineage.renew(&self.world.ca);
        let live = self.lineage.live.display().to_string();
        let _ = self.world.server(&["--push", "--lineage", &live, "--domains", "a.example"]).ended(0);
        self.target.updates(&self.lineage);
        assert!(self.client.runs() && children(self.client.id()).contains(&self.receiver), "{}", self.client.said());
        assert!(!self.client.said().contains("panicked"), "{}", self.client.said());
    }

    /// Everything of this world but staging and logs, by name, kind and content.
    fn outside(&self) -> Vec<String> {
        let mut found = Vec::new();
        let root = self.world.path("");
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let (path, meta) = (entry.path(), entry.metadata().expect("metadata"));
                if path == self.target.source.join(".incoming") || path == self.target.log {
                    continue;
                }
                let content = std::fs::read(&path).ok().filter(|_| meta.is_file());
                let content = content.map(|bytes| Digest::of(&bytes));
                found.push(format!("{path:?} {:o} {} {:?}", meta.mode(), meta.uid(), content));
                if meta.is_dir() {
                    folders.push(path);
                }
            }
        }
        found.sort();
        found
    }

    fn incoming(&self) -> PathBuf {
        self.target.source.join(".incoming")
    }
}

#[test]
fn each_known_kind_of_attack_gains_nothing() {
    if !can_run("hostile", &[Need::Python("0.5.4")]) {
        return;
    }
    let mut host = Host::new();
    let other = host.world.path("stranger");
    let _ = key::generate(&other, "stranger").expect("a key");
    let mut attack = command(python::program("0.5.4", "python").expect("the virtual environment"));
    attack.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/attack.py"));
    attack.args([&host.target.port.to_string(), "certdeploy"]).arg(host.world.server_key()).arg(&other);
    let ran = run(attack).ended(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let bad: Vec<&&str> =
        lines.iter().filter(|line| !line.ends_with(": nothing") && !line.ends_with(": ended")).collect();
    assert!(bad.is_empty(), "{bad:#?}\n{}", ran.said());
    assert!(lines.len() > 55, "{} attacks", lines.len());
    let long = host.client.said().lines().map(str::len).max().unwrap_or_default();
    assert!(long < 1000, "a line of {long} characters");
    host.pushes();
}

/// Names that have led somewhere else in somebody's server.
const NAMES: [&str; 40] = [
    "..",
    "../",
    "../..",
    "../../etc/passwd",
    "/etc/passwd",
    "/etc/cron.d/x",
    "//etc//passwd",
    "/../../etc/passwd",
    "a/../../b",
    "....//....//etc",
    "..\\..\\x",
    "%2e%2e/x",
    "..%2fx",
    "..;/x",
    ".ssh/authorized_keys",
    "~/.ssh/x",
    "~root",
    "/proc/self/mem",
    "/proc/self/fd/3",
    "/dev/fd/3",
    "/dev/null",
    "a\0b",
    "a.example/privkey.pem\0.txt",
    "a.example/../../x",
    "\u{202e}mep.yekvirp",
    "a\nb",
    "CON",
    "a:b",
    "-rf",
    "--help",
    "*",
    "$(id)",
    "`id`",
    "a b",
    ".incoming",
    ".lock",
    ".push-",
    ".session-x",
    ".plain-x-y",
    "scope.json",
];

/// So many names: those above, and what chance makes of the pieces that such names are made of.
fn names(count: usize) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"..",
        b".",
        b"/",
        b"//",
        b"a.example",
        b"privkey.pem",
        b"etc",
        b"passwd",
        b"\\",
        b"\0",
        b"%2e",
        b"~",
        b"\xff\xfe",
        b"\r\n",
        b".incoming",
        b"manifest.json",
        b"manifest.json.part",
        b"scope.json",
        b"receipt.json",
        b".held.json",
        b"-",
        b" ",
        b".push-00000000000000000000000000000000",
        b".session-00000000000000000000000000000000",
        b"..data",
        b"certs",
        b"staging",
    ];
    let mut chance = Chance::new("hostile");
    let mut names: Vec<Vec<u8>> = NAMES.iter().map(|name| name.as_bytes().to_vec()).collect();
    names.extend([vec![b'x'; 4096], vec![b'/'; 4096], b"../".repeat(1000), b"a/".repeat(2000), Vec::new()]);
    while names.len() < count {
        let mut below = |end: usize| usize::try_from(chance.below(end as u64)).expect("small");
        let length = 1 + below(7);
        names.push((0..length).flat_map(|_| pieces[below(pieces.len())].to_vec()).collect());
    }
    names
}

/// The requests that take a name, or two.
fn requests(name: &[u8], other: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (one, two) = (text(name), [text(name), text(other)].concat());
    let attributes = [vec![0, 0, 0, 4], vec![0, 0, 1, 0xff]].concat();
    let open = |flags: u32| [one.clone(), flags.to_be_bytes().to_vec(), vec![0; 4]].concat();
    let extended = |verb: &[u8]| [text(verb), two.clone()].concat();
    vec![
        (kind::OPEN, open(flags::READ)),
        (kind::OPEN, open(flags::WRITE | flags::CREATE | flags::TRUNCATE)),
        (kind::OPEN, open(flags::WRITE | flags::APPEND)),
        (7, one.clone()),
        (9, [one.clone(), attributes].concat()),
        (11, one.clone()),
        (13, one.clone()),
        (kind::MKDIR, [one.clone(), vec![0; 4]].concat()),
        (15, one.clone()),
        (16, one.clone()),
        (17, one.clone()),
        (kind::RENAME, two.clone()),
        (kind::RENAME, [text(other), text(name)].concat()),
        (19, one.clone()),
        (20, two.clone()),
        (20, [text(other), text(name)].concat()),
        (200, extended(b"posix-rename@openssh.com")),
        (200, extended(b"hardlink@openssh.com")),
        (200, extended(b"copy-file")),
        (200, extended(b"statvfs@openssh.com")),
    ]
}

#[test]
fn five_thousand_names_and_every_operation_change_nothing_outside_staging() {
    let mut host = Host::new();
    std::fs::write(host.world.path("canary"), "alive").expect("write");
    let before = host.outside();
    let all = names(5000);
    let mut answered = 0;
    for part in all.chunks(500) {
        let mut session = host.session();
        let _ = session.make_directory("a.example");
        let mut pending = 0;
        for name in part {
            for (kind, body) in requests(name, b"a.example/privkey.pem") {
                session.send(kind, &body);
                pending += 1;
            }
            while pending > 200 {
                answered += usize::from(session.answer().is_some());
                pending -= 1;
            }
        }
        answered += (0..pending).filter(|_| session.answer().is_some()).count();
    }
    assert_eq!(answered, all.len() * requests(b"", b"").len(), "each request has its answer");
    assert_eq!(host.outside(), before);
    until("what is left of them goes", PATIENCE, || {
        let left = std::fs::read_dir(host.incoming()).expect("incoming").flatten().count();
        (left == 0).then_some(())
    });
    host.pushes();
}

/// Whoever has taken the receiver over can do this much: swap what lies in its directory while root copies it.
#[test]
fn files_that_are_swapped_for_links_meanwhile_are_never_followed() {
    let mut host = Host::new();
    let secret = host.world.path("secret");
    std::fs::write(&secret, "-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----\n").expect("write");
    let folder = host.world.path("folder");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("privkey.pem"), "CANARY").expect("write");
    let (stop, swapped) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    let incoming = host.incoming();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir(&incoming).into_iter().flatten().flatten() {
                    let (path, n) = (entry.path(), swapped.fetch_add(1, Ordering::Relaxed));
                    if path.is_symlink() {
                        // Not through our own link, or we would change what it leads to.
                        let _ = std::fs::remove_file(&path);
                    } else if n.is_multiple_of(3) {
                        let _ = std::fs::rename(&path, path.with_extension("gone"));
                        let _ = symlink(&folder, &path);
                    } else {
                        let _ = std::fs::remove_file(path.join("privkey.pem"));
                        let at = path.join("privkey.pem");
                        let _ =
                            if n.is_multiple_of(2) { std::fs::hard_link(&secret, at) } else { symlink(&secret, at) };
                    }
                }
            }
        });
        let live = host.lineage.live.display().to_string();
        for _ in 0..15 {
            host.lineage.renew(&host.world.ca);
            let _ = host.world.server(&["--push", "--lineage", &live, "--domains", "a.example", "--force"]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(swapped.load(Ordering::Relaxed) > 0, "nothing was swapped");
    assert!(std::fs::read_to_string(&secret).expect("it is there").contains("CANARY"));
    assert_eq!(std::fs::read_to_string(folder.join("privkey.pem")).expect("it is there"), "CANARY");
    let mut deployed = String::new();
    for entry in std::fs::read_dir(host.target.deployed("a.example")).expect("the lineage").flatten() {
        for file in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            let _ = write!(deployed, "{}", std::fs::read_to_string(file.path()).unwrap_or_default());
        }
    }
    assert!(!deployed.is_empty() && !deployed.contains("CANARY"));
    host.pushes();
}

#[test]
fn too_much_of_anything_is_refused_at_the_cap_and_costs_no_memory() {
    let mut host = Host::new();
    let mut session = host.session();
    let create = flags::WRITE | flags::CREATE | flags::TRUNCATE;
    assert_eq!(session.make_directory("big.example").code(), Some(0));
    let large = vec![b'x'; 64 * 1024];
    let refused = session.put("big.example/privkey.pem", create, &large).unwrap_err();
    assert!(refused.words().contains("larger than 16384 bytes"), "{refused:?}");
    let handle = session.open_file("big.example/cert.pem", create).expect("open");
    for offset in [1 << 20, 1 << 40, u64::MAX - 3, u64::MAX] {
        assert_ne!(session.write(&handle, offset, b"xxxx").code(), Some(0), "at {offset}");
    }
    let before = memory::status(host.receiver, "VmHWM:");
    let mut codes = std::collections::BTreeMap::new();
    let mut count = |session: &mut Sftp, asked: usize, refused: &str| {
        for _ in 0..asked {
            let reply = session.reply();
            let what = if reply.code() == Some(4) { reply.words() } else { format!("{:?}", reply.code()) };
            *codes.entry(what).or_insert(0) += 1;
        }
        std::mem::take(&mut codes).remove(refused).unwrap_or(0)
    };
    let mut ask = |session: &mut Sftp, kind: u8, body: &dyn Fn(usize) -> Vec<u8>, refused: &str| {
        let mut told = 0;
        for part in 0..500 {
            for n in 0..200 {
                session.send(kind, &body(part * 200 + n));
            }
            told += count(session, 200, refused);
        }
        told
    };
    let lineages = |n: usize| [text(format!("l{n}.example").as_bytes()), vec![0; 4]].concat();
    let told = ask(&mut session, kind::MKDIR, &lineages, "too many lineages");
    assert_eq!(told, 100_000 - 1023);
    let files = |_: usize| [text(b"l1.example/cert.pem"), create.to_be_bytes().to_vec(), vec![0; 4]].concat();
    let told = ask(&mut session, kind::OPEN, &files, "too many open files");
    assert_eq!(told, 100_000 - 30, "two are open already");
    let grown = memory::status(host.receiver, "VmHWM:") - before;
    assert!(grown < 8 * 1024, "{grown} kB for 1,024 lineages and 200,000 requests");
    assert!(memory::descriptors(host.receiver) < 100);
    drop(session);
    host.pushes();
}
