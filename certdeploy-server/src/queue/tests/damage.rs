//! A queue file that was cut, flipped, overwritten, or is none: the queue opens all the same and works.

use super::*;

const FILE: &str = "queue.sqlite";

/// In memory where that can be: thousands of openings must not wait for a disk.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The bytes of a queue with something in each table.
fn filled() -> Vec<u8> {
    let dir = folder();
    let mut queue = open(dir.path());
    for number in 0..40 {
        let name = format!("lineage-{number}");
        queue.append(&renewal(&name), NOW).unwrap();
        queue.apply(&[owed(&name, &[number])], NOW).unwrap();
        queue.hold(&[holding(&name)]).unwrap();
    }
    queue.write_note("renewed_at", "7").unwrap();
    drop(queue);
    std::fs::read(dir.path().join(FILE)).unwrap()
}

/// Everything that hook, daemon and `status` do with a queue.
#[track_caller]
fn works(dir: &Path, what: &str) {
    let mut queue = Queue::open(dir, Check::Whole, NOW).unwrap_or_else(|error| panic!("{what}: {error}"));
    let all = |queue: &mut Queue| -> Outcome<()> {
        queue.append(&renewal("new"), NOW)?;
        queue.apply(&[owed("new", b"1")], NOW)?;
        let rows = queue.deliveries_to(&TargetId::stored("t".into()))?;
        let row = rows.iter().find(|row| row.lineage.as_str() == "new").expect("the new row");
        queue.acknowledge(row.id, &holding("new"))?;
        for delivery in queue.deliveries()? {
            queue.deliveries_of(&delivery.lineage)?;
            queue.holdings_of(&delivery.lineage)?;
            queue.held_by(&delivery.target)?;
        }
        assert!(queue.holdings()?.contains(&holding("new")));
        let mut renewals = queue.renewals()?;
        let (id, last) = renewals.pop().expect("the new renewal");
        assert_eq!(last, renewal("new"));
        queue.settle(id, &[], NOW)?;
        queue.write_note("x", "y")?;
        queue.names()?;
        queue.still_there()
    };
    all(&mut queue).unwrap_or_else(|error| panic!("{what}: {error}"));
}

fn put(dir: &Path, bytes: &[u8]) {
    for entry in dir.read_dir().unwrap().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
    std::fs::write(dir.join(FILE), bytes).unwrap();
}

#[test]
fn a_queue_cut_anywhere_is_set_aside_or_whole() {
    let bytes = filled();
    let dir = folder();
    let around =
        (0..=bytes.len() / 4096).flat_map(|page| [page * 4096, page * 4096 + 1, (page * 4096).saturating_sub(1)]);
    let cuts = [0, 1, 15, 16, 17, 99, 100, 101].into_iter().chain(around).chain((0..bytes.len()).step_by(997));
    for cut in cuts.filter(|cut| *cut <= bytes.len()) {
        put(dir.path(), &bytes[..cut]);
        works(dir.path(), &format!("cut at {cut} of {}", bytes.len()));
    }
}

#[test]
fn a_flipped_bit_anywhere_stops_nothing() {
    let bytes = filled();
    let dir = folder();
    // A larger version than ours, in these four bytes, is another version's queue and is left alone.
    let version = 60..64;
    let spread = (0..600_usize).map(|number| number * 7919 % bytes.len());
    for (number, offset) in (0..110).chain(spread).enumerate().filter(|(_, offset)| !version.contains(offset)) {
        let mut flipped = bytes.clone();
        flipped[offset] ^= 1 << (number % 8);
        put(dir.path(), &flipped);
        works(dir.path(), &format!("bit {} of byte {offset} of {}", number % 8, bytes.len()));
    }
}

#[test]
fn a_damaged_journal_stops_nothing() {
    let dir = folder();
    let mut queue = open(dir.path());
    for number in 0..20 {
        queue.append(&renewal(&format!("l{number}")), NOW).unwrap();
    }
    // As a crash leaves them: nobody closed the database.
    let main = std::fs::read(dir.path().join(FILE)).unwrap();
    let journal = std::fs::read(dir.path().join(format!("{FILE}-wal"))).unwrap();
    drop(queue);
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    for number in 0..200 {
        put(dir.path(), &main);
        let mut damaged = journal.clone();
        let offset = number * 7919 % damaged.len();
        if number % 2 == 0 {
            damaged.truncate(offset)
        } else {
            damaged[offset] ^= 0x10
        }
        write(&format!("{FILE}-wal"), &damaged);
        works(dir.path(), &format!("journal damaged at {offset}"));
    }
}

#[test]
fn what_is_no_database_of_ours_is_set_aside_whole() {
    let dir = folder();
    let file = dir.path().join(FILE);
    let aside = dir.path().join(format!("{FILE}.damaged-1000"));
    let fifo = || {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let foreign = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    let ours = "PRAGMA application_id = 1128549681; PRAGMA user_version = 1;";
    let makers: [(&str, &dyn Fn()); 6] = [
        ("a FIFO", &fifo),
        ("a directory", &|| std::fs::create_dir(&file).unwrap()),
        ("a table of the same name", &|| foreign("CREATE TABLE renewal (x)")),
        ("another's table", &|| foreign("CREATE TABLE cats (name); INSERT INTO cats VALUES ('Tom')")),
        ("our number on other tables", &|| foreign(&format!("{ours} CREATE TABLE delivery (x)"))),
        ("our number and no tables", &|| foreign(ours)),
    ];
    for (what, make) in makers {
        let _ = std::fs::remove_file(&file);
        make();
        works(dir.path(), what);
        assert!(aside.symlink_metadata().is_ok(), "{what} is kept");
        let _ = std::fs::remove_file(&aside);
        let _ = std::fs::remove_dir(&aside);
    }
}

#[test]
fn a_newer_queue_is_refused_and_not_a_byte_of_it_changes() {
    let dir = folder();
    let file = dir.path().join(FILE);
    put(dir.path(), &filled());
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 3).unwrap();
    let before = std::fs::read(&file).unwrap();
    for check in [Check::Opening, Check::Whole] {
        assert!(matches!(Queue::open(dir.path(), check, NOW), Err(QueueError::Newer { version: 3, .. })));
    }
    assert!(matches!(Queue::look(dir.path()), Err(QueueError::Newer { version: 3, .. })));
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn a_queue_that_others_may_read_or_nobody_may_is_made_private() {
    let dir = folder();
    for mode in [0o644, 0o000, 0o4777] {
        put(dir.path(), &filled());
        let file = dir.path().join(FILE);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        works(dir.path(), &format!("mode {mode:o}"));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }
}

#[test]
fn who_has_the_queue_open_notices_that_it_was_written_over() {
    let dir = folder();
    for (from, length) in [(0, usize::MAX), (4096, 8192), (0, 100)] {
        put(dir.path(), &filled());
        let mut queue = open(dir.path());
        queue.still_there().unwrap();
        let mut bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        let noise = (0_u32..).map(|number| u8::try_from(number.wrapping_mul(2_654_435_761) >> 24).unwrap());
        bytes.iter_mut().skip(from).take(length).zip(noise).for_each(|(byte, noise)| *byte = noise);
        std::fs::write(dir.path().join(FILE), &bytes).unwrap();
        let error = queue.still_there().unwrap_err();
        assert!(error.is_damage(), "{error}");
        drop(queue);
        works(dir.path(), "after the damage");
    }
}

#[test]
fn a_hook_gets_in_once_the_daemon_has_let_go_of_a_damaged_queue() {
    let dir = folder();
    put(dir.path(), &filled());
    let (sender, knocks) = std::sync::mpsc::channel();
    let mut daemon = open(dir.path());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The daemon: sleeps until somebody knocks.
            let () = knocks.recv().unwrap();
            assert!(daemon.still_there().unwrap_err().is_damage());
            drop(daemon);
        });
        std::fs::write(dir.path().join(FILE), b"nothing of a database".repeat(500)).unwrap();
        Queue::add(dir.path(), &renewal("x"), NOW, || _ = sender.send(())).unwrap();
    });
    assert_eq!(open(dir.path()).renewals().unwrap().len(), 1);
    assert!(!dir.path().join("queue.suspect").exists());
}
