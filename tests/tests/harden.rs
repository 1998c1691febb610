//! The shipped units and what `harden` makes of them: how exposed they are, and that the work is done under them.

use std::path::{Path, PathBuf};

use certdeploy_common::ssh::key;
use certdeploy_tests::booted::Booted;
use certdeploy_tests::engine::{Engine, IMAGE};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{binary, free_port};
use certdeploy_tests::shipped::{exposure, file, harden};
use certdeploy_tests::wait::{PATIENCE, holds_within};
use certdeploy_tests::{World, until};

const NEEDS: &[Need] = &[Need::Root, Need::Program("systemd-nspawn"), Need::Program("nsenter")];

/// A `client.yml` in `folder` with these updates, and the directories that it names.
fn client_config(folder: &Path, updates: &str) -> PathBuf {
    std::fs::create_dir_all(folder.join("certs")).unwrap();
    std::fs::create_dir_all(folder.join("staging")).unwrap();
    let config = folder.join("client.yml");
    let text =
        format!("destination: {f}/certs\nsource: {f}/staging\nupdate_services:\n{updates}", f = folder.display());
    std::fs::write(&config, text).unwrap();
    config
}

#[test]
fn the_exposure_of_a_sandbox_that_fits_is_low_and_kept() {
    if !can_run("harden", &[Need::Root, Need::Program("systemd-analyze")]) {
        return;
    }
    // As a package has it: nothing of ours is in /tmp, which would have to stay visible.
    let folder = tempfile::tempdir_in("/var/lib").unwrap();
    let fitted = |updates: &str| {
        let drop_in = harden("certdeploy-client", &client_config(folder.path(), updates));
        exposure("certdeploy-client.service", Some(&drop_in))
    };
    let systemd = fitted("  - {type: systemd, name: nginx.service, action: reload}\n");
    let docker = fitted("  - {type: docker_container, name: web}\n  - {type: docker_service, name: web}\n");
    let scripts = fitted("  - {type: script, name: /bin/true}\n");
    assert!(systemd <= 2.5, "systemd updates: {systemd}");
    assert!(docker <= 2.5, "docker updates: {docker}");
    assert!(scripts <= 5.0, "scripts: {scripts}");

    let config = folder.path().join("server.yml");
    let pusher_key = folder.path().join("key");
    key::generate(&pusher_key, "test").unwrap();
    let pin = key::generate(&folder.path().join("host_key"), "test").unwrap();
    let text = format!(
        "privkey_filename: {}\nlive_directory: {}\nclient_configs: [{{address: web1, domains: [a.example], pubkey: {pin}}}]\n",
        pusher_key.display(),
        folder.path().join("live").display()
    );
    std::fs::write(&config, &text).unwrap();
    let server = || exposure("certdeploy-server.service", Some(&harden("certdeploy-server", &config)));
    let with_certbot = server();
    std::fs::write(&config, format!("{text}renew_exec: /bin/true\n")).unwrap();
    let alone = server();
    std::fs::write(&config, format!("{text}renew_exec: /bin/sh\n")).unwrap();
    let anything = server();
    assert!(with_certbot <= 2.5, "with certbot: {with_certbot}");
    assert!(alone <= 2.3, "alone: {alone}");
    assert!(anything <= 5.0, "with any program: {anything}");

    for unit in [
        "certdeploy-client.service",
        "certdeploy-client-once.service",
        "certdeploy-server.service",
        "certdeploy-renew.service",
    ] {
        let shipped = exposure(unit, None);
        assert!(shipped <= 8.0, "{unit}: {shipped}");
    }
    println!("client {systemd} {docker}, scripts {scripts}; server {with_certbot}, alone {alone}, anything {anything}");
}

/// A booted client under its shipped unit, with a drop-in if `fits`, and the server's world outside.
struct Guarded {
    world: World,
    port: u16,
    pinned: String,
    booted: Booted,
}

/// What the client's unit is called inside.
const CLIENT: &str = "certdeploy-client.service";

impl Guarded {
    /// In a world that is at `/mnt` inside.
    fn new(world: World, updates: &str, fits: bool) -> Self {
        let host_key = world.path("host_key");
        let pinned = key::generate(&host_key, "web1").unwrap();
        let port = free_port();
        let victim = world.path("victim.service");
        std::fs::write(&victim, "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/true\n").unwrap();
        let booted = Booted::start(
            &world.path("booted"),
            &[
                (binary("certdeploy-client"), "/usr/bin/certdeploy-client"),
                (file("systemd/certdeploy-client.service"), "/usr/lib/systemd/system/certdeploy-client.service"),
                (file("systemd/certdeploy.sysusers"), "/usr/lib/sysusers.d/certdeploy.conf"),
                (file("systemd/certdeploy-client.tmpfiles"), "/usr/lib/tmpfiles.d/certdeploy-client.conf"),
                (victim, "/etc/systemd/system/victim.service"),
                (world.path(""), "/mnt"),
            ],
        );
        let config = format!(
            "destination: /etc/ssl/certdeploy\nlog_level: DEBUG\nlog_filename: /var/log/certdeploy/client.log\n\
             update_delay: null\nupdate_services:\n{updates}sftpd:\n  listen_address: 127.0.0.1\n  listen_port: {port}\n  \
             privkey_filename: /etc/certdeploy/client_key\n  server_pubkey: {}\n",
            world.pusher_key
        );
        std::fs::write(world.path("client.yml"), config).unwrap();
        let guarded = Self { world, port, pinned, booted };
        guarded.does("systemd-sysusers && systemd-tmpfiles --create certdeploy-client.conf");
        guarded.does("mkdir -p /etc/certdeploy /etc/ssl/certdeploy && cp /mnt/client.yml /etc/certdeploy/");
        guarded.does("cp /mnt/host_key /etc/certdeploy/client_key && systemctl start victim");
        if fits {
            guarded.does(
                "mkdir -p /etc/systemd/system/certdeploy-client.service.d && \
                 certdeploy-client harden >/etc/systemd/system/certdeploy-client.service.d/harden.conf && \
                 systemctl daemon-reload",
            );
        }
        guarded.does("systemctl start certdeploy-client");
        guarded
    }

    /// A line of a shell inside that must succeed.
    #[track_caller]
    fn does(&self, line: &str) -> String {
        let ran = self.booted.shell(line);
        assert_eq!(ran.code, Some(0), "{line}: {}\n{}", ran.said(), self.journal());
        ran.stdout
    }

    fn journal(&self) -> String {
        self.booted
            .shell("cat /var/log/certdeploy/client.log; journalctl --no-pager -u certdeploy-client | tail -n 50")
            .said()
    }

    fn property(&self, unit: &str, name: &str) -> String {
        self.booted.property(unit, name)
    }

    /// A push of a new lineage from outside, and its update's end.
    fn is_pushed(&self, name: &str) {
        let text = format!(
            "privkey_filename: {}\nqueue_dir: {}\nlive_directory: {}\nrenew_exec: /bin/true\nclient_configs:\n  \
             - {{name: web1, address: 127.0.0.1, port: {}, pubkey: {}, domains: [{name}]}}\n",
            self.world.server_key().display(),
            self.world.queue().display(),
            self.world.letsencrypt().join("live").display(),
            self.port,
            self.pinned,
        );
        std::fs::write(self.world.server_config(), text).unwrap();
        let lineage = self.world.lineage(name, &[name]);
        let _ = self.world.hook(&lineage).ended(0);
        let ran = self.world.server(&["--push"]);
        assert_eq!(ran.code, Some(0), "{}\n{}", ran.said(), self.journal());
        let deployed = self.does(&format!("cat /etc/ssl/certdeploy/{name}/fullchain.pem"));
        assert_eq!(deployed, lineage.issued.fullchain);
    }

    /// Waits until the victim's first process is another one.
    fn victim_restarts(&self, before: &str) {
        until("the unit is restarted", PATIENCE, || {
            let now = self.property("victim.service", "MainPID");
            (now != before && now != "0").then_some(())
        });
    }

    /// Runs a line in the mount namespace of the daemon, as its root; the exit code.
    fn inside_sandbox(&self, line: &str) -> i32 {
        let main = self.property(CLIENT, "MainPID");
        self.booted.run(&["nsenter", "-t", &main, "-m", "/bin/sh", "-c", line]).code.unwrap_or(-1)
    }
}

#[test]
fn a_push_and_a_restart_of_a_unit_go_through_the_fitted_sandbox() {
    if !can_run("harden", NEEDS) {
        return;
    }
    let guarded = Guarded::new(World::new(), "  - {type: systemd, name: victim.service}\n", true);
    let before = guarded.property("victim.service", "MainPID");
    guarded.is_pushed("one.example");
    guarded.victim_restarts(&before);
    assert_eq!(guarded.property(CLIENT, "NoNewPrivileges"), "yes");
    assert_eq!(guarded.does("stat -c '%a %U' /var/cache/certdeploy").trim(), "700 certdeploy");
    assert_eq!(guarded.property(CLIENT, "TimeoutStopUSec"), "3min");

    // Nothing but what it needs can be written, and no other program be started, also by root.
    let main = guarded.property(CLIENT, "MainPID");
    let writable = |path: &str| {
        let line = format!("findmnt -n -o OPTIONS -T {path} -N {main}");
        guarded.does(&line).split(',').any(|option| option.trim() == "rw")
    };
    assert!(writable("/etc/ssl/certdeploy") && writable("/var/cache/certdeploy") && writable("/var/log/certdeploy"));
    assert!(!writable("/etc") && !writable("/usr") && !writable("/var/lib") && !writable("/etc/ssl"));
    // nsenter's own exec happens inside: there is no shell that it may run.
    assert_eq!(guarded.inside_sandbox("true"), 126);

    // It is reloaded and started again as without the sandbox.
    guarded.does("systemctl reload certdeploy-client");
    guarded.is_pushed("two.example");
    guarded.does("systemctl restart certdeploy-client");
    guarded.is_pushed("three.example");
    let log = guarded.does("cat /var/log/certdeploy/client.log");
    assert!(!log.contains("runs without"), "a protection of its own is missing under the unit's:\n{log}");
    assert_eq!(guarded.property(CLIENT, "NRestarts"), "0");
}

#[test]
fn a_container_is_restarted_through_the_fitted_sandbox() {
    if !can_run("harden", NEEDS) || !can_run("harden", &[Need::Program("dockerd"), Need::Program("busybox")]) {
        return;
    }
    let world = World::new();
    let engine = Engine::start(&world.path("engine"));
    let _ = engine.ask(&["run", "-d", "--network", "none", "--name", "web", IMAGE, "/bin/sleep", "1000"]);
    let started = |engine: &Engine| engine.ask(&["inspect", "-f", "{{.State.StartedAt}}", "web"]);
    let before = started(&engine);
    let updates = "  - {type: docker_container, name: web, timeout: 1}\ndocker_url: unix:///mnt/engine/docker.sock\n";
    let guarded = Guarded::new(world, updates, true);
    // It ends before the directory goes that it is in, or its container's shim would stay.
    let engine = engine;
    guarded.is_pushed("one.example");
    until("the container is restarted", PATIENCE, || (started(&engine) != before).then_some(()));
}

/// What a script of a user's may do; each must work under the shipped unit.
const ANYTHING: &str = "#!/bin/sh\nset -ex\n\
    mkdir -p /usr/local/etc/haproxy /mnt2\n\
    cat /etc/ssl/certdeploy/*/fullchain.pem /etc/ssl/certdeploy/*/privkey.pem >/usr/local/etc/haproxy/all.pem\n\
    chown nobody /usr/local/etc/haproxy/all.pem\nchmod 2640 /usr/local/etc/haproxy/all.pem\n\
    su -s /bin/sh nobody -c 'cat /usr/local/etc/haproxy/all.pem >/dev/null'\n\
    mount -t tmpfs none /mnt2\ntouch /mnt2/x\numount /mnt2\n\
    unshare -m true\nchroot / true\nnice -n -5 true\ndate\nls /root /home /dev >/dev/null\n\
    echo 1 >/proc/sys/net/ipv4/ip_forward || true\n\
    systemctl restart victim.service\nservice victim reload\n\
    touch /run/all-done\n";

#[test]
fn scripts_can_do_what_they_want_under_the_shipped_unit() {
    if !can_run("harden", NEEDS) {
        return;
    }
    let guarded = Guarded::new(World::new(), "", false);
    std::fs::write(guarded.world.path("anything"), ANYTHING).unwrap();
    guarded.does("install -m 755 /mnt/anything /usr/local/sbin/anything");
    guarded.does(
        "sed -i 's#^update_services:#update_services: [{type: script, name: anything}]#' /etc/certdeploy/client.yml",
    );
    guarded.does("systemctl restart certdeploy-client");
    let before = guarded.property("victim.service", "MainPID");
    guarded.is_pushed("one.example");
    guarded.victim_restarts(&before);
    until(&format!("the script is done: {}", guarded.journal()), PATIENCE, || {
        (guarded.booted.shell("test -e /run/all-done").code == Some(0)).then_some(())
    });
}

/// What certbot does to the file system, and what it must not be able to.
const CERTBOT: &str = "#!/bin/sh\nset -e\n\
    cat /root/.secrets/cf.ini >/etc/letsencrypt/was-read\n\
    echo begin >/var/log/letsencrypt/letsencrypt.log\ntouch /var/lib/letsencrypt/.certbot.lock\n\
    cp -a /mnt/le/live /mnt/le/archive /etc/letsencrypt/\n\
    if touch /etc/elsewhere /var/lib/elsewhere /usr/elsewhere; then echo escaped >>/var/log/letsencrypt/letsencrypt.log; fi\n\
    for hook in /etc/letsencrypt/renewal-hooks/deploy/*; do\n\
    RENEWED_LINEAGE=/etc/letsencrypt/live/a.example RENEWED_DOMAINS=a.example $hook\ndone\n\
    echo end >>/var/log/letsencrypt/letsencrypt.log\n";

#[test]
fn a_renewal_and_a_push_go_through_the_fitted_sandbox_of_the_server() {
    if !can_run("harden", NEEDS) {
        return;
    }
    let world = World::new();
    let target = world.target("web1", &["a.example"]);
    let _client = target.start();
    let config = format!(
        "privkey_filename: /etc/certdeploy/server_key\nrenew_exec: /usr/local/bin/certbot\nrenew_on_start: always\n\
         log_level: DEBUG\nlog_filename: /var/log/certdeploy/server.log\n\
         sftp_log_filename: /run/ours/sftp.log\nclient_configs:\n  \
         - {{name: web1, address: 127.0.0.1, port: {}, path: '', pubkey: {}, domains: [a.example]}}\n",
        target.port, target.pinned
    );
    std::fs::write(world.path("server.yml"), config).unwrap();
    std::fs::write(world.path("certbot"), CERTBOT).unwrap();
    let lineage = world.lineage("a.example", &["a.example"]);
    let booted = Booted::start(
        &world.path("booted"),
        &[
            (binary("certdeploy-server"), "/usr/bin/certdeploy-server"),
            (file("systemd/certdeploy-server.service"), "/usr/lib/systemd/system/certdeploy-server.service"),
            (world.path(""), "/mnt"),
        ],
    );
    let journal = || booted.shell("cat /var/log/certdeploy/server.log; journalctl --no-pager -n 40").said();
    let does = |line: &str| {
        let ran = booted.shell(line);
        assert_eq!(ran.code, Some(0), "{line}: {}\n{}", ran.said(), journal());
        ran.stdout
    };
    does("mkdir -p /etc/certdeploy /var/log/certdeploy /etc/letsencrypt/renewal-hooks/deploy /usr/local/bin");
    does("ln -s /usr/bin/certdeploy-server /etc/letsencrypt/renewal-hooks/deploy/certdeploy-hook");
    does("install -m 755 /mnt/certbot /usr/local/bin/certbot && cp /mnt/server.yml /etc/certdeploy/");
    does("install -m 600 /mnt/server/key /etc/certdeploy/server_key");
    // Credentials in a home; and a webroot and a directory of logs that are not there when it starts.
    std::fs::write(world.path("cf.ini"), "token\n").unwrap();
    let renewal = "dns_cloudflare_credentials = /root/.secrets/cf.ini\nauthenticator = dns-cloudflare\nwebroot_path = /srv/gone,\n";
    std::fs::write(world.path("a.conf"), renewal).unwrap();
    does("mkdir -p /etc/letsencrypt/renewal /root/.secrets /run/ours && cp /mnt/a.conf /etc/letsencrypt/renewal/");
    does("install -m 600 /mnt/cf.ini /root/.secrets/cf.ini");
    does("mkdir -p /etc/systemd/system/certdeploy-server.service.d");
    does("certdeploy-server harden >/etc/systemd/system/certdeploy-server.service.d/harden.conf");
    does("rm -rf /run/ours; systemctl daemon-reload && systemctl start certdeploy-server");
    if !holds_within(PATIENCE, || target.holds(&lineage)) {
        panic!("the target has nothing: {}", journal());
    }
    let log = "/var/log/letsencrypt/letsencrypt.log";
    until("certbot is done", PATIENCE, || (booted.shell(&format!("cat {log}")).stdout == "begin\nend\n").then_some(()));
    assert_eq!(does("cat /etc/letsencrypt/was-read"), "token\n");
    // Others read what certbot makes: the unit's mask is not ours to narrow.
    assert_eq!(booted.property("certdeploy-server.service", "UMask"), "0022");
    assert_eq!(does("stat -c %a /etc/letsencrypt/was-read").trim(), "644");
    assert_eq!(does("stat -c '%a %U' /run/ours").trim(), "755 root");
    assert_eq!(booted.shell("ls /etc/elsewhere /var/lib/elsewhere /usr/elsewhere").stdout, "");
    does("systemctl reload certdeploy-server && systemctl is-active certdeploy-server");
    assert_eq!(booted.property("certdeploy-server.service", "NRestarts"), "0");
}
