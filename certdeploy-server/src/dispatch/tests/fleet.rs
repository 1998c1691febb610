//! Many targets, some of them dead: the others do not notice.

use super::*;

fn dead(after: u64) -> Act {
    Act::Fail(after, push::Error::Ssh("nobody answers".into()))
}

#[tokio::test(start_paused = true)]
async fn targets_that_do_not_answer_take_no_place_of_those_that_do() {
    let more = "push_mode: parallel\npush_concurrency: 4\nconnect_concurrency: 20\npush_retries: 0\n";
    let stage = Stage::new(40, 1, more);
    for target in 0..10 {
        stage.act(&format!("t{target}"), &[dead(120)]);
    }
    for target in 10..40 {
        stage.act(&format!("t{target}"), &[Act::Slow(2)]);
    }
    stage.renew(0);
    let (_, seen) = stage.run(Mode::Once, 1000).await;
    let last = seen.iter().filter(|(_, _, parcels, _)| *parcels > 0).map(|(at, ..)| *at).max();
    assert_eq!(last, Some(14), "thirty, four at once, two seconds each: {seen:?}");
    let mut queue = stage.queue();
    assert_eq!((queue.holdings().unwrap().len(), queue.deliveries().unwrap().len()), (30, 10));
}

#[tokio::test(start_paused = true)]
async fn one_target_of_a_hundred_that_is_down_for_hours_delays_nobody() {
    let more = "push_mode: parallel\npush_retries: 1\npush_retry_interval: 30\npush_retry_max_interval: 1800\n";
    let stage = Stage::new(100, 1, more);
    stage.act("t50", &[dead(10)]);
    let revive = async {
        tokio::time::sleep(Duration::from_secs(6 * 3600)).await;
        stage.act("t50", &[Act::Place]);
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 8 * 3600), revive);
    let (down, others): (Vec<_>, Vec<_>) = seen.iter().partition(|(_, id, ..)| id == "t50");
    assert!(others.len() == 99 && others.iter().all(|(at, ..)| *at == 0), "the others at once, and once");
    let at: Vec<u64> = down.iter().map(|(at, ..)| *at).collect();
    let pauses: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((10..30).contains(&at.len()), "{pauses:?}");
    assert_eq!(pauses[0], 40, "ten seconds to find out, thirty of pause");
    assert!(pauses.iter().all(|pause| *pause <= 1811), "{pauses:?}");
    let capped: Vec<u64> = pauses.iter().copied().filter(|pause| *pause > 1300).collect();
    assert!(capped.len() > 5 && capped.windows(2).any(|pair| pair[0] != pair[1]), "capped, with jitter: {pauses:?}");
    assert!(at.last().unwrap() - 6 * 3600 <= 1811 && stage.queue().deliveries().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lineage_is_read_once_for_all_and_anew_when_it_changes() {
    let stage = Stage::new(1, 1, "");
    let path = stage.dir.path().join("live/l0");
    let shelf = Shelf::new(stage.settings.live_directory.clone());
    let first = shelf.read(&path, false, paused()).await;
    assert!(Arc::ptr_eq(&first, &shelf.read(&path, false, paused()).await));
    assert!(!Arc::ptr_eq(&first, &shelf.read(&path, true, paused()).await), "what is forced is judged otherwise");
    let expired = Millis(90_000_000_000_000);
    assert!(shelf.read(&path, false, expired).await.is_err(), "it has expired on the shelf");
    let other = Stage::new(1, 1, "");
    for name in ["fullchain.pem", "privkey.pem"] {
        std::fs::copy(other.dir.path().join("live/l0").join(name), path.join(name)).unwrap();
    }
    let second = shelf.read(&path, false, paused()).await;
    let digest = |read: &shelf::Read| read.as_ref().unwrap().bundle.digest();
    assert_ne!(digest(&first), digest(&second));
    shelf.clear();
    assert!(!Arc::ptr_eq(&second, &shelf.read(&path, false, paused()).await));
}

#[tokio::test(start_paused = true)]
async fn targets_of_ours_that_fell_silent_keep_nobody_from_being_visited() {
    let stage = Stage::new(41, 1, "");
    for target in 0..40 {
        stage.act(&format!("t{target}"), &[Act::Update, dead(10)]);
    }
    stage.act("t40", &[Act::Update]);
    let renewed = async {
        tokio::time::sleep(Duration::from_secs(3600 + 1000)).await;
        let mut renewal = stage.renewal(0);
        renewal.anew = true;
        renewal.domains = vec!["a.example".parse().unwrap()];
        stage.queue().append(&renewal, paused()).unwrap();
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 7100), renewed);
    let healthy: Vec<_> = seen.iter().filter(|(at, id, ..)| *at > 0 && id == "t40").collect();
    assert!(matches!(healthy.as_slice(), [(4000, _, 0, Ask::Holdings), (4600..4620, _, 1, _)]), "{healthy:?}");
    let silent = seen.iter().filter(|(at, id, ..)| (3600..4600).contains(at) && id != "t40").count();
    assert_eq!(silent, 40, "asked once, and again at the next comparison");
}

#[tokio::test(start_paused = true)]
async fn pending_updates_of_a_target_that_fell_silent_are_asked_about_ever_more_rarely() {
    let stage = Stage::new(1, 1, "");
    stage.act("t0", &[Act::Deploy(60), dead(10)]);
    let (_, seen) = stage.run(Mode::Daemon, 24 * 3600).await;
    let at: Vec<u64> = seen.iter().map(|(at, ..)| *at).collect();
    assert!(at[..3] == [0, 61, 371] && (24..60).contains(&at.len()), "{at:?}");
}
