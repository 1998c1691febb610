//! `--push` with more than one visit or one look can take.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_refusal_among_the_first_leaves_none_of_the_others_untried() {
    let stage = Stage::new(1, 70, "push_retries: 0\n");
    stage.act("t0", &[Act::Refuse, Act::Place]);
    for lineage in 0..70 {
        stage.renew(lineage);
    }
    let (_, seen) = stage.run(Mode::Once, 1000).await;
    assert_eq!(seen.iter().map(|(at, _, parcels, _)| (*at, *parcels)).collect::<Vec<_>>(), [(0, 64), (0, 6)]);
    let mut queue = stage.queue();
    assert_eq!((queue.holdings().unwrap().len(), queue.deliveries().unwrap().len()), (6, 64));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_lets_nothing_through_is_not_visited_for_each_errand() {
    let stage = Stage::new(1, 70, "push_retries: 1\n");
    stage.act("t0", &[broken(), broken()]);
    for lineage in 0..70 {
        stage.renew(lineage);
    }
    let (_, seen) = stage.run(Mode::Once, 1000).await;
    assert_eq!(visits(&seen), [(0, "t0"), (30, "t0")]);
    assert_eq!(stage.queue().deliveries().unwrap().len(), 70);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_among_many_is_tried_in_its_burst_and_the_others_once() {
    let stage = Stage::new(1, 70, "push_retries: 1\npush_retry_interval: 30\n");
    let stuck = stage.dir.path().join("live/l3");
    stage.queue().append(&unreadable(&stuck), paused()).unwrap();
    std::fs::remove_dir_all(stuck).unwrap();
    for lineage in (0..70).filter(|lineage| *lineage != 3) {
        stage.renew(lineage);
    }
    let (_, seen) = stage.run(Mode::Once, 1000).await;
    assert_eq!(seen.iter().map(|(at, _, parcels, _)| (*at, *parcels)).collect::<Vec<_>>(), [(0, 63), (0, 6)]);
    assert_eq!(stage.queue().holdings().unwrap().len(), 69);
}

fn unreadable(path: &Path) -> Renewal {
    let lineage = certdeploy_common::cert::Lineage::of_path(path).unwrap();
    Renewal { path: path.to_owned(), lineage, domains: vec!["a.example".parse().unwrap()], force: false, anew: false }
}

#[tokio::test(start_paused = true)]
async fn all_renewals_are_looked_at_however_many_wait() {
    let stage = Stage::new(1, 2, "");
    stage.renew(0);
    let copies = "WITH RECURSIVE each(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM each WHERE n < 1200) \
                  INSERT INTO renewal (path, domains, force, anew, at) \
                  SELECT path, domains, force, anew, at FROM renewal, each";
    let file = rusqlite::Connection::open(stage.settings.queue_dir.join("queue.sqlite")).unwrap();
    file.execute(copies, []).unwrap();
    drop(file);
    stage.renew(1);
    let _ = stage.run(Mode::Once, 1000).await;
    let mut queue = stage.queue();
    assert_eq!((queue.waiting().unwrap(), queue.holdings().unwrap().len()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_visited_while_the_queue_takes_no_answer() {
    let stage = Stage::new(1, 1, "push_retries: 0\n");
    stage.act("t0", &[broken(), Act::Place]);
    let _ = stage.run(Mode::Daemon, 5).await;
    // As on a full disk: what is there can be read, and what needs no room is done.
    let file = rusqlite::Connection::open(stage.settings.queue_dir.join("queue.sqlite")).unwrap();
    for (table, how) in [("note", "INSERT"), ("holding", "INSERT"), ("delivery", "DELETE"), ("delivery", "INSERT")] {
        let trigger =
            format!("CREATE TRIGGER {how}_{table} BEFORE {how} ON {table} BEGIN SELECT RAISE(FAIL, 'full'); END");
        file.execute_batch(&trigger).unwrap();
    }
    drop(file);
    for mode in [Mode::Daemon, Mode::Once] {
        let queue = stage.queue();
        let dispatcher = Dispatcher::new(Arc::clone(&stage.settings), queue, stage.fake.clone(), mode, paused);
        assert!(dispatcher.run(CancellationToken::new(), None).await.is_err());
        let seen = std::mem::take(&mut *stage.fake.0.seen.lock().unwrap());
        assert_eq!(seen, [], "{mode:?}");
    }
}
