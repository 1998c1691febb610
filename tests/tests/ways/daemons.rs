//! From source: certbot's hook with pushes by hand and by cron, then the daemons under systemd with a real nginx.

use certdeploy_tests::need::can_run;

use crate::hosts::Hosts;
use crate::reader::Reader;
use crate::{HOOK, INSTALL, NEEDS, SYSTEMD};

#[test]
fn the_hook_and_the_daemons_from_source() {
    if !can_run("ways: daemons", NEEDS) {
        return;
    }
    let (hosts, reader) = (Hosts::start(), Reader::default());
    let (server, client) = (&hosts.server, &hosts.client);
    for machine in [server, client] {
        reader.follow((INSTALL, "From source, on every host"), machine);
    }
    // Like any web server before it has its first certificate.
    client.does("systemctl enable --now nginx.service");

    reader.follow((HOOK, "On the host that runs certbot"), server);
    reader.follow((SYSTEMD, "The daemon on each host that needs certificates"), client);
    reader.follow((HOOK, "Back on the host that runs certbot"), server);
    reader.follow((HOOK, "What is there already"), server);
    hosts.arrives();
    reader.follow((SYSTEMD, "nginx"), client);
    hosts.is_shown();

    hosts.renews();
    assert!(!hosts.holds(), "nobody has pushed yet");
    reader.follow((HOOK, "After each renewal"), server);
    hosts.is_shown();
    reader.follow((HOOK, "By cron"), server);
    hosts.renews();
    server.cron(|| hosts.holds());
    hosts.is_shown();

    reader.follow((SYSTEMD, "The daemon on the host that runs certbot"), server);
    hosts.renews();
    hosts.is_shown();
    reader.follow((SYSTEMD, "The socket"), client);
    hosts.renews();
    hosts.is_shown();
    reader.follow((SYSTEMD, "Tighter, on each host that needs certificates"), client);
    reader.follow((SYSTEMD, "Tighter, on the host that runs certbot"), server);
    hosts.renews();
    hosts.is_shown();

    for machine in [server, client] {
        // Where the page of the plain sshd says that it is.
        machine.does("test -s /usr/local/share/doc/certdeploy/sshd_config.d/certdeploy.conf");
        machine.does(
            "systemctl disable --now certdeploy-client.service certdeploy-client.socket certdeploy-server.service",
        );
        reader.follow((INSTALL, "Taking it away again, from source"), machine);
        assert_eq!(machine.does("find /usr/local -name '*certdeploy*'"), "");
    }
}
