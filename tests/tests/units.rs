//! The units in a booted systemd, as `make install` puts them: the timer, the socket, the renewal, the units of the
//! user's old document; and a client without privileges that polkit lets do what its config says.

use std::time::Duration;

use certdeploy_common::ssh::key;
use certdeploy_tests::booted::Booted;
use certdeploy_tests::document::blocks;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{binary, command, free_port, run};
use certdeploy_tests::shipped::file;
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Lineage, World, until};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("systemd-nspawn"),
    Need::Program("nsenter"),
    Need::Program("make"),
    Need::Program("sed"),
];

/// A booted host with everything that `make install` brings, and the world's folder at `/mnt`.
struct Installed {
    world: World,
    port: u16,
    /// The client's host key, as one line.
    pinned: String,
    booted: Booted,
}

impl Installed {
    fn new() -> Self {
        let world = World::new();
        let mut make = command("/usr/bin/make");
        let built = binary("certdeploy-client").parent().unwrap().display().to_string();
        make.arg("-C").arg(file("")).args(["--silent", "install", "PREFIX=/usr/local"]);
        make.arg(format!("DESTDIR={}", world.path("installed").display()));
        make.arg(format!("BUILT={built}")).arg(format!("GENERATED={}", world.path("generated").display()));
        let _ = run(make).ended(0);
        let pinned = key::generate(&world.path("client_key"), "web1").unwrap();
        let victim = world.path("victim.service");
        std::fs::write(&victim, "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/true\n").unwrap();
        let at = |name: &str| format!("/etc/systemd/system/{name}");
        let (one, other) = (at("victim.service"), at("other.service"));
        let booted = Booted::start(
            &world.path("booted"),
            &[
                (world.path("installed/usr/local"), "/usr/local"),
                (world.path(""), "/mnt"),
                (victim.clone(), &one),
                (victim, &other),
            ],
        );
        let installed = Self { port: free_port(), world, pinned, booted };
        installed.does("systemd-sysusers && systemd-tmpfiles --create && mkdir -p /etc/certdeploy /etc/ssl/certdeploy");
        installed.does("cp /mnt/client_key /etc/certdeploy/ && systemctl start victim other");
        installed
    }

    /// A line of a shell inside that must succeed.
    #[track_caller]
    fn does(&self, line: &str) -> String {
        let ran = self.booted.shell(line);
        assert_eq!(ran.code, Some(0), "{line}: {}\n{}", ran.said(), self.journal());
        ran.stdout.trim().to_owned()
    }

    fn journal(&self) -> String {
        self.booted.shell("journalctl --no-pager -n 40").said()
    }

    /// Writes a file inside.
    fn writes(&self, path: &str, text: &str) {
        std::fs::write(self.world.path("to-copy"), text).unwrap();
        self.does(&format!("mkdir -p $(dirname {path}) && cp /mnt/to-copy {path} && systemctl daemon-reload"));
    }

    /// `client.yml` with a daemon and these lines.
    fn writes_client(&self, more: &str) {
        let text = format!(
            "destination: /etc/ssl/certdeploy\nlog_level: DEBUG\nupdate_delay: null\n{more}sftpd:\n  \
             listen_address: 127.0.0.1\n  listen_port: {}\n  privkey_filename: /etc/certdeploy/client_key\n  \
             server_pubkey: {}\n",
            self.port, self.world.pusher_key
        );
        self.writes("/etc/certdeploy/client.yml", &text);
    }

    /// A server inside whose only target is the client inside; its lineages are below `/mnt/le`.
    fn writes_server(&self, more: &str) {
        self.does("cp /mnt/server/key /etc/certdeploy/server_key");
        let text = format!(
            "privkey_filename: /etc/certdeploy/server_key\nlive_directory: /mnt/le/live\nlog_level: DEBUG\n{more}\
             client_configs:\n  - {{name: web1, address: 127.0.0.1, port: {}, pubkey: {}, domains: [a.example, b.example, c.example]}}\n",
            self.port, self.pinned
        );
        self.writes("/etc/certdeploy/server.yml", &text);
    }

    fn lineage(&self, name: &str) -> Lineage {
        self.world.lineage(name, &[name])
    }

    /// Puts a lineage where a plain sshd would have put it.
    fn stages(&self, lineage: &Lineage, owner: &str) {
        let name = &lineage.name;
        self.does(&format!(
            "install -d -o {owner} -m 700 /var/cache/certdeploy/{name} && cp -L /mnt/le/live/{name}/fullchain.pem \
             /mnt/le/live/{name}/privkey.pem /var/cache/certdeploy/{name}/ && chown -R {owner}: /var/cache/certdeploy/{name}"
        ));
    }

    #[track_caller]
    fn receives(&self, lineage: &Lineage) {
        let line = format!("cat /etc/ssl/certdeploy/{}/fullchain.pem", lineage.name);
        until(&format!("{} is deployed: {}", lineage.name, self.journal()), PATIENCE, || {
            (self.booted.shell(&line).stdout == lineage.issued.fullchain).then_some(())
        });
    }

    fn property(&self, unit: &str, name: &str) -> String {
        self.booted.property(unit, name)
    }

    #[track_caller]
    fn is_active(&self, unit: &str) {
        until(&format!("{unit} is active: {}", self.journal()), PATIENCE, || {
            (self.property(unit, "ActiveState") == "active").then_some(())
        });
    }
}

#[test]
fn the_timer_fires_and_fires_again() {
    if !can_run("units", NEEDS) {
        return;
    }
    let host = Installed::new();
    host.writes("/etc/certdeploy/client.yml", "destination: /etc/ssl/certdeploy\n");
    let first = host.lineage("a.example");
    host.stages(&first, "certdeploy");
    // The same timer with shorter times.
    let shorter = "[Timer]\nOnBootSec=\nOnBootSec=1s\nOnUnitActiveSec=1s\nAccuracySec=100ms\n";
    let shipped = std::fs::read_to_string(file("systemd/certdeploy-client.timer")).unwrap();
    assert!(shipped.contains("OnBootSec=2min\nOnUnitActiveSec=1h\n"), "{shipped}");
    host.writes("/etc/systemd/system/certdeploy-client.timer.d/shorter.conf", shorter);
    host.does("systemctl enable --now certdeploy-client.timer");
    host.receives(&first);
    let second = host.lineage("b.example");
    host.stages(&second, "certdeploy");
    host.receives(&second);
    assert_eq!(host.property("certdeploy-client-once.service", "Result"), "success");
}

#[test]
fn the_socket_starts_the_daemon_and_outlives_it() {
    if !can_run("units", NEEDS) {
        return;
    }
    let host = Installed::new();
    host.writes_client("");
    host.writes_server("renew_exec: /bin/true\n");
    let here = format!("[Socket]\nListenStream=\nListenStream=127.0.0.1:{}\n", host.port);
    host.writes("/etc/systemd/system/certdeploy-client.socket.d/here.conf", &here);
    host.does("systemctl enable --now certdeploy-client.socket");
    assert_eq!(host.property("certdeploy-client.service", "ActiveState"), "inactive");
    let push = |name: &str| {
        let lineage = host.lineage(name);
        host.does(&format!("certdeploy-server --push --lineage /mnt/le/live/{name} --domains {name}"));
        host.receives(&lineage);
    };
    push("a.example");
    host.is_active("certdeploy-client.service");
    host.does("systemctl restart certdeploy-client.service");
    push("b.example");
    // Stopped, it is started by the next push.
    host.does("systemctl stop certdeploy-client.service");
    push("c.example");
}

#[test]
fn a_renewal_without_the_daemon_is_delivered() {
    if !can_run("units", NEEDS) {
        return;
    }
    let host = Installed::new();
    host.writes_client("");
    host.does("systemctl start certdeploy-client.service");
    let lineage = host.lineage("a.example");
    // It does what certbot does for a lineage that it has renewed.
    let certbot = "#!/bin/sh\nRENEWED_LINEAGE=/mnt/le/live/a.example RENEWED_DOMAINS=a.example certdeploy-server\n";
    host.writes("/opt/bin/certbot", certbot);
    host.does("chmod 755 /opt/bin/certbot");
    host.writes_server("renew_exec: /opt/bin/certbot\n");
    host.does("systemctl start certdeploy-renew.service");
    host.receives(&lineage);
    // One that fails is seen, and what is owed is pushed all the same.
    let other = host.lineage("b.example");
    host.does("RENEWED_LINEAGE=/mnt/le/live/b.example RENEWED_DOMAINS=b.example certdeploy-server");
    host.writes("/opt/bin/certbot", "#!/bin/sh\nexit 1\n");
    assert_ne!(host.booted.shell("systemctl start certdeploy-renew.service").code, Some(0));
    host.receives(&other);
    assert_eq!(host.property("certdeploy-renew.service", "ActiveState"), "failed");

    host.does("systemctl enable --now certdeploy-renew.timer");
    let next = host.does("date -d \"$(systemctl show -P NextElapseUSecRealtime certdeploy-renew.timer)\" +%s");
    let now = host.does("date +%s");
    let wait = next.parse::<u64>().unwrap().saturating_sub(now.parse().unwrap());
    assert!(wait <= 24 * 3600 + 60, "the next renewal is in {wait} s");
}

#[test]
fn the_units_of_the_old_document_run_unchanged() {
    if !can_run("units", NEEDS) {
        return;
    }
    let host = Installed::new();
    host.writes_client("");
    host.writes_server("renew_exec: /bin/true\n");
    let unit = |needle: &str| {
        let all = blocks();
        let found = all.iter().find(|block| block.contains("ExecStart=") && block.contains(needle));
        found.unwrap_or_else(|| panic!("no unit with {needle:?}")).clone()
    };
    host.writes("/etc/systemd/system/certdeploy-client.service", &unit("Type=exec"));
    host.does("systemctl enable certdeploy-client.service && systemctl start certdeploy-client.service");
    let lineage = host.lineage("a.example");
    until("it listens", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", host.port)).ok());
    host.does("certdeploy-server --push --lineage /mnt/le/live/a.example --domains a.example");
    host.receives(&lineage);
    // Our drop-in fits a unit that somebody else wrote as well.
    let drop_in = host.does("certdeploy-client harden");
    host.writes("/etc/systemd/system/certdeploy-client.service.d/harden.conf", &drop_in);
    host.does("systemctl restart certdeploy-client.service");
    until("it listens", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", host.port)).ok());
    let lineage = host.lineage("b.example");
    host.does("certdeploy-server --push --lineage /mnt/le/live/b.example --domains b.example");
    host.receives(&lineage);
    host.does("systemctl stop certdeploy-client.service");

    host.writes("/etc/systemd/system/certdeploy-client.service", &unit("Type=oneshot"));
    let timer = blocks().into_iter().find(|block| block.contains("[Timer]")).expect("a timer");
    host.writes("/etc/systemd/system/certdeploy-client.timer", &timer);
    host.does("systemctl enable certdeploy-client.timer && systemctl start certdeploy-client.timer");
    let staged = host.lineage("c.example");
    host.stages(&staged, "certdeploy");
    host.does("systemctl start certdeploy-client.service");
    host.receives(&staged);
    // It counts from the last run.
    assert_eq!(host.property("certdeploy-client.timer", "ActiveState"), "active");
    let next = host.property("certdeploy-client.timer", "NextElapseUSecMonotonic");
    assert!(!["", "0", "infinity"].contains(&next.as_str()), "{next}");
}

#[test]
fn polkit_lets_the_client_s_user_do_what_the_config_says_and_no_more() {
    if !can_run("units", NEEDS) {
        return;
    }
    let host = Installed::new();
    let updates = "update_services:\n  - {type: systemd, name: victim.service}\n";
    host.writes("/etc/certdeploy/client.yml", &format!("destination: /etc/ssl/certdeploy\n{updates}"));
    host.does("chown certdeploy /etc/ssl/certdeploy");
    let lineage = host.lineage("a.example");
    host.stages(&lineage, "certdeploy");
    let as_user = |line: &str| host.booted.run(&["su", "-s", "/bin/sh", "certdeploy", "-c", line]);
    let main = |unit: &str| host.property(unit, "MainPID");
    let (victim, other) = (main("victim.service"), main("other.service"));

    // Without the rule the certificate is in place, and the update is said to have failed.
    let ran = as_user("certdeploy-client");
    assert_eq!(ran.code, Some(3), "{}\n{}", ran.said(), host.journal());
    host.receives(&lineage);
    assert_eq!(main("victim.service"), victim);

    host.does("certdeploy-client harden --polkit >/etc/polkit-1/rules.d/50-certdeploy.rules");
    // polkitd watches the folder.
    until(&format!("the update runs: {}", host.journal()), Duration::from_secs(30), || {
        (as_user("certdeploy-client update --failed").code == Some(0)).then_some(())
    });
    assert_ne!(main("victim.service"), victim);
    for refused in ["systemctl restart other.service", "systemctl stop victim.service", "systemctl daemon-reload"] {
        let ran = as_user(&format!("{refused} --no-ask-password"));
        assert_ne!(ran.code, Some(0), "{refused}: {}", ran.said());
    }
    assert_eq!(main("other.service"), other);
    assert_eq!(host.property("victim.service", "ActiveState"), "active");
}
