//! The queue on a real directory: what survives, what is set aside, who is refused.

use std::os::unix::fs::PermissionsExt;

use certdeploy_common::wire::Update;

use super::*;

mod damage;

const NOW: Millis = Millis(1_000);

fn open(directory: &Path) -> Queue {
    Queue::open(directory, Check::Whole, NOW).unwrap()
}

fn renewal(name: &str) -> Renewal {
    Renewal {
        path: format!("/live/{name}").into(),
        lineage: name.parse().unwrap(),
        domains: vec!["a.example".parse().unwrap(), "*.b.example".parse().unwrap()],
        force: false,
        anew: true,
    }
}

fn owed(lineage: &str, digest: &[u8]) -> Change {
    Change::Owe(Owed {
        target: TargetId::stored("t".into()),
        lineage: lineage.parse().unwrap(),
        path: format!("/live/{lineage}").into(),
        digest: Some(Digest::of(digest)),
        serial: Some("0a".into()),
        not_after: Some(5),
        force: false,
    })
}

fn holding(lineage: &str) -> Holding {
    Holding {
        target: TargetId::stored("t".into()),
        lineage: lineage.parse().unwrap(),
        digest: Digest::of(b"1"),
        serial: "0a".into(),
        not_after: 5,
        generation: Some(3),
        acked_at: NOW,
        update: Some(Update::Pending { due: 9 }),
        ask_at: Some(Millis(10_000)),
        not_before: Some(3),
        place: Some("u@[h]:22+".into()),
    }
}

#[test]
fn rows_come_back_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/queue");
    open(&path).append(&renewal("x"), NOW).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let mut queue = open(&path);
    let renewals = queue.renewals().unwrap();
    assert_eq!(renewals[0].1, renewal("x"));
    queue.settle(renewals[0].0, &[owed("x", b"1")], NOW).unwrap();
    queue.settle(renewals[0].0, &[owed("y", b"1")], NOW).unwrap();
    assert!(queue.renewals().unwrap().is_empty());
    let deliveries = queue.deliveries().unwrap();
    assert_eq!(deliveries.len(), 1, "a renewal is settled once");
    assert_eq!((deliveries[0].state, deliveries[0].next_at), (State::Owed, NOW));
    queue.acknowledge(deliveries[0].id, &holding("x")).unwrap();
    assert_eq!(queue.holdings().unwrap(), [holding("x")]);
    assert!(queue.deliveries().unwrap().is_empty());
    queue.forget(&TargetId::stored("t".into()), &"x".parse().unwrap()).unwrap();
    assert!(queue.holdings().unwrap().is_empty());
    queue.write_note("renewed_at", "7").unwrap();
    assert_eq!(queue.note("renewed_at").unwrap().as_deref(), Some("7"));
}

#[test]
fn the_end_of_an_older_push_does_not_end_a_newer_duty() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.apply(&[owed("x", b"1")], NOW).unwrap();
    let old = queue.deliveries().unwrap()[0].id;
    queue.apply(&[owed("x", b"2")], NOW).unwrap();
    let setback = Setback { state: State::Refused, attempts: 4, next_at: NOW, error: "no".into(), digest: None };
    queue.set_back(old, &setback, NOW).unwrap();
    queue.acknowledge(old, &holding("x")).unwrap();
    let left = queue.deliveries().unwrap();
    assert_eq!((left.len(), left[0].state, left[0].attempts), (1, State::Owed, 0));
    queue.set_back(left[0].id, &setback, NOW).unwrap();
    assert_eq!(queue.deliveries_to(&left[0].target).unwrap()[0].last_error.as_deref(), Some("no"));
}

#[test]
fn a_queue_of_the_first_version_is_brought_up_to_date() {
    for look in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        queue.hold(&[holding("x")]).unwrap();
        queue.apply(&[owed("y", b"1")], NOW).unwrap();
        drop(queue);
        let file = rusqlite::Connection::open(dir.path().join("queue.sqlite")).unwrap();
        for column in ["not_before", "place"] {
            file.execute(&format!("ALTER TABLE holding DROP COLUMN {column}"), []).unwrap();
        }
        file.pragma_update(None, "user_version", 1).unwrap();
        drop(file);
        let mut queue = if look { Queue::look(dir.path()).unwrap().unwrap() } else { open(dir.path()) };
        assert_eq!(queue.holdings().unwrap(), [Holding { not_before: None, place: None, ..holding("x") }]);
        assert_eq!(queue.deliveries().unwrap().len(), 1);
        queue.hold(&[holding("x")]).unwrap();
        queue.still_there().unwrap();
        assert_eq!(open(dir.path()).holdings().unwrap(), [holding("x")]);
        assert!(!dir.path().read_dir().unwrap().any(|file| is_aside(&file.unwrap())));
    }
}

#[test]
fn what_was_acknowledged_at_another_place_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let target = TargetId::stored("t".into());
    queue.hold(&[holding("x"), Holding { place: None, ..holding("y") }]).unwrap();
    assert!(queue.moved([(&target, "u@[h]:22+".to_owned())]).unwrap().is_empty());
    assert!(queue.holdings().unwrap().iter().all(|held| held.place.as_deref() == Some("u@[h]:22+")));
    assert_eq!(queue.moved([(&target, "u@[i]:22+".to_owned())]).unwrap(), std::slice::from_ref(&target));
    assert!(queue.holdings().unwrap().is_empty());
}

#[test]
fn a_clock_that_is_set_damages_no_row_however_far_it_was_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let target = TargetId::stored("t".into());
    for by in [5_000, -5_000, i64::MAX, i64::MIN, i64::MAX] {
        queue.hold(&[Holding { ask_at: Some(Millis(i64::MAX)), ..holding("x") }, holding("y")]).unwrap();
        queue.apply(&[owed("x", b"1")], Millis(i64::MAX)).unwrap();
        queue.shift(by, NOW).unwrap();
        queue.standing([&target]).unwrap();
        assert_eq!((queue.held_by(&target).unwrap().len(), queue.deliveries().unwrap().len()), (2, 1), "{by}");
    }
    drop(queue);
    assert_eq!(open(dir.path()).holdings().unwrap().len(), 2);
    assert_eq!(dir.path().read_dir().unwrap().filter(|file| is_aside(file.as_ref().unwrap())).count(), 0);
}

fn is_aside(file: &std::fs::DirEntry) -> bool {
    file.file_name().to_string_lossy().contains("damaged")
}

#[test]
fn a_damaged_queue_is_set_aside_and_a_newer_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for damage in [b"not a database at all, and longer than a header, so that SQLite has to look".as_slice(), b"SQLite"]
    {
        drop(open(dir.path()));
        std::fs::write(dir.path().join("queue.sqlite"), damage.repeat(20)).unwrap();
        let mut queue = open(dir.path());
        queue.append(&renewal("x"), NOW).unwrap();
        let aside = dir.path().join("queue.sqlite.damaged-1000");
        assert_eq!(std::fs::read(&aside).unwrap(), damage.repeat(20));
        std::fs::remove_file(aside).unwrap();
    }
    let connection = rusqlite::Connection::open(dir.path().join("queue.sqlite")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(Queue::open(dir.path(), Check::Opening, NOW), Err(QueueError::Newer { version: 99, .. })));
}

#[test]
fn a_directory_that_others_can_enter_is_tightened_unless_it_is_shared() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let wide = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    wide(dir.path());
    drop(open(dir.path()));
    assert_eq!(mode(dir.path()), 0o700);
    wide(dir.path());
    std::fs::write(dir.path().join("something else"), "").unwrap();
    drop(open(dir.path()));
    assert_eq!(mode(dir.path()), 0o755);
}

#[test]
fn the_directory_may_be_behind_a_link_and_the_file_may_not_be_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    std::os::unix::fs::symlink("run", dir.path().join("var")).unwrap();
    let queue = dir.path().join("var/certdeploy");
    drop(open(&queue));
    assert!(Queue::look(&queue).unwrap().is_some());
    std::fs::copy(queue.join("queue.sqlite"), dir.path().join("other")).unwrap();
    let before = std::fs::read(dir.path().join("other")).unwrap();
    std::fs::remove_file(queue.join("queue.sqlite")).unwrap();
    std::os::unix::fs::symlink("../../other", queue.join("queue.sqlite")).unwrap();
    assert!(matches!(Queue::look(&queue), Err(QueueError::Foreign(_))));
    open(&queue).append(&renewal("x"), NOW).unwrap();
    assert!(queue.join("queue.sqlite.damaged-1000").is_symlink(), "the link is set aside, and nobody followed it");
    assert_eq!(std::fs::read(dir.path().join("other")).unwrap(), before);
}

#[test]
fn looking_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Queue::look(dir.path()).unwrap().is_none());
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn many_hooks_that_make_the_queue_together_all_get_in() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue");
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let mut queue = Queue::open(&path, Check::Opening, Millis(0)).unwrap();
                    queue.append(&renewal("a.example"), Millis(0)).unwrap();
                });
            }
        });
        let mut queue = Queue::open(&path, Check::Whole, Millis(0)).unwrap();
        assert_eq!(queue.renewals().unwrap().len(), 8);
    }
}
