//! What `status` shows of which rows.

use certdeploy_common::cert::Digest;

use super::*;
use crate::config::TargetId;

const NOW: Millis = Millis(1_000_000);

fn targets() -> Vec<Target> {
    let pin = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
    let text = format!(
        "{{privkey_filename: /k, client_configs: [{{name: one, address: h, domains: [a.b], pubkey: {pin}}}, \
         {{name: two, address: i, domains: [a.b], pubkey: {pin}}}]}}"
    );
    crate::config::parse(std::path::Path::new("s.yml"), &text).unwrap().0.targets
}

fn holding(update: Update) -> Holding {
    Holding {
        target: TargetId::stored("one".into()),
        lineage: "x".parse().unwrap(),
        digest: Digest::of(b""),
        serial: "0a".into(),
        not_after: 86_400_000,
        generation: Some(2),
        acked_at: Millis(5_000),
        update: Some(update),
        ask_at: None,
        not_before: None,
        place: None,
    }
}

fn delivery(target: &str) -> Delivery {
    Delivery {
        id: 1,
        target: TargetId::stored(target.into()),
        lineage: "x".parse().unwrap(),
        path: "/live/x".into(),
        digest: None,
        serial: Some("0b".into()),
        not_after: None,
        force: false,
        state: State::Owed,
        attempts: 3,
        next_at: Millis(7_000),
        last_error: Some("no\nway".into()),
    }
}

fn shown(deliveries: Vec<Delivery>, holdings: Vec<Holding>, renewals: usize) -> Status {
    status(&targets(), Rows { deliveries, holdings, renewals }, &BTreeSet::new(), NOW)
}

#[test]
fn all_is_fine_when_everything_is_delivered_and_updated() {
    let status = shown(vec![], vec![holding(Update::Done)], 0);
    assert!(status.fine);
    let states: Vec<_> = status.deliveries.iter().map(|line| (line.target.as_str(), line.state)).collect();
    assert_eq!(states, [("one", "delivered"), ("two", "none")]);
    let table = status.table();
    assert!(table.contains("one     x        delivered  0a      1972-09-27 00:00:00  2    done"), "{table}");
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_marked() {
    for (begins, mark) in [(Some(NOW.seconds() + 1), Some("not yet")), (Some(0), Some("good")), (None, Some("good"))] {
        let status = shown(vec![], vec![Holding { not_before: begins, ..holding(Update::Done) }], 0);
        assert_eq!(status.deliveries[0].expiry, mark);
        assert_eq!(status.table().contains("1972-09-27 00:00:00 NOT YET VALID"), mark == Some("not yet"));
    }
}

#[test]
fn what_is_owed_failed_or_waiting_is_not_fine_and_is_shown() {
    let owed = shown(vec![delivery("one"), delivery("gone")], vec![holding(Update::Done)], 0);
    assert!(!owed.fine && owed.deliveries.len() == 2, "a target that left the config is not shown");
    let line = &owed.deliveries[0];
    assert_eq!((line.state, line.serial.as_deref(), line.owed_serial.as_deref()), ("owed", Some("0a"), Some("0b")));
    assert!(owed.table().contains("no\\nway"));
    let failed = Update::Failed { reason: "script".into() };
    assert!(!shown(vec![], vec![holding(failed)], 0).fine);
    assert!(shown(vec![], vec![holding(Update::Pending { due: 9 })], 0).fine);
    assert!(!shown(vec![], vec![], 1).fine);
    assert!(shown(vec![], vec![], 1).table().ends_with("\n1 renewal waits in the queue\n"));
    assert!(shown(vec![], vec![], 2).table().ends_with("\n2 renewals wait in the queue\n"));
}

#[test]
fn an_expired_certificate_is_marked_wherever_it_came_from() {
    // Seconds from now until it ends -> the mark, and whether all is fine.
    for (left, expiry, mark, fine) in
        [(-1, "expired", " EXPIRED", false), (1, "soon", " soon", true), (30 * 86_400, "good", "  2 ", true)]
    {
        let mut held = holding(Update::Done);
        held.not_after = NOW.seconds() + left;
        let status = shown(vec![], vec![held], 0);
        assert_eq!((status.deliveries[0].expiry, status.fine), (Some(expiry), fine));
        assert!(status.table().contains(mark), "{}", status.table());
    }
}

#[test]
fn another_host_key_and_a_lineage_that_is_gone_are_states_of_their_own() {
    let mut other_key = delivery("one");
    other_key.state = State::Failed;
    other_key.last_error = Some("BadHostKeyException: Host key for server 'h' does not match".into());
    let status = shown(vec![other_key.clone()], vec![], 0);
    assert_eq!((status.deliveries[0].state, status.fine), ("host key", false));
    other_key.last_error = Some("something else".into());
    assert_eq!(shown(vec![other_key], vec![], 0).deliveries[0].state, "failed");

    let mut refused = delivery("one");
    refused.state = State::Refused;
    let rows = || Rows { deliveries: vec![refused.clone()], ..Rows::default() };
    let still_there = super::status(&targets(), rows(), &BTreeSet::new(), NOW);
    assert_eq!((still_there.deliveries[0].state, still_there.fine), ("refused", false));
    let gone = super::status(&targets(), rows(), &BTreeSet::from(["/live/x".into()]), NOW);
    assert_eq!((gone.deliveries[0].state, gone.fine, gone.deliveries[0].next_try), ("gone", true, None));
}

/// The shape that others read: names, types, and which are null when. It may grow; nothing in it may change.
#[test]
fn the_json_is_as_it_is_documented() {
    let status = shown(vec![delivery("one")], vec![holding(Update::Failed { reason: "exit 1".into() })], 1);
    let told: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
    let nothing = |target: &str, address: &str| {
        serde_json::json!({
            "target": target, "address": address, "lineage": null, "state": "none", "serial": null, "expires": null,
            "expiry": null, "generation": null, "update": null, "update_due": null, "update_reason": null,
            "acknowledged": null, "digest": null, "owed_serial": null, "attempts": 0, "next_try": null,
            "last_error": null,
        })
    };
    let want = serde_json::json!({
        "renewals": 1,
        "fine": false,
        "renewal": null,
        "deliveries": [
            {
                "target": "one", "address": "certdeploy@[h]:22", "lineage": "x", "state": "owed", "serial": "0a",
                "expires": 86_400_000, "expiry": "good", "generation": 2, "update": "failed", "update_due": null,
                "update_reason": "exit 1", "acknowledged": 5,
                "digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "owed_serial": "0b", "attempts": 3, "next_try": 7, "last_error": "no\nway",
            },
            nothing("two", "certdeploy@[i]:22"),
        ],
    });
    assert_eq!(told, want);
}
