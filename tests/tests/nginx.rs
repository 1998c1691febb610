//! A real nginx below a real systemd, and a TLS client that looks at what it serves: after an update the new certificate,
//! after a rollback the old one, and what nginx itself refuses never reaches it.

use std::path::PathBuf;

use certdeploy_tests::booted::Booted;
use certdeploy_tests::ca::Validity;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::pass::Pass;
use certdeploy_tests::process::{Ran, command, free_port, run};
use certdeploy_tests::{Lineage, World, until, wait};

const NEEDS: &[Need] = &[Need::Root, Need::Program("systemd-nspawn"), Need::Program("openssl")];

/// A booted system whose nginx serves a lineage, by its fullchain.pem and the key that `key` names.
struct Site {
    // It ends before its folder goes.
    booted: Booted,
    world: World,
    lineage: Lineage,
    pass: Pass,
    port: u16,
}

impl Site {
    fn new(key: &str) -> Self {
        let world = World::new();
        let lineage = world.lineage("a.example", &["a.example"]);
        let pass = Pass::over(&world, &lineage, "nginx");
        let port = free_port();
        let (site, copy) = (pass.path("site.conf"), pass.path("copy.pem"));
        let text = format!(
            "server {{\n listen 127.0.0.1:{port} ssl;\n ssl_certificate /certs/a.example/fullchain.pem;\n \
             ssl_certificate_key {key};\n}}\n"
        );
        std::fs::write(&site, text).expect("write");
        std::fs::write(&copy, &lineage.issued.privkey).expect("write");
        let binds: [(PathBuf, &str); 3] =
            [(site, "/etc/nginx/sites-enabled/default"), (pass.path("certs"), "/certs"), (copy, "/etc/nginx/copy.pem")];
        let booted = Booted::start(&world.path(""), &binds);
        Self { booted, world, lineage, pass, port }
    }

    fn stage(&self) {
        let staged = self.pass.path("staging/a.example");
        std::fs::create_dir_all(&staged).expect("a folder");
        for file in ["fullchain.pem", "privkey.pem"] {
            std::fs::copy(self.lineage.live.join(file), staged.join(file)).expect("copy");
        }
    }

    /// Runs the client; `more` is of the entry.
    fn client(&self, more: &str, words: &[&str]) -> Ran {
        let lines =
            format!("update_services:\n  - {{type: systemd, name: nginx.service, action: reload-or-restart{more}}}\n");
        let mut client = self.pass.command(&lines);
        client.args(words).env("DBUS_SYSTEM_BUS_ADDRESS", self.booted.bus_address());
        run(client)
    }

    fn deployed(&self) -> String {
        std::fs::read_to_string(self.pass.path("certs/a.example/fullchain.pem")).expect("fullchain.pem")
    }

    /// What it serves, as PEM.
    fn served(&self) -> Option<String> {
        let mut openssl = command("/usr/bin/openssl");
        openssl.args(["s_client", "-connect", &format!("127.0.0.1:{}", self.port)]);
        let shown = run(openssl).stdout;
        let leaf = shown.find("-----BEGIN CERTIFICATE")?..shown.find("-----END CERTIFICATE")?;
        Some(shown[leaf].to_owned())
    }

    /// Its first process, and since when it runs.
    fn since(&self) -> [String; 2] {
        ["MainPID", "ActiveEnterTimestampMonotonic"].map(|name| self.booted.property("nginx.service", name))
    }

    fn serves(&self, fullchain: &str) {
        until("nginx serves it", wait::PATIENCE, || {
            // That is how fullchain.pem begins.
            fullchain.starts_with(&self.served()?).then_some(())
        });
    }
}

#[test]
fn nginx_serves_the_new_certificate_after_the_update_and_the_old_one_after_a_rollback() {
    if !can_run("nginx: rollback by hand", NEEDS) {
        return;
    }
    let mut site = Site::new("/certs/a.example/privkey.pem");
    let _ = site.client("", &[]).ended(0);
    let first = site.deployed();
    site.serves(&first);
    site.lineage.renew(&site.world.ca);
    site.stage();
    let _ = site.client("", &[]).ended(0);
    assert!(site.deployed() != first);
    site.serves(&site.deployed());
    let _ = site.client("", &["rollback", "a.example"]).ended(0);
    assert!(site.deployed() == first);
    site.serves(&first);
}

#[test]
fn what_nginx_refuses_never_reaches_it_and_the_old_files_come_back() {
    if !can_run("nginx: check", NEEDS) {
        return;
    }
    // Somebody copied the key: it does not fit the next certificate.
    let mut site = Site::new("/etc/nginx/copy.pem");
    let test = site.booted.command(&["nginx", "-t"]);
    let words: Vec<String> =
        std::iter::once(test.get_program()).chain(test.get_args()).map(|word| word.to_string_lossy().into()).collect();
    let more = format!(", check: {}, on_failure: rollback", serde_json::json!(words));
    let _ = site.client(&more, &[]).ended(0);
    let first = site.deployed();
    site.serves(&first);
    let before = site.since();
    assert_ne!(before[0], "0");

    let old = site.lineage.issued.clone();
    site.lineage.renew(&site.world.ca);
    site.stage();
    let ran = site.client(&more, &[]).ended(3);
    assert!(ran.stdout.contains("CheckError: `/usr/bin/nsenter` failed, so `systemd nginx.service"), "{}", ran.said());
    assert!(ran.stdout.contains("key values mismatch") && ran.stdout.contains("test failed"), "{}", ran.said());
    assert!(site.deployed() == first, "{}", ran.said());
    assert!(site.served().is_some_and(|leaf| first.starts_with(&leaf)), "{}", ran.said());
    assert_eq!(site.since(), before, "it was not restarted");
    let _ = site.booted.run(&["nginx", "-t"]).ended(0);
    let ledger = std::fs::read_to_string(site.pass.path("certs/a.example/.updates.json")).expect("the ledger");
    assert!(ledger.contains("rolled back to the files of generation 1"), "{ledger}");

    // A certificate for the old key is served.
    let again = site.world.ca.issue_again(&old, &site.lineage.domains, Validity::usual(3));
    site.lineage.install(again);
    site.stage();
    let _ = site.client(&more, &[]).ended(0);
    site.serves(&site.lineage.issued.fullchain);
    assert_eq!(site.since(), before, "a reload was enough");
}
