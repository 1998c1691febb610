//! The harness itself: a judge that cannot find anyone guilty proves nothing.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use certdeploy_tests::ca::Validity;
use certdeploy_tests::loop_image::LoopImage;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::power::{Step, died_in_the_end, dying_at, last_step, steps};
use certdeploy_tests::process::{command, run};
use certdeploy_tests::readers::Readers;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::wire_tap::WireTap;
use certdeploy_tests::{Ca, Lineage, until};

#[test]
fn readers_see_a_mixed_pair_a_cut_file_and_a_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let names = ["example.com".to_owned()];
    let (one, two) = (ca.issue(&names, Validity::usual(1)), ca.issue(&names, Validity::usual(2)));
    let lineage = folder.path();
    std::fs::create_dir(lineage.join(".gen-1")).unwrap();
    symlink(".gen-1", lineage.join("..data")).unwrap();
    let put = |name: &str, text: &str| {
        let new = lineage.join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, lineage.join(".gen-1").join(name)).unwrap();
    };
    for (name, text) in [("fullchain.pem", &one.fullchain), ("privkey.pem", &one.privkey), ("cert.pem", &one.cert)] {
        put(name, text);
        symlink(format!("..data/{name}"), lineage.join(name)).unwrap();
    }
    let faults = |change: &dyn Fn()| {
        let readers = Readers::start(lineage, &one);
        readers.expect(&two);
        change();
        std::thread::sleep(std::time::Duration::from_millis(50));
        readers.stop().faults.join("\n")
    };
    assert_eq!(faults(&|| ()), "");
    assert!(faults(&|| put("privkey.pem", &two.privkey)).contains("fullchain of issue 0, key of issue 1"));
    put("privkey.pem", &one.privkey);
    assert!(faults(&|| put("cert.pem", &one.cert[..100])).contains("cert.pem: 100 bytes that were never issued"));
    put("cert.pem", &one.cert);
    assert!(faults(&|| std::fs::remove_file(lineage.join("cert.pem")).unwrap()).contains("cert.pem: No such file"));
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let needs = [Need::Root, Need::Program("mkfs.ext4"), Need::Program("mount")];
    if !can_run("harness::a_power_cut", &needs) {
        return;
    }
    let mut image = LoopImage::new();
    std::fs::write(image.mount.join("unsynced"), "x").unwrap();
    image.cut_power();
    assert!(!image.mount.join("unsynced").exists(), "not synced, and there");

    let mut file = File::create(image.mount.join("synced")).unwrap();
    file.write_all(b"x").unwrap();
    file.sync_all().unwrap();
    File::open(&image.mount).unwrap().sync_all().unwrap();
    drop(file);
    image.cut_power();
    assert_eq!(std::fs::read(image.mount.join("synced")).unwrap(), b"x");
    // A baseline comes back whole, whatever happened since.
    image.keep();
    std::fs::remove_file(image.mount.join("synced")).unwrap();
    image.restore();
    assert!(image.mount.join("synced").exists());
}

#[test]
fn a_program_dies_before_the_step_that_was_chosen() {
    if !can_run("harness::a_program_dies", &[Need::Program("strace")]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut mkdir = command("/usr/bin/mkdir");
    mkdir.args(["one", "two", "three"].map(|name| folder.path().join(name)));
    let mkdir_step = |number| Step { call: "mkdir".to_owned(), number };
    let ran = run(dying_at(&mkdir, &mkdir_step(2), &trace));
    assert!(ran.code.is_none() && died_in_the_end(&trace, ran.id), "{}", ran.said());
    assert!(last_step(&trace).contains("two"), "{}", last_step(&trace));
    assert!(folder.path().join("one").exists() && !folder.path().join("two").exists());
    let ran = run(dying_at(&mkdir, &mkdir_step(9), &trace));
    assert!(ran.code.is_some() && !died_in_the_end(&trace, ran.id) && folder.path().join("three").exists());
    assert_eq!(steps(&trace), [1, 2, 3].map(mkdir_step));
}

#[test]
fn a_tap_records_both_sides_and_cuts_where_it_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tap = WireTap::before(listener.local_addr().unwrap().port());
    let echo = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let (mut stream, mut got) = (stream.unwrap(), Vec::new());
            let _ = stream.read_to_end(&mut got);
            let _ = stream.write_all(&got);
        }
    });
    let send = || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", tap.port)).unwrap();
        stream.write_all(b"0123456789").unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back);
        back
    };
    assert_eq!(send(), b"0123456789");
    until("the tap saw the answer", PATIENCE, || (tap.connections()[0].received() == b"0123456789").then_some(()));
    assert_eq!(tap.connections()[0].sent(), b"0123456789");
    tap.cut_after(4);
    assert_eq!(send(), b"");
    assert_eq!(tap.connections()[1].sent(), b"0123");
    drop(tap);
    echo.join().unwrap();
}

#[test]
fn a_lineage_lies_as_certbot_lays_it() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let mut lineage = Lineage::new(folder.path(), &ca, "example.com", &["example.com"]);
    lineage.renew(&ca);
    let link = |name: &str| std::fs::read_link(lineage.live.join(name)).unwrap().display().to_string();
    assert_eq!(link("privkey.pem"), "../../archive/example.com/privkey2.pem");
    assert_eq!(std::fs::read_to_string(lineage.live.join("fullchain.pem")).unwrap(), lineage.issued.fullchain);
    assert!(folder.path().join("archive/example.com/cert1.pem").exists());
}
