//! Who is owed what, as tables.

use certdeploy_common::cert::{Bundle, Facts, FileName};
use zeroize::Zeroizing;

use super::*;

const NOW: Millis = Millis(1_000_000);

fn target(domains: &[&str]) -> Target {
    let pin = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
    Target {
        id: TargetId::stored("t".into()),
        address: "h".into(),
        port: 22,
        username: "certdeploy".into(),
        domains: domains.iter().map(|name| name.parse().unwrap()).collect(),
        pins: vec![certdeploy_common::ssh::key::parse_public(pin).unwrap()],
        lineages: BTreeSet::new(),
        timeouts: crate::config::Timeouts::NONE,
        path: String::new(),
        wanted: vec![FileName::Fullchain, FileName::Privkey],
        burst: Burst { retries: 2, interval: Duration::from_secs(30) },
    }
}

fn readable(names: &[&str], content: &str) -> Readable {
    let mut bundle = Bundle::default();
    for name in FileName::ALL {
        bundle.insert(name, Zeroizing::new(format!("{name} {content}").into_bytes()));
    }
    Readable {
        lineage: "x".parse().unwrap(),
        path: "/live/x".into(),
        bundle,
        facts: Facts {
            serial: "0a".into(),
            not_before: 0,
            not_after: 9,
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            leaf: String::new(),
            warnings: vec![],
        },
        spoiled: vec![],
    }
}

fn digest(content: &str) -> Digest {
    readable(&[], content).bundle.only(&[FileName::Fullchain, FileName::Privkey]).digest()
}

fn renewal(domains: &[&str], anew: bool, force: bool) -> Renewal {
    let domains = domains.iter().map(|name| name.parse().unwrap()).collect();
    Renewal { path: "/live/x".into(), lineage: "x".parse().unwrap(), domains, force, anew }
}

fn known(held: Option<&str>, owed: Option<(&str, State)>) -> Known {
    let holding = |content| Holding {
        target: TargetId::stored("t".into()),
        lineage: "x".parse().unwrap(),
        digest: digest(content),
        serial: "0a".into(),
        not_after: 9,
        generation: None,
        acked_at: NOW,
        update: None,
        ask_at: None,
        not_before: Some(0),
        place: None,
    };
    let delivery = |(content, state)| Delivery {
        id: 7,
        target: TargetId::stored("t".into()),
        lineage: "x".parse().unwrap(),
        path: "/live/x".into(),
        digest: Some(digest(content)),
        serial: None,
        not_after: None,
        force: false,
        state,
        attempts: 5,
        next_at: NOW,
        last_error: None,
    };
    Known { deliveries: owed.map(delivery).into_iter().collect(), holdings: held.map(holding).into_iter().collect() }
}

/// One word for a change.
fn word(change: Option<&Change>) -> &'static str {
    match change {
        None => "nothing",
        Some(Change::Owe(owed)) if owed.force => "force",
        Some(Change::Owe(_)) => "owe",
        Some(Change::Hasten { .. }) => "hasten",
        Some(Change::Drop { .. }) => "drop",
    }
}

#[test]
fn what_is_owed_follows_from_what_is_held_and_why_it_is_asked() {
    use State::{Failed, Owed, Refused};
    type Case<'a> = (Option<&'a str>, Option<(&'a str, State)>, &'a str, &'a str);
    // held, owed -> by the hook, by reconcile
    let cases: [Case<'_>; 11] = [
        (None, None, "owe", "owe"),
        (Some("new"), None, "nothing", "nothing"),
        (Some("old"), None, "owe", "owe"),
        (None, Some(("new", Owed)), "hasten", "nothing"),
        (None, Some(("new", Failed)), "hasten", "nothing"),
        (None, Some(("old", Owed)), "owe", "owe"),
        (Some("old"), Some(("new", Refused)), "nothing", "nothing"),
        (Some("older"), Some(("old", Refused)), "owe", "owe"),
        (Some("new"), Some(("old", Owed)), "drop", "drop"),
        // Only somebody who asked for it by hand can have made it owed.
        (Some("new"), Some(("new", Owed)), "hasten", "nothing"),
        (Some("new"), Some(("new", Refused)), "drop", "drop"),
    ];
    let readable = readable(&["a.example"], "new");
    let target = target(&["A.example"]);
    let hint = renewal(&["a.example"], false, false);
    for (held, owed, by_hook, by_reconcile) in cases {
        let known = known(held, owed);
        let hook = change(&target, &known, &readable, Cause::Hint(&hint));
        let reconcile = change(&target, &known, &readable, Cause::Reconcile);
        assert_eq!((word(hook.as_ref()), word(reconcile.as_ref())), (by_hook, by_reconcile), "{held:?} {owed:?}");
    }
}

#[test]
fn what_was_forced_stays_owed_and_once_refused_is_not_in_the_way_of_what_comes() {
    use State::{Failed, Owed, Refused};
    // held, the forced one, how it stands -> by the hook, by reconcile
    let cases = [
        (None, "new", Owed, "hasten", "nothing"),
        (Some("new"), "new", Owed, "hasten", "nothing"),
        (Some("new"), "old", Failed, "hasten", "nothing"),
        (None, "new", Refused, "nothing", "nothing"),
        (Some("older"), "old", Refused, "owe", "owe"),
        (None, "old", Refused, "owe", "owe"),
        (Some("new"), "old", Refused, "drop", "drop"),
    ];
    let (target, readable) = (target(&["a.example"]), readable(&["a.example"], "new"));
    let hint = renewal(&["a.example"], false, false);
    for (held, owed, state, by_hook, by_reconcile) in cases {
        let mut known = known(held, Some((owed, state)));
        known.deliveries[0].force = true;
        let hook = change(&target, &known, &readable, Cause::Hint(&hint));
        let reconcile = change(&target, &known, &readable, Cause::Reconcile);
        let words = (word(hook.as_ref()), word(reconcile.as_ref()));
        assert_eq!(words, (by_hook, by_reconcile), "{held:?} {owed:?} {state:?}");
    }
}

#[test]
fn what_was_asked_for_by_hand_while_it_could_not_be_read_is_still_tried() {
    let (target, readable) = (target(&["a.example"]), readable(&["a.example"], "new"));
    for (state, want) in [(State::Owed, "nothing"), (State::Failed, "nothing"), (State::Refused, "drop")] {
        let mut known = known(Some("new"), Some(("new", state)));
        known.deliveries[0].digest = None;
        assert_eq!(word(change(&target, &known, &readable, Cause::Reconcile).as_ref()), want, "{state:?}");
    }
}

#[test]
fn what_is_older_than_what_is_held_is_owed_only_by_force() {
    use State::{Failed, Owed, Refused};
    let target = target(&["a.example"]);
    // what begins when, held since when -> by the hook, by reconcile, by hand, by force
    let cases = [
        (5, Some(9), None, ["nothing", "nothing", "nothing", "force"]),
        (9, Some(9), None, ["owe", "owe", "owe", "force"]),
        (9, Some(5), None, ["owe", "owe", "owe", "force"]),
        (5, None, None, ["owe", "owe", "owe", "force"]),
        (5, Some(9), Some(("new", Owed)), ["drop", "drop", "drop", "force"]),
        (5, Some(9), Some(("newest", Failed)), ["drop", "drop", "drop", "force"]),
        (5, Some(9), Some(("new", Refused)), ["drop", "drop", "drop", "force"]),
    ];
    let by_hand =
        [(false, false), (true, false), (true, true)].map(|(anew, force)| renewal(&["a.example"], anew, force));
    let [hook, hand, force] = by_hand.each_ref().map(Cause::Hint);
    for (begins, since, owed, words) in cases {
        let mut readable = readable(&["a.example"], "new");
        readable.facts.not_before = begins;
        let mut known = known(Some("old"), owed);
        known.holdings[0].not_before = since;
        let found =
            [hook, Cause::Reconcile, hand, force].map(|cause| word(change(&target, &known, &readable, cause).as_ref()));
        assert_eq!(found, words, "{begins} {since:?} {owed:?}");
        assert_eq!(is_older(&target, &known, &readable), since == Some(9) && begins == 5);
        if owed.is_some() {
            known.deliveries[0].path = "/srv/x".into();
            assert_eq!(change(&target, &known, &readable, hook), None, "another directory's is left alone");
            known.deliveries[0].force = true;
            let forced = change(&target, &known, &readable, hook);
            let refused = known.deliveries[0].state == Refused;
            assert_eq!(word(forced.as_ref()), if refused { "nothing" } else { "hasten" });
        }
    }
}

#[test]
fn what_a_target_held_at_another_place_does_not_count() {
    let (target, readable) = (target(&["a.example"]), readable(&["a.example"], "new"));
    for (place, want) in [("certdeploy@[h]:22+", "nothing"), ("certdeploy@[h]:22+srv", "owe"), ("u@[h]:22+", "owe")] {
        let mut known = known(Some("new"), None);
        known.holdings[0].place = Some(place.into());
        known.holdings[0].not_before = Some(7);
        assert_eq!(word(change(&target, &known, &readable, Cause::Reconcile).as_ref()), want, "{place}");
    }
}

#[test]
fn what_is_asked_for_by_hand_is_owed_again_and_only_to_the_named() {
    let target = target(&["a.example", "b.example"]);
    let readable = readable(&["a.example", "*.example"], "new");
    let settled = known(Some("new"), None);
    let refused = known(None, Some(("new", State::Refused)));
    for (domains, force, want) in
        [("b.example", false, "owe"), ("a.example", true, "force"), ("c.test", false, "nothing")]
    {
        for known in [&settled, &refused] {
            let renewal = renewal(&[domains], true, force);
            assert_eq!(word(change(&target, known, &readable, Cause::Hint(&renewal)).as_ref()), want, "{domains}");
        }
    }
}

#[test]
fn matching_is_by_name_by_the_certificates_wildcard_or_by_lineage() {
    // domains, lineages, the certificate's names -> the names it is needed for, whether the target gets it
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str], bool);
    let cases: [Case<'_>; 14] = [
        (&["a.example.com"], &[], &["a.example.com"], &["a.example.com"], true),
        (&["A.Example.COM."], &[], &["a.example.com"], &["a.example.com"], true),
        (&["a.example.com"], &[], &["b.example.com", "A.EXAMPLE.com"], &["a.example.com"], true),
        (&["a.example.com", "z.test"], &[], &["*.example.com"], &["a.example.com"], true),
        (&["example.com"], &[], &["*.example.com"], &[], false),
        (&["a.b.example.com"], &[], &["*.example.com"], &[], false),
        (&["*.example.com"], &[], &["*.example.com", "example.com"], &["*.example.com"], true),
        (&["*.example.com"], &[], &["a.example.com"], &[], false),
        (&["*.b.example.com"], &[], &["*.example.com"], &[], false),
        (&["a.example.com"], &[], &["xa.example.com", "a.example.com.evil"], &[], false),
        (&[], &["x"], &["whatever.test"], &[], true),
        (&["a.example.com"], &["x"], &["a.example.com"], &["a.example.com"], true),
        (&["a.example.com"], &["y"], &["b.example.com"], &[], false),
        (&[], &["X"], &["a.example.com"], &[], false),
    ];
    for (domains, lineages, names, want, given) in cases {
        let mut target = target(domains);
        target.lineages = lineages.iter().map(|name| name.parse().unwrap()).collect();
        let readable = readable(names, "new");
        let needed = needed(&target, &readable.facts.names);
        assert_eq!(needed.iter().map(Domain::as_str).collect::<Vec<_>>(), want, "{domains:?} {names:?}");
        assert_eq!(
            gets(&target, &readable.lineage, &readable.facts.names),
            given,
            "{domains:?} {lineages:?} {names:?}"
        );
        let change = change(&target, &known(None, None), &readable, Cause::Reconcile);
        assert_eq!(word(change.as_ref()), if given { "owe" } else { "nothing" });
    }
}

#[test]
fn explicit_domains_narrow_this_run_also_for_a_target_that_names_the_lineage() {
    let mut target = target(&[]);
    target.lineages.insert("x".parse().unwrap());
    let readable = readable(&["a.example", "*.b.example"], "new");
    for (asked, want) in [("a.example", "owe"), ("w.b.example", "owe"), ("*.b.example", "owe"), ("c.test", "nothing")] {
        let renewal = renewal(&[asked], true, false);
        let change = change(&target, &known(None, None), &readable, Cause::Hint(&renewal));
        assert_eq!(word(change.as_ref()), want, "{asked}");
    }
    let hook = renewal(&["a.example"], false, false);
    assert_eq!(word(change_unread(&target, &known(None, None), &hook).as_ref()), "owe", "unread, but named");
}

#[test]
fn only_the_certificates_names_count_and_what_no_longer_matches_is_dropped() {
    let hint = renewal(&["a.example"], false, false);
    let other = readable(&["other.example"], "new");
    let target = target(&["a.example"]);
    assert_eq!(word(change(&target, &known(None, None), &other, Cause::Hint(&hint)).as_ref()), "nothing");
    let owed = known(None, Some(("new", State::Owed)));
    assert_eq!(word(change(&target, &owed, &other, Cause::Reconcile).as_ref()), "drop");
    assert_eq!(word(change_unread(&target, &known(None, None), &hint).as_ref()), "owe");
    assert_eq!(word(change_unread(&target, &owed, &hint).as_ref()), "hasten");
    assert_eq!(word(change_unread(&target, &owed, &renewal(&["z.example"], false, false)).as_ref()), "nothing");
    assert_eq!(strays(&owed.deliveries, &[]).len(), 1);
    assert_eq!(strays(&owed.deliveries, &[target]).len(), 0);
}

#[test]
fn the_burst_comes_first_and_then_pauses_grow_to_a_cap_with_jitter() {
    let longest = Duration::from_secs(3600);
    let pace = |retries, interval| Pace {
        burst: Burst { retries, interval: Duration::from_secs(interval) },
        longest,
        resume: None,
    };
    let burst = pace(2, 30);
    assert_eq!([1, 2].map(|attempts| pause(attempts, burst, 1).as_secs()), [30, 30]);
    let mut last = Duration::ZERO;
    for attempts in 3..9 {
        let (low, high) = (1..50)
            .map(|seed| pause(attempts, burst, seed))
            .fold((Duration::MAX, Duration::ZERO), |(low, high), pause| (low.min(pause), high.max(pause)));
        assert!(low > last.mul_f64(0.7) && high > low && high <= longest, "{attempts}: {low:?} {high:?}");
        last = low;
    }
    assert!(pause(1_000_000, burst, 3) >= longest.mul_f64(0.75));
    assert!(pause(1, pace(0, 0), 3) >= Duration::from_millis(750));
}

#[test]
fn a_failure_is_written_down_with_what_follows() {
    let burst = Burst { retries: 1, interval: Duration::from_secs(5) };
    let longest = Duration::from_secs(600);
    let pace = Pace { burst, longest, resume: None };
    let passing = set_back(0, pace, Failure::Passing, "e".into(), 1, NOW);
    assert_eq!((passing.state, passing.attempts, passing.next_at), (State::Owed, 1, NOW.after(burst.interval)));
    let lasting = set_back(0, pace, Failure::Lasting, "e".into(), 1, NOW);
    assert_eq!((lasting.state, lasting.next_at), (State::Failed, NOW.after(longest * 6)), "never hot");
    let refused = set_back(3, pace, Failure::Refused(Some(digest("x"))), "e".into(), 1, NOW);
    assert_eq!((refused.state, refused.attempts, refused.digest), (State::Refused, 4, Some(digest("x"))));
    let once = Pace { resume: Some(NOW.after(longest * 9)), ..pace };
    let burst_over = set_back(1, once, Failure::Passing, "e".into(), 1, NOW);
    assert_eq!((burst_over.state, burst_over.next_at), (State::Owed, NOW.after(longest * 9)));
    assert_eq!(set_back(0, once, Failure::Passing, "e".into(), 1, NOW).next_at, NOW.after(burst.interval));
}
