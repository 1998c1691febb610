//! From Debian packages: a plain sshd receives, cron or a timer picks up, and a timer renews.

use certdeploy_tests::need::can_run;
use certdeploy_tests::wait::holds_within;

use crate::hosts::{Hosts, Machine, SLOW};
use crate::reader::{Place, Reader};
use crate::{CRON, HOOK, INSTALL, NEEDS, SYSTEMD, source};

/// Lets a timer elapse a second after it was started.
fn soon(machine: &Machine, timer: &str) {
    let text = "[Timer]\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms\n";
    machine.put(&format!("/etc/systemd/system/{timer}.d/soon.conf"), text);
    machine.does("systemctl daemon-reload");
}

#[test]
fn a_plain_sshd_with_cron_and_timers_from_packages() {
    if !can_run("ways: plain sshd", NEEDS) {
        return;
    }
    let (hosts, reader) = (Hosts::start(), Reader::default());
    let (server, client) = (&hosts.server, &hosts.client);
    for package in source::packages((INSTALL, "Debian packages, on the machine that builds"), hosts.folder.path()) {
        for machine in [server, client] {
            machine.gets(&package);
        }
    }
    reader.follow((INSTALL, "Debian packages, on the host that runs certbot"), server);
    reader.follow((INSTALL, "Debian packages, on each host that needs certificates"), client);
    client.does("systemctl enable --now nginx.service");

    reader.follow((HOOK, "On the host that runs certbot"), server);
    reader.follow((CRON, "On each host that needs certificates"), client);
    reader.follow((CRON, "Back on the host that runs certbot"), server);
    assert!(!hosts.holds(), "nobody has picked it up yet");
    reader.follow((CRON, "One pass"), client);
    assert!(hosts.holds(), "{}", client.state());
    reader.follow((SYSTEMD, "nginx"), client);
    hosts.is_shown();

    reader.follow((CRON, "By cron"), client);
    hosts.renews();
    server.does("certdeploy-server --push");
    client.cron(|| hosts.holds());
    hosts.is_shown();

    client.does("rm /etc/cron.d/certdeploy-client");
    hosts.renews();
    server.does("certdeploy-server --push");
    soon(client, "certdeploy-client.timer");
    reader.follow((SYSTEMD, "The timer"), client);
    hosts.is_shown();
    let next = client.does("systemctl list-timers --no-legend certdeploy-client.timer");
    assert!(next.contains("certdeploy-client-once.service") && !next.starts_with('-'), "{next}");

    // Due at once, for certbot; the client's own timer is an hour away, so somebody looks.
    let due = "sed -i '1i renew_before_expiry = 20 years' /etc/letsencrypt/renewal/www.example.com.conf";
    server.does(due);
    let old = hosts.issued();
    soon(server, "certdeploy-renew.timer");
    reader.follow((SYSTEMD, "certbot by systemd, on the host that runs certbot"), server);
    let ended = || server.does("systemctl show -P ActiveState certdeploy-renew.service") == "inactive";
    let renewed = holds_within(SLOW, || hosts.issued() != old && ended());
    assert!(renewed, "the timer does not renew: {}", server.state());
    client.does("systemctl start certdeploy-client-once.service");
    hosts.is_shown();
}
