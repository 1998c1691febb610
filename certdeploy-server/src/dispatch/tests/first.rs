//! The first start of a new queue: what targets hold already is taken, not pushed; who cannot say gets one push.

use super::*;

/// Ends the queue, as if it had never been.
fn lose_the_queue(stage: &Stage) {
    std::fs::remove_dir_all(&stage.settings.queue_dir).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_queue_takes_what_targets_hold_and_owes_what_differs() {
    let stage = Stage::new(3, 2, "");
    for target in ["t0", "t1"] {
        stage.act(target, &[Act::Update]);
    }
    let (_, seen) = stage.run(Mode::Daemon, 5).await;
    assert_eq!(seen.len(), 3, "one visit brings both: {seen:?}");
    lose_the_queue(&stage);
    // One of two has lost one of two; t2 cannot say what it holds.
    let gone = "l1".parse().unwrap();
    stage.fake.0.held.lock().unwrap().get_mut("t1").unwrap().lineages.remove(&gone);
    let stage = Stage { stop: CancellationToken::new(), ..stage };
    let (_, seen) = stage.run(Mode::Daemon, 7000).await;
    let mut queue = stage.queue();
    assert!(queue.deliveries().unwrap().is_empty());
    assert_eq!(queue.holdings().unwrap().len(), 6);
    let firsts = seen.iter().filter(|(.., ask)| *ask == Ask::First).count();
    let asked: Vec<&str> =
        seen.iter().filter(|(.., ask)| *ask == Ask::Holdings).map(|(_, id, ..)| id.as_str()).collect();
    assert_eq!((firsts, asked), (3, vec!["t0", "t1"]), "{seen:?}");
    let written: Vec<_> = queue.holdings().unwrap().into_iter().filter(|held| held.generation.is_none()).collect();
    assert!(written.iter().all(|held| held.target.as_str() == "t2") && written.len() == 2);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_was_added_gets_its_certificates_without_a_renewal() {
    let stage = Stage::new(1, 2, "");
    let _ = stage.run(Mode::Daemon, 5).await;
    let wider = Stage::new(2, 0, "");
    let mut settings = (*stage.settings).clone();
    settings.targets = wider.settings.targets.clone();
    let stage = Stage { settings: Arc::new(settings), stop: CancellationToken::new(), ..stage };
    let (_, seen) = stage.run(Mode::Daemon, 5).await;
    assert_eq!(seen, [(0, "t1".to_owned(), 2, Ask::First)]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_certificate_is_remembered_over_starts_until_it_is_forced() {
    let stage = Stage::new(1, 1, "reconcile_interval: 60\n");
    stage.act("t0", &[Act::Refuse]);
    let (_, seen) = stage.run(Mode::Daemon, 1000).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    let stage = Stage { stop: CancellationToken::new(), ..stage };
    stage.renew(0);
    let (_, seen) = stage.run(Mode::Daemon, 1000).await;
    assert_eq!(seen, []);
    let path = stage.dir.path().join("live/l0");
    let domains = vec!["a.example".parse().unwrap()];
    let forced = Renewal { path, lineage: "l0".parse().unwrap(), domains, force: true, anew: true };
    stage.queue().append(&forced, paused()).unwrap();
    let stage = Stage { stop: CancellationToken::new(), ..stage };
    assert_eq!(stage.run(Mode::Daemon, 1000).await.1.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_forever_it_waits_for_the_next_comparison_after_the_burst() {
    let more = "push_retries: 1\npush_retry_interval: 10\npush_retry_forever: no\nreconcile_interval: 1000\n";
    let stage = Stage::new(1, 1, more);
    stage.act("t0", &[broken()]);
    let (_, seen) = stage.run(Mode::Daemon, 2500).await;
    let at: Vec<u64> = seen.iter().map(|(at, ..)| *at).collect();
    assert_eq!(at, [0, 10, 1000, 1010, 2000, 2010], "a burst at each comparison");
    assert_eq!(stage.queue().deliveries().unwrap().len(), 1, "owed and shown");
}

#[tokio::test(start_paused = true)]
async fn a_failing_push_by_hand_leaves_the_daemons_pauses_alone() {
    let stage = Stage::new(1, 1, "push_retries: 2\npush_retry_interval: 10\n");
    stage.act("t0", &[broken()]);
    let _ = stage.run(Mode::Daemon, 100).await;
    let before = stage.queue().deliveries().unwrap();
    let stage = Stage { stop: CancellationToken::new(), ..stage };
    let (_, seen) = stage.run(Mode::Once, 1000).await;
    assert_eq!(seen.len(), 3, "its own burst: {seen:?}");
    let after = stage.queue().deliveries().unwrap();
    assert_eq!((after[0].attempts, after[0].next_at), (before[0].attempts, before[0].next_at));
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_and_asked_about_in_one_visit_is_the_new_one() {
    let stage = Stage::new(1, 1, "");
    stage.act("t0", &[Act::Update]);
    let _ = stage.run(Mode::Daemon, 5).await;
    let before = stage.queue().holdings().unwrap();
    let other = Stage::new(1, 1, "");
    for name in ["fullchain.pem", "privkey.pem"] {
        let from = other.dir.path().join("live/l0").join(name);
        std::fs::copy(from, stage.dir.path().join("live/l0").join(name)).unwrap();
    }
    stage.renew(0);
    let stage = Stage { stop: CancellationToken::new(), ..stage };
    let (_, seen) = stage.run(Mode::Daemon, 5).await;
    assert_eq!(seen, [(0, "t0".to_owned(), 1, Ask::Holdings)]);
    let after = stage.queue().holdings().unwrap();
    assert_ne!(after[0].digest, before[0].digest);
    let told = stage.fake.0.held.lock().unwrap()["t0"].clone();
    assert_eq!(Some(&after[0].digest), told.lineages.values().map(|held| &held.digest).next());
}

#[tokio::test(start_paused = true)]
async fn a_named_target_that_is_another_host_now_gets_everything() {
    for mode in [Mode::Daemon, Mode::Once] {
        let stage = Stage::new(2, 2, "");
        let _ = stage.run(Mode::Daemon, 5).await;
        let mut settings = (*stage.settings).clone();
        settings.targets[1].address = "other".into();
        let stage = Stage { settings: Arc::new(settings), stop: CancellationToken::new(), ..stage };
        stage.renew(0);
        stage.renew(1);
        let (_, seen) = stage.run(mode, 5).await;
        assert_eq!(seen, [(5, "t1".to_owned(), 2, Ask::First)], "{mode:?}");
        let stage = Stage { stop: CancellationToken::new(), ..stage };
        assert_eq!(stage.run(mode, 5).await.1, []);
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_certificate_from_another_directory_does_not_alternate_with_the_newer() {
    let stage = Stage::new(1, 1, "reconcile_interval: 60\n");
    let _ = stage.run(Mode::Daemon, 5).await;
    let stage = Stage { stop: CancellationToken::new(), ..stage };
    let newer = stage.dir.path().join("srv/l0");
    std::fs::create_dir_all(&newer).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(4000, 1, 1);
    std::fs::write(newer.join("fullchain.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(newer.join("privkey.pem"), key.serialize_pem()).unwrap();
    let lineage = "l0".parse().unwrap();
    let renewal = Renewal { path: newer, lineage, domains: vec![], force: false, anew: false };
    stage.queue().append(&renewal, paused()).unwrap();
    let (_, seen) = stage.run(Mode::Daemon, 1000).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    let held = stage.queue().holdings().unwrap();
    assert_eq!(held[0].not_before, Some(1_577_836_800), "the newer stays");
    assert!(stage.queue().deliveries().unwrap().is_empty());
}
