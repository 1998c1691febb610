//! `make demo`: one renewal and then another travel from certbot's hook to a script that uses the files. Ends 0 only if
//! the bytes at the destination are the lineage's and the script ran, both times; leaves nothing behind either way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use certdeploy_common::cert::FileName;
use certdeploy_tests::process::Daemon;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, Target, World, until};

fn main() -> ExitCode {
    // A panic names what is wrong; unwinding stops the daemons and removes the directory.
    let shown = catch_unwind(AssertUnwindSafe(show));
    match shown {
        Ok(()) => {
            println!("\nDone. The daemons are stopped and the directory is removed.");
            ExitCode::SUCCESS
        }
        Err(_) => {
            println!("\nThe demo failed; see above. The daemons are stopped and the directory is removed.");
            ExitCode::FAILURE
        }
    }
}

fn show() {
    let world = World::new();
    step(&format!("A directory for everything: {}", world.path("").display()));
    let target = world.target("web1", &["example.com"]);
    println!("   keys:   the server's and, for web1, a host key (ed25519)");
    let mut lineage = world.lineage("example.com", &["example.com", "www.example.com"]);
    world.write_server(&[&target]);
    println!("   CA:     a root and an issuer; lineage `example.com` as certbot lays it out:");
    show_folder(&lineage.live);

    step("Starting a client daemon and a server daemon on loopback");
    let mut client = target.start();
    let mut server = world.start_server();
    println!("   certdeploy-client listens at 127.0.0.1:{} (process {})", target.port, client.id());
    println!("   certdeploy-server runs as process {}", server.id());

    step("certbot has issued: it runs the hook with RENEWED_LINEAGE and RENEWED_DOMAINS");
    deliver(&world, &target, &lineage, 1);
    let first = target.generation("example.com");

    step("certbot renews: a new key and certificate, and the hook again");
    lineage.renew(&world.ca);
    deliver(&world, &target, &lineage, 2);
    let second = target.generation("example.com");
    assert_ne!(first, second, "a new generation");
    println!(
        "\n   what changed: ..data -> {} before, ..data -> {} now",
        first.unwrap_or_default().display(),
        second.unwrap_or_default().display()
    );

    step("Stopping both daemons with SIGTERM");
    for (name, daemon) in [("certdeploy-server", &mut server), ("certdeploy-client", &mut client)] {
        stop(name, daemon);
    }
}

fn deliver(world: &World, target: &Target, lineage: &Lineage, runs: usize) {
    let hook = world.hook(lineage).ended(0);
    println!("   the hook ended 0 after {:?}: the renewal is in the queue, on disk", hook.elapsed);
    until("the server has the receipt", PATIENCE, || {
        certdeploy_tests::status::acknowledged(&world.status(), &target.name, lineage).then_some(())
    });
    println!("   the server has web1's receipt; `certdeploy-server status` says:\n");
    let table = world.server(&["status"]);
    for line in table.stdout.lines() {
        println!("     {line}");
    }
    for name in [FileName::Fullchain, FileName::Privkey] {
        let here = target.file(&lineage.name, name).unwrap_or_default();
        assert_eq!(here, lineage.issued.file(name), "{name} at the destination is the lineage's");
    }
    println!("\n   deployed at web1, byte for byte the lineage's:");
    show_folder(&target.deployed(&lineage.name));
    target.updates(lineage);
    assert_eq!(target.script_runs().len(), runs, "one run of the script for each renewal");
    println!("   the script that uses them ran: {}", target.script_runs().last().map_or("", String::as_str));
}

/// `ls -l` of a lineage, links and what they lead to.
fn show_folder(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut names: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let link = std::fs::read_link(&path).map(|to| format!(" -> {}", to.display())).unwrap_or_default();
        if let Ok(meta) = path.metadata() {
            let mode = meta.permissions().mode() & 0o7777;
            println!("     {mode:04o} {:>5} {}{link}", meta.len(), name.display());
        }
    }
}

fn stop(name: &str, daemon: &mut Daemon) {
    let status = daemon.stop();
    assert!(status.success(), "{name} ends 0 on SIGTERM: {status}\n{}", daemon.said());
    println!("   {name} ended 0");
}

fn step(what: &str) {
    println!("\n== {what}");
}
