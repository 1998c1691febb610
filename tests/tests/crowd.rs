//! A crowd of strangers at the client's door: half-open connections from many addresses, more all the time, and none of
//! them ever says a word. The pusher gets in every time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use certdeploy_tests::World;
use rustix::net::{AddressFamily, SocketType};

/// A connection to `port` from an address of its own.
fn connect(from: Ipv4Addr, port: u16) -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(socket)
}

/// The `n`th stranger's address.
fn address(n: usize) -> Ipv4Addr {
    let [.., high, low] = u32::try_from(n % 60_000).expect("small").to_be_bytes();
    Ipv4Addr::new(127, 9, high, low)
}

#[test]
fn many_hundred_silent_strangers_and_more_all_the_time_do_not_keep_the_pusher_out() {
    const PUSHES: usize = 20;
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let mut lineage = world.lineage("a.example", &["a.example"]);
    world.write_server(&[&target]);
    let mut client = target.start();
    let port = target.port;
    let mut held: Vec<OwnedFd> = (0..800).map(|n| connect(address(n), port).expect("connect")).collect();
    let (stop, come) = (AtomicBool::new(false), AtomicUsize::new(held.len()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // New ones take the place of those that the client has closed; 800 of ours are open at any time.
            while !stop.load(Ordering::Relaxed) {
                let n = come.fetch_add(1, Ordering::Relaxed);
                if let Ok(stranger) = connect(address(n), port) {
                    let at = n % held.len();
                    held[at] = stranger;
                }
            }
        });
        for n in 0..PUSHES {
            let live = lineage.live.display().to_string();
            let words = ["--push", "--lineage", &live, "--domains", "a.example"];
            let ran = world.server(&words);
            if ran.code != Some(0) {
                stop.store(true, Ordering::Relaxed);
                panic!("push {n} of {PUSHES} with {} strangers so far: {}", come.load(Ordering::Relaxed), ran.said());
            }
            lineage.renew(&world.ca);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let come = come.load(Ordering::Relaxed);
    assert!(come > 800 + PUSHES, "only {come} strangers came");
    assert!(client.runs());
    let open = std::fs::read_dir(format!("/proc/{}/fd", client.id())).expect("its descriptors").count();
    assert!(open < 200, "{open} descriptors are open");
    let complaints = client.said().matches("Too many connections: turned away").count();
    assert!((1..200).contains(&complaints), "{complaints} lines about {come} strangers");
}

#[test]
fn one_address_alone_cannot_take_every_place() {
    let world = World::new();
    let target = world.target("web", &["a.example"]);
    let lineage = world.lineage("a.example", &["a.example"]);
    world.write_server(&[&target]);
    let _client = target.start();
    let _held: Vec<OwnedFd> = (0..300).filter_map(|_| connect(Ipv4Addr::new(127, 9, 0, 1), target.port).ok()).collect();
    let _ = world.hook(&lineage).ended(0);
    let _ = world.server(&["--push"]).ended(0);
}
