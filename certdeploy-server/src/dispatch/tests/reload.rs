//! A loop that leaves, and the one that follows it.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_does_not_push_yet_when_the_loop_leaves_is_not_pushed_any_more() {
    let more = "push_mode: parallel\npush_concurrency: 1\nconnect_concurrency: 8\nstop_timeout: 600\n";
    let stage = Stage::new(3, 1, more);
    stage.act("t0", &[Act::Slow(100)]);
    stage.act("t1", &[Act::Slow(100)]);
    stage.act("t2", &[Act::Fail(300, push::Error::Ssh("late".into()))]);
    let begun = Instant::now();
    let (_, seen) = stage.run(Mode::Daemon, 50).await;
    assert_eq!(begun.elapsed().as_secs(), 100, "the one that pushes is waited for, and nobody else");
    assert_eq!(seen.iter().filter(|(_, _, parcels, _)| *parcels > 0).count(), 1, "{seen:?}");
    let mut queue = stage.queue();
    assert_eq!((queue.holdings().unwrap().len(), queue.deliveries().unwrap().len()), (1, 2));
    assert!(queue.deliveries().unwrap().iter().all(|left| left.attempts == 0), "owed as before");
}

#[tokio::test(start_paused = true)]
async fn what_a_loop_that_leaves_finds_lost_is_compared_by_the_next_one() {
    let stage = Stage::new(1, 1, "stop_timeout: 600\n");
    stage.act("t0", &[Act::Update, Act::Slow(100)]);
    let lose = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        stage.fake.0.held.lock().unwrap().clear();
    };
    let _ = tokio::join!(stage.run(Mode::Daemon, 3650), lose);
    let told = tokio::time::timeout(Duration::from_secs(1), stage.anew.notified()).await;
    assert!(told.is_ok(), "nobody is told");
    let stage = Stage { stop: CancellationToken::new(), ..stage };
    stage.act("t0", &[Act::Update]);
    let tell = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        stage.anew.notify_one();
    };
    let begun = passed();
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 1000), tell);
    let seen: Vec<_> = seen.iter().map(|(at, _, parcels, _)| (at - begun, *parcels)).collect();
    assert_eq!(seen, [(0, 1), (100, 0)], "asked again when it was told");
}
