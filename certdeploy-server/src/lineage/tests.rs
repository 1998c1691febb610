//! Lineages as certbot lays them out, read whole or not at all.

use std::os::unix::fs::symlink;

use super::*;

const NOW: i64 = 1_750_000_000;

/// A lineage as certbot lays it out, at `<dir>/live/x`, with versions 1 and 2 in the archive.
fn made(dir: &Path) -> PathBuf {
    let (live, archive) = (dir.join("live/x"), dir.join("archive/x"));
    std::fs::create_dir_all(&live).unwrap();
    std::fs::create_dir_all(&archive).unwrap();
    for version in 1..=2 {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap().pem();
        for (name, text) in [("cert", &cert), ("chain", &cert), ("fullchain", &format!("{cert}{cert}"))] {
            std::fs::write(archive.join(format!("{name}{version}.pem")), text).unwrap();
        }
        std::fs::write(archive.join(format!("privkey{version}.pem")), key.serialize_pem()).unwrap();
    }
    for name in FileName::ALL {
        point(&live, name, 1);
    }
    live
}

fn point(live: &Path, name: FileName, version: u32) {
    let link = live.join(name.as_str());
    let _ = std::fs::remove_file(&link);
    let stem = name.as_str().strip_suffix(".pem").unwrap();
    symlink(format!("../../archive/x/{stem}{version}.pem"), link).unwrap();
}

#[test]
fn a_lineage_is_read_whole_and_a_mixed_one_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let live = made(dir.path());
    let readable = read(&live, &dir.path().join("live"), false, NOW).unwrap();
    assert_eq!((readable.lineage.as_str(), readable.bundle.names().len()), ("x", 4));
    point(&live, FileName::Privkey, 2);
    let (error, _) = read(&live, &dir.path().join("live"), false, NOW).unwrap_err();
    assert!(matches!(&error, LineageError::Mixed { versions, .. } if versions.contains("privkey2.pem")), "{error}");
    assert!(!error.is_permanent());
}

#[test]
fn a_swap_in_progress_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let live = made(dir.path());
    point(&live, FileName::Privkey, 2);
    let finish = live.clone();
    let certbot = std::thread::spawn(move || {
        for name in [FileName::Cert, FileName::Chain, FileName::Fullchain] {
            point(&finish, name, 2);
        }
    });
    assert!(read(&live, &dir.path().join("live"), false, NOW).is_ok());
    certbot.join().unwrap();
}

#[test]
fn another_certificates_key_an_expired_leaf_and_huge_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let live = made(dir.path());
    let parent = dir.path().join("live");
    let (error, bundle) = read(&live, &parent, false, 95_000_000_000).unwrap_err();
    assert!(error.is_permanent() && bundle.is_some() && error.to_string().contains("expired"), "{error}");
    assert!(read(&live, &parent, true, 95_000_000_000).is_ok());
    let archive = dir.path().join("archive/x");
    std::fs::copy(archive.join("privkey2.pem"), archive.join("privkey1.pem")).unwrap();
    let (error, _) = read(&live, &parent, true, NOW).unwrap_err();
    assert!(error.to_string().contains("does not belong to the certificate"), "{error}");
    std::fs::write(archive.join("chain1.pem"), vec![b'x'; 200_000]).unwrap();
    assert!(matches!(read(&live, &parent, false, NOW).unwrap_err().0, LineageError::TooLarge { .. }));
}

#[test]
fn a_lineage_from_elsewhere_may_not_lead_out_of_its_tree() {
    let dir = tempfile::tempdir().unwrap();
    let live = made(dir.path());
    let other = Path::new("/somewhere/live");
    assert!(read(&live, other, false, NOW).is_ok());
    let outside = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("archive/x/privkey1.pem"), outside.path().join("privkey1.pem")).unwrap();
    std::fs::remove_file(live.join("privkey.pem")).unwrap();
    symlink(outside.path().join("privkey1.pem"), live.join("privkey.pem")).unwrap();
    let (error, _) = read(&live, other, false, NOW).unwrap_err();
    assert!(matches!(error, LineageError::Strange { .. }), "{error}");
    assert!(read(&live, &dir.path().join("live"), false, NOW).is_ok(), "live/ itself may link anywhere");
}

#[test]
fn live_lists_directories_with_safe_names() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    std::fs::write(dir.path().join("live/README"), "").unwrap();
    assert_eq!(all(&dir.path().join("live")).unwrap(), [dir.path().join("live/x")]);
    assert!(all(&dir.path().join("nothing")).is_err());
}

#[test]
fn an_empty_chain_is_left_out_and_a_spoiled_fullchain_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let live = made(dir.path());
    let (parent, archive) = (dir.path().join("live"), dir.path().join("archive/x"));
    std::fs::write(archive.join("chain1.pem"), "").unwrap();
    std::fs::write(archive.join("cert1.pem"), "junk").unwrap();
    let readable = read(&live, &parent, false, NOW).unwrap();
    assert_eq!(readable.bundle.names(), [FileName::Fullchain, FileName::Privkey]);
    let spoiled: Vec<String> = readable.spoiled.iter().map(|(_, fault)| fault.to_string()).collect();
    assert_eq!(spoiled, ["cert.pem holds no PEM block", "chain.pem holds no PEM block"]);
    for file in ["fullchain1.pem", "privkey1.pem"] {
        let good = std::fs::read(archive.join(file)).unwrap();
        std::fs::write(archive.join(file), "").unwrap();
        let (error, _) = read(&live, &parent, false, NOW).unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("holds no PEM block"), "{error}");
        std::fs::write(archive.join(file), good).unwrap();
    }
    std::fs::remove_file(archive.join("fullchain1.pem")).unwrap();
    let (error, _) = read(&live, &parent, false, NOW).unwrap_err();
    assert!(error.to_string().contains("cert.pem holds no PEM block"), "{error}");
}
