//! A clock that is set, by a day and both ways: nobody waits longer, nobody is tried sooner.

use super::*;

const DAY: i64 = 24 * 3600 * 1000;

/// When the one target was tried, with the clock set by `by` after so many seconds.
async fn tried(by: i64, after: u64) -> Vec<u64> {
    let stage = Stage::new(1, 1, "push_retries: 1\npush_retry_interval: 30\npush_retry_max_interval: 600\n");
    stage.act("t0", &[broken()]);
    let set = async {
        tokio::time::sleep(Duration::from_secs(after)).await;
        SET.set(by);
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 5000), set);
    seen.iter().map(|(at, ..)| *at).collect()
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_changes_no_pause() {
    let usual = tried(0, 1).await;
    assert!(usual.len() > 8, "{usual:?}");
    for by in [-DAY, DAY, -20 * 60 * 1000, 20 * 60 * 1000] {
        for after in [5, 200, 1500] {
            let seen = tried(by, after).await;
            // The jitter comes from the clock, so the moments differ a little.
            assert!(seen.len().abs_diff(usual.len()) <= 1, "{by} after {after}: {seen:?}, usually {usual:?}");
            let longest = seen.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(longest <= 601, "{by} after {after}: {seen:?}");
            assert_eq!(seen[..2], [0, 30], "{by} after {after}: {seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn comparing_goes_on_after_the_clock_was_set_back() {
    let stage = Stage::new(1, 1, "reconcile_interval: 600\n");
    stage.act("t0", &[Act::Update]);
    let set = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        SET.set(-DAY);
        stage.fake.0.held.lock().unwrap().clear();
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 1000), set);
    assert_eq!(visits(&seen), [(0, "t0"), (600, "t0"), (600, "t0")], "asked, and given what it lost");
}

#[tokio::test(start_paused = true)]
async fn what_was_written_under_another_clock_is_not_waited_for() {
    let stage = Stage::new(1, 1, "push_retries: 0\n");
    stage.act("t0", &[broken(), Act::Place]);
    let other = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Another process whose clock is a day ahead.
        stage.queue().shift(DAY, Millis(0)).unwrap();
        stage.renew(0);
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 3000), other);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(stage.queue().deliveries().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn updates_that_a_target_says_are_due_never_do_no_harm_when_the_clock_is_set() {
    for due in [i64::MAX, i64::MAX / 2000, i64::MIN] {
        let stage = Stage::new(2, 1, "reconcile_interval: 100000\n");
        stage.act("t0", &[Act::Deploy(due)]);
        let set = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            SET.set(DAY);
        };
        let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 90_000), set);
        assert!(visits(&seen).contains(&(0, "t0")) && seen.len() >= 3, "asked after a day: {seen:?}");
        assert_eq!(stage.queue().holdings().unwrap().len(), 2, "{due}");
        let set_aside = std::fs::read_dir(&stage.settings.queue_dir).unwrap();
        let damaged = |file: &std::fs::DirEntry| file.file_name().to_string_lossy().contains("damaged");
        assert!(!set_aside.map(Result::unwrap).any(|file| damaged(&file)), "{due}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_by_hand_and_a_loop_that_leaves_do_not_move_what_waits() {
    for (mode, until) in [(Mode::Daemon, 1000), (Mode::Once, 1000), (Mode::Daemon, 55)] {
        let stage = Stage::new(2, 1, "push_retries: 0\npush_mode: parallel\n");
        stage.act("t0", &[broken(), Act::Fail(70, push::Error::Ssh("slow".into()))]);
        stage.act("t1", &[Act::Deploy(5000)]);
        let _ = stage.run(Mode::Daemon, 5).await;
        let before = stage.queue().holdings().unwrap()[0].ask_at.unwrap();
        let stage = Stage { stop: CancellationToken::new(), ..stage };
        let set = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            SET.set(DAY);
        };
        let (_, ()) = tokio::join!(stage.run(mode, until), set);
        let after = stage.queue().holdings().unwrap()[0].ask_at.unwrap();
        let moved = if (mode, until) == (Mode::Daemon, 1000) { DAY } else { 0 };
        assert_eq!(after.0 - before.0, moved, "{mode:?} {until}");
    }
}
