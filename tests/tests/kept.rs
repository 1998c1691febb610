//! One bad upload is nobody else's business, and nothing that readers use is taken away because it cannot be kept.

use certdeploy_common::cert::FileName::{Cert, Fullchain, Privkey};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::Daemon;
use certdeploy_tests::sets::Sets;

#[test]
fn an_upload_that_is_unfit_is_refused_by_itself_and_the_others_go_on() {
    let mut scene = Sets::new("unfit");
    for (number, words) in [(1, "is larger than 16384 bytes"), (2, "belongs to user 65534"), (3, "is not a plain file")]
    {
        if number == 2 && !can_run("kept::an_upload_that_is_unfit", &[Need::Root]) {
            continue;
        }
        let good = scene.issue();
        let length = if number == 1 { 60_000 } else { 10 };
        let bad = scene.upload(2 * number, &[(Privkey, &"x".repeat(length))]);
        match number {
            2 => std::os::unix::fs::chown(bad.join("privkey.pem"), Some(65534), None).unwrap(),
            3 => std::fs::hard_link(bad.join("privkey.pem"), bad.join("other")).unwrap(),
            _ => {}
        }
        let other = scene.upload(2 * number + 1, &[(Fullchain, &good.fullchain), (Privkey, &good.privkey)]);
        let ran = scene.pass("").ended(1);
        let named = format!("upload `{}`: `privkey.pem` {words}", bad.file_name().unwrap().to_str().unwrap());
        assert!(ran.said().contains(&named), "{named}\n{}", ran.said());
        scene.holds(&good, &[Cert, Fullchain, Privkey]);
        assert!(!bad.exists() && !other.exists());
        let _ = scene.pass("").ended(0);
    }
}

#[test]
fn junk_does_not_throw_away_a_good_half_that_waits() {
    let mut scene = Sets::new("good-half");
    let first = scene.issue();
    scene.stage(&first, &[Fullchain, Privkey]);
    let _ = scene.pass("").ended(0);
    let second = scene.issue();
    let half = scene.upload(1, &[(Privkey, &second.privkey)]);
    let junk = scene.upload(2, &[(Fullchain, "junk\n")]);
    let ran = scene.pass("").ended(1);
    assert!(ran.said().contains("waits for cert.pem and fullchain.pem"), "{}", ran.said());
    assert!(half.exists() && !junk.exists());
    scene.holds(&first, &[Cert, Fullchain, Privkey]);
    scene.upload(3, &[(Fullchain, &second.fullchain)]);
    // Junk that is newer than all of it.
    scene.upload(4, &[(Privkey, "junk\n")]);
    let _ = scene.pass("").ended(1);
    scene.holds(&second, &[Cert, Fullchain, Privkey]);
    let left = std::fs::read_dir(scene.pass.path("staging/.incoming")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_backup_of_hard_links_takes_nothing_away() {
    let mut scene = Sets::new("hard-links");
    let first = scene.issue();
    scene.left_plain(&first, &[Privkey]);
    let backup = scene.pass.path("backup");
    std::fs::create_dir(&backup).unwrap();
    std::fs::hard_link(scene.place(Privkey), backup.join("privkey.pem")).unwrap();
    scene.stage(&first, &[Fullchain]);
    let _ = scene.pass("").ended(0);
    scene.holds(&first, &[Cert, Fullchain, Privkey]);
    // And one of what ours deployed.
    let current = scene.pass.path("certs/a.example/..data").canonicalize().unwrap();
    for name in ["privkey.pem", "fullchain.pem", "cert.pem", ".record.json"] {
        std::fs::hard_link(current.join(name), backup.join(format!("{name}.1"))).unwrap();
    }
    let second = scene.issue_again(&first);
    for (issued, new) in [(&first, false), (&second, true)] {
        scene.stage(issued, &[Fullchain]);
        let said = scene.pass("").ended(0).said();
        assert!(said.contains("Deployed lineage") == new && !said.contains("somebody else"), "{said}");
        scene.holds(issued, &[Cert, Fullchain, Privkey]);
    }
}

#[test]
fn what_cannot_be_kept_is_not_taken_away() {
    if !can_run("kept::what_cannot_be_kept", &[Need::Root]) {
        return;
    }
    let mut scene = Sets::new("not-kept");
    let issued = scene.issue();
    let elsewhere = scene.pass.path("elsewhere.pem");
    std::fs::write(&elsewhere, &issued.privkey).unwrap();
    let folder = scene.pass.path("certs/a.example");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("fullchain.pem"), &issued.fullchain).unwrap();
    std::os::unix::fs::chown(&folder, Some(1), None).unwrap();
    let key = scene.place(Privkey);
    let lines = "file_permissions: {owner: daemon}\n";
    type Plant<'a> = &'a dyn Fn();
    let plants: [(Plant<'_>, &str); 3] = [
        (&|| std::os::unix::fs::symlink(&elsewhere, &key).unwrap(), "leads to `"),
        (&|| std::fs::hard_link(&elsewhere, &key).unwrap(), "is not a plain file with one name"),
        (&|| std::fs::create_dir(&key).unwrap(), "is not a plain file with one name"),
    ];
    for (plant, words) in plants {
        plant();
        scene.stage(&issued, &[Fullchain]);
        let said = scene.pass(lines).ended(1).said();
        let named = format!("cannot be deployed now: `{}` {words}", key.display());
        assert!(said.contains(&named) && said.contains("put a copy of the file in its place"), "{named}\n{said}");
        assert!(key.symlink_metadata().is_ok() && !folder.join("..data").is_symlink(), "nothing was touched");
        let _ = std::fs::remove_file(&key).or_else(|_| std::fs::remove_dir(&key));
    }
    std::fs::copy(&elsewhere, &key).unwrap();
    let _ = scene.pass(lines).ended(0);
    scene.holds(&issued, &[Cert, Fullchain, Privkey]);
}

#[test]
fn a_directory_that_no_lineage_can_be_called_by_is_named_and_stops_no_other() {
    let mut scene = Sets::new("strange-name");
    let good = scene.issue();
    scene.stage(&good, &[Fullchain, Privkey]);
    let strange = scene.pass.path("staging/my cert");
    std::fs::create_dir(&strange).unwrap();
    std::fs::write(strange.join("privkey.pem"), &*good.privkey).unwrap();
    // What holds none of our files is none of our business.
    std::fs::create_dir(scene.pass.path("staging/lost+found")).unwrap();
    let ran = scene.pass("").ended(1);
    assert!(ran.said().contains("\"my cert\" is not a safe lineage name"), "{}", ran.said());
    assert!(ran.said().contains("rename the directory") && !ran.said().contains("lost+found"), "{}", ran.said());
    scene.holds(&good, &[Cert, Fullchain, Privkey]);
    std::fs::remove_dir_all(&strange).unwrap();
    let _ = scene.pass("").ended(0);
}

#[test]
fn what_lies_in_staging_and_is_not_looked_at_is_named_and_stops_no_other() {
    use std::os::unix::ffi::OsStrExt;
    let mut scene = Sets::new("strange-kind");
    let good = scene.issue();
    scene.stage(&good, &[Fullchain, Privkey]);
    let (elsewhere, link) = (scene.pass.path("elsewhere"), scene.pass.path("staging/linked.example"));
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    std::fs::write(scene.pass.path("staging/privkey.pem"), &*good.privkey).unwrap();
    let odd = |name: &[u8]| scene.pass.path("staging").join(std::ffi::OsStr::from_bytes(name));
    let (full, empty) = (odd(b"m\xfcller.example"), odd(b"l\xe4r"));
    std::fs::create_dir(&full).unwrap();
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(full.join("privkey.pem"), &*good.privkey).unwrap();
    let said = scene.pass("").ended(1).said();
    let ignored =
        ["linked.example` is not looked at: it is a link", "privkey.pem` is not looked at: it lies in `source` itself"];
    for words in ignored.into_iter().chain(["ller.example: the name is not UTF-8; rename the directory"]) {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("l\u{fffd}r:"), "what holds none of our files is none of our business: {said}");
    scene.holds(&good, &[Cert, Fullchain, Privkey]);
    let mut check = scene.pass.command("");
    check.arg("check");
    let said = certdeploy_tests::process::run(check).said();
    for words in ignored.into_iter().chain(["ller.example` is not looked at: the name is not UTF-8"]) {
        assert!(said.contains(words), "{words}: {said}");
    }
    std::fs::remove_dir_all(&full).unwrap();
    // What is only not looked at is no failure.
    let _ = scene.pass("").ended(0);
}

#[test]
fn the_first_half_of_a_first_delivery_waits_for_the_other() {
    for (first, second, said) in
        [(Fullchain, Privkey, "its key may follow"), (Privkey, Fullchain, "its certificate may")]
    {
        let mut scene = Sets::new(&format!("first-{first}"));
        let good = scene.issue();
        scene.stage(&good, &[first]);
        let mut client = Daemon::start("the pass", scene.pass.command(""), &scene.pass.path("client.log"));
        client.says(said);
        assert!(!scene.pass.path("certs/a.example").exists(), "readers never meet a half");
        scene.stage(&good, &[second]);
        assert_eq!(client.ends().code(), Some(0), "{}", client.said());
        scene.holds(&good, &[Cert, Fullchain, Privkey]);
        assert!(client.said().contains("as generation 1") && !client.said().contains("as generation 2"));
    }
    // Once it rests it is what was meant.
    for (name, lines) in [("rests", "settle_time: 2\n"), ("longest", "")] {
        let mut scene = Sets::new(name);
        let good = scene.issue();
        scene.stage(&good, &[Fullchain]);
        let _ = scene.pass(lines).ended(0);
        scene.holds(&good, &[Cert, Fullchain]);
    }
}
