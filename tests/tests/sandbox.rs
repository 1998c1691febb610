//! What the receiver and the validator cannot do, tried from inside: a tracer lets the very processes that run make the
//! calls.
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use certdeploy_tests::World;
use certdeploy_tests::inside::{Argument, Ended, Inside};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{Daemon, binary, children, command, open_files};
use certdeploy_tests::wait::{PATIENCE, until};

const NEEDS: &[Need] = &[Need::Root];
const EPERM: i64 = 1;
const EACCES: i64 = 13;
const ENOSYS: i64 = 38;
/// `AT_FDCWD`.
const HERE: i64 = -100;
/// `O_CREAT | O_RDWR`.
const NEW: i64 = 66;

/// A call that is tried: what it is, its number, its arguments.
type Try<'a> = (&'a str, libc::c_long, &'a [Argument]);

/// What each call gives in the process `id`, by a name for it.
fn tried<'a>(id: u32, calls: &[Try<'a>]) -> BTreeMap<&'a str, Ended> {
    let mut process = Inside::of(id);
    calls.iter().map(|(what, number, arguments)| (*what, process.call(*number, arguments))).collect()
}

fn status(id: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the state of a process");
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// The receiver of a daemon, once it is confined.
fn receiver(client: &mut Daemon) -> u32 {
    client.says("The receiver is confined by");
    children(client.id()).into_iter().find(|id| !open_files(*id).is_empty()).expect("a receiver")
}

/// A directory that everybody may write to.
fn open_to_all(world: &World) -> PathBuf {
    let path = world.path("open-to-all");
    std::fs::create_dir(&path).expect("a folder");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
    path
}

#[track_caller]
fn has_nothing(id: u32) {
    let status = status(id);
    let field = |name: &str| status.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1", "2"), "{status:?}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert!(!field("Uid").split_whitespace().any(|id| id == "0"), "{}", field("Uid"));
    assert!(!field("Gid").split_whitespace().any(|id| id == "0"), "{}", field("Gid"));
    assert_eq!(field("Groups"), "");
}

#[test]
fn the_receiver_reaches_its_directory_and_nothing_else() {
    if !can_run("sandbox::the_receiver", NEEDS) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["a.example", "b.example"]);
    world.write_server(&[&target]);
    let lineage = world.lineage("a.example", &["a.example"]);
    let outside = open_to_all(&world);
    let mut client = target.start();
    let id = receiver(&mut client);
    has_nothing(id);

    // It works all the same, with its threads.
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    target.updates(&lineage);
    for thread in std::fs::read_dir(format!("/proc/{id}/task")).expect("threads").flatten() {
        let text = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        assert!(text.is_empty() || text.contains("Seccomp:\t2"), "{text}");
    }

    let fds = open_files(id);
    let incoming = fds.iter().find(|(_, to)| to.ends_with(".incoming")).expect("its directory").0;
    let incoming: &Argument = &incoming.parse::<i64>().expect("a number").into();
    let new: &Argument = &format!("{}/new", outside.display()).as_str().into();
    let (nothing, read, write): (&Argument, &Argument, &Argument) = (&0.into(), &0.into(), &NEW.into());
    let mode: &Argument = &0o600.into();
    for (what, ended) in tried(
        id,
        &[
            ("list", libc::SYS_openat, &[incoming.clone(), ".".into(), read.clone()]),
            ("make", libc::SYS_openat, &[incoming.clone(), "proof".into(), write.clone(), mode.clone()]),
            ("rename", libc::SYS_renameat, &[incoming.clone(), "proof".into(), incoming.clone(), "proof2".into()]),
            ("remove", libc::SYS_unlinkat, &[incoming.clone(), "proof2".into(), nothing.clone()]),
        ],
    ) {
        assert!(matches!(ended, Ended::Gave(0..)), "{what} below its directory: {ended:?}");
    }
    for (what, ended) in tried(
        id,
        &[
            ("read", libc::SYS_openat, &[HERE.into(), "/etc/passwd".into(), read.clone()]),
            ("list", libc::SYS_openat, &[incoming.clone(), "..".into(), read.clone()]),
            ("climb", libc::SYS_openat, &[incoming.clone(), "../../../../../../etc/passwd".into(), read.clone()]),
            ("make", libc::SYS_openat, &[HERE.into(), new.clone(), write.clone(), mode.clone()]),
            ("make a directory", libc::SYS_mkdirat, &[HERE.into(), new.clone(), mode.clone()]),
        ],
    ) {
        assert_eq!(ended, Ended::Failed(EACCES), "{what} elsewhere");
    }
    for (what, ended) in tried(id, &refused(client.id())) {
        assert_eq!(ended, Ended::Failed(EPERM), "{what}");
    }
    assert_eq!(std::fs::read_dir(&outside).expect("the folder").count(), 0);

    // It has survived all of that and still works; what only an attacker asks for, it does not survive.
    let other = world.lineage("b.example", &["b.example"]);
    let _ = world.hook(&other).ended(0);
    let _ = world.server(&["--push"]).ended(0);
    target.updates(&other);
    assert!(children(client.id()).contains(&id));
    assert_eq!(tried(id, &[("trace", libc::SYS_ptrace, &[])])["trace"], Ended::Killed(libc::SIGSYS));
    assert!(!client.ends().success());
    assert!(client.said().contains("the receiver has ended"), "{}", client.said());
}

/// What neither of them may.
fn refused(another: u32) -> Vec<Try<'static>> {
    let execute: &[Argument] = vec!["/bin/true".into(), 0.into(), 0.into()].leak();
    let signal: &[Argument] = vec![i64::from(another).into(), 0.into()].leak();
    let memory: &[Argument] = vec![0.into(), 4096.into(), 7.into(), 34.into(), (-1).into(), 0.into()].leak();
    let socket = |family: i64| -> &[Argument] { vec![family.into(), 1.into(), 0.into()].leak() };
    vec![
        ("execute", libc::SYS_execve, execute),
        ("a process", libc::SYS_fork, &[]),
        ("a process by clone", libc::SYS_clone, vec![17.into(), 0.into()].leak()),
        ("an internet socket", libc::SYS_socket, socket(2)),
        ("a local socket", libc::SYS_socket, socket(1)),
        ("a netlink socket", libc::SYS_socket, socket(16)),
        ("a pair of sockets", libc::SYS_socketpair, socket(1)),
        ("a signal to another", libc::SYS_kill, signal),
        ("memory to be executed", libc::SYS_mmap, memory),
        ("to become root", libc::SYS_setuid, vec![0.into()].leak()),
        ("another filter", libc::SYS_seccomp, &[]),
    ]
}

/// A validator that waits for its upload.
struct Validator(Child);

impl Validator {
    fn start(world: &World) -> Self {
        let mut validator = command(binary("certdeploy-client"));
        validator.arg("internal-validator").uid(65534).gid(65534).current_dir("/");
        validator.stdin(Stdio::piped()).stdout(std::fs::File::create(world.path("answer")).expect("a file"));
        let child = validator.spawn().expect("start it");
        until("it is confined", PATIENCE, || (status(child.id()).get("Seccomp_filters")? == "3").then_some(()));
        Self(child)
    }
}

impl Drop for Validator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_validator_reads_and_writes_what_is_open_and_nothing_else() {
    if !can_run("sandbox::the_validator", NEEDS) {
        return;
    }
    let world = World::new();
    let outside = open_to_all(&world);
    let validator = Validator::start(&world);
    let id = validator.0.id();
    let new: Argument = format!("{}/new", outside.display()).as_str().into();
    for (what, ended) in tried(
        id,
        &[
            ("read", libc::SYS_openat, &[HERE.into(), "/etc/passwd".into(), 0.into()]),
            ("make", libc::SYS_openat, &[HERE.into(), new, NEW.into(), 0o600.into()]),
            ("a thread", libc::SYS_clone, &[libc::c_long::from(libc::CLONE_THREAD).into()]),
        ],
    ) {
        assert_eq!(ended, Ended::Failed(EPERM), "{what}");
    }
    for (what, ended) in tried(id, &refused(std::process::id())) {
        assert_eq!(ended, Ended::Failed(EPERM), "{what}");
    }
    for (what, number) in
        [("connections", libc::SYS_accept4), ("clone3", libc::SYS_clone3), ("names", libc::SYS_unlinkat)]
    {
        assert_eq!(tried(id, &[(what, number, &[])])[what], Ended::Failed(ENOSYS), "{what}");
    }
    assert_eq!(tried(id, &[("", libc::SYS_bpf, &[])])[""], Ended::Killed(libc::SIGSYS));
}

/// The number of a user of this machine.
fn user(name: &str) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let field = |line: &str, number: usize| line.split(':').nth(number).unwrap_or_default().to_owned();
    users.lines().find(|line| field(line, 0) == name).map(|line| field(line, 2))
}

#[test]
fn the_receiver_is_the_configured_user_or_nobody() {
    if !can_run("sandbox::the_receiver_is", NEEDS) {
        return;
    }
    for (wanted, is) in [("daemon", "daemon"), ("certdeploy-none-such", "nobody")] {
        let world = World::new();
        let target = world.target("web1", &["a.example"]);
        let text = std::fs::read_to_string(&target.config).expect("client.yml");
        let text = text.replace("sftpd:\n", &format!("sftpd:\n  user: {wanted}\n"));
        std::fs::write(&target.config, text).expect("write");
        world.write_server(&[&target]);
        let lineage = world.lineage("a.example", &["a.example"]);
        let mut client = target.start();
        let id = receiver(&mut client);
        let (status, number) = (status(id), user(is).expect("the user"));
        let ids: Vec<&str> = status.get("Uid").expect("Uid").split_whitespace().collect();
        assert_eq!(ids, [number.as_str(); 4], "{wanted}");
        let warning = format!(
            "WARNING:certdeploy-client: There is no user `{wanted}`; running without privileges as `nobody` instead"
        );
        assert_eq!(client.said().matches(&warning).count(), usize::from(wanted != is), "{}", client.said());
        let _ = world.hook(&lineage).ended(0);
        let _ = world.server(&["--push"]).ended(0);
        target.updates(&lineage);
    }
}
