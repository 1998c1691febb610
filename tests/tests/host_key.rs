//! A target that shows another host key than the pinned one: nothing of ours goes out, and it is said plainly.

use certdeploy_common::ssh::key;
use certdeploy_tests::World;
use certdeploy_tests::wire_tap::WireTap;

/// The numbers of the SSH messages that went over the wire in the clear, after the identification line; `None` in the
/// place of what is encrypted.
fn clear_messages(bytes: &[u8]) -> Vec<Option<u8>> {
    const NEWKEYS: u8 = 21;
    let mut rest = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => &bytes[end + 1..],
        None => return Vec::new(),
    };
    let mut messages = Vec::new();
    while rest.len() > 5 {
        let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let message = rest[5];
        messages.push(Some(message));
        rest = rest.get(4 + length..).unwrap_or_default();
        if message == NEWKEYS {
            if !rest.is_empty() {
                messages.push(None);
            }
            break;
        }
    }
    messages
}

#[test]
fn a_wrong_host_key_gets_no_byte_of_the_private_key() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let tap = WireTap::before(target.port);
    target.connect_port = tap.port;
    let right = target.pinned.clone();
    target.pinned = key::generate(&world.path("another_key"), "another").unwrap();
    world.write_server(&[&target]);
    let lineage = world.lineage("example.com", &["example.com"]);
    let _client = target.start();

    let _ = world.hook(&lineage).ended(0);
    let pushed = world.server(&["--push"]);
    assert_ne!(pushed.code, Some(0), "{}", pushed.said());
    assert!(pushed.said().to_lowercase().contains("host key"), "the message names the host key:\n{}", pushed.said());
    assert!(!target.holds(&lineage));

    let connections = tap.connections();
    assert!(!connections.is_empty(), "the server never connected");
    assert!(connections.len() <= 2, "a wrong host key is not tried again at once: {} connections", connections.len());
    let key_lines: Vec<&str> = lineage.issued.privkey.lines().filter(|line| !line.starts_with('-')).collect();
    for connection in &connections {
        let sent = connection.sent();
        let messages = clear_messages(&sent);
        assert!(messages.contains(&Some(20)), "KEXINIT is seen: {messages:?}");
        // The end of a key exchange may be there; nothing may follow it.
        assert!(!messages.contains(&None), "the pusher sent something encrypted: {messages:?}");
        for line in &key_lines {
            assert!(!sent.windows(line.len()).any(|window| window == line.as_bytes()), "a line of the key on the wire");
        }
    }

    // The same with the right key: shows that the tap would have seen it, and that the wait was not in vain.
    tap.forget();
    target.pinned = right;
    world.write_server(&[&target]);
    let _ = world
        .server(&["--push", "--lineage", &lineage.live.display().to_string(), "--domains", "example.com"])
        .ended(0);
    assert!(target.holds(&lineage));
    let messages = clear_messages(&tap.connections()[0].sent());
    assert!(messages.contains(&Some(21)) && messages.contains(&None), "{messages:?}");
}
