//! The README's five minutes.

use std::os::unix::fs::PermissionsExt;

use certdeploy_tests::need::can_run;
use certdeploy_tests::until;

use crate::hosts::{Hosts, SLOW};
use crate::reader::Reader;
use crate::{NEEDS, README};

#[test]
fn five_minutes() {
    if !can_run("ways: five minutes", NEEDS) {
        return;
    }
    let (hosts, reader) = (Hosts::start(), Reader::default());
    let (server, client) = (&hosts.server, &hosts.client);
    // The script that the page says must exist.
    let script = client.root.join("usr/local/sbin/reload-services");
    std::fs::write(&script, "#!/bin/sh\necho \"$RENEWED_LINEAGES\" >>/root/reloaded\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();

    reader.follow((README, "Five minutes"), server);
    reader.follow((README, "Five minutes"), client);
    reader.follow((README, "On the host that runs certbot"), server);
    reader.follow((README, "On each host that needs certificates"), client);
    reader.follow((README, "Back on the host that runs certbot"), server);
    hosts.arrives();
    let reloads = || std::fs::read_to_string(client.root.join("root/reloaded")).map_or(0, |text| text.lines().count());
    until("the script was run", SLOW, || (reloads() == 1).then_some(()));
    hosts.renews();
    hosts.arrives();
    until("the script was run again", SLOW, || (reloads() == 2).then_some(()));
    assert!(server.does("certdeploy-server status").contains("web1.example.com"));
}
