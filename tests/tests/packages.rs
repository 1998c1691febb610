//! The Debian packages in a Debian of their own: installed, used, upgraded, removed and purged; over a reboot.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use certdeploy_common::cert::FileName;
use certdeploy_tests::booted::{Booted, own_root};
use certdeploy_tests::need::{Need, can_run, find};
use certdeploy_tests::packaged::packages;
use certdeploy_tests::process::{command, free_port, run};
use certdeploy_tests::wait::PATIENCE;
use certdeploy_tests::{Ca, Lineage, until};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("systemd-nspawn"),
    Need::Program("nsenter"),
    Need::Program("lintian"),
    Need::Program("openssl"),
];
const HOOK: &str = "etc/letsencrypt/renewal-hooks/deploy/certdeploy-hook";

/// A Debian with both packages' worlds in it.
struct Host {
    folder: tempfile::TempDir,
    root: PathBuf,
    ca: Ca,
    nginx: u16,
    booted: Option<Booted>,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("certdeploy-packages-").tempdir_in("/var/tmp").unwrap();
        let root = own_root(folder.path());
        let mut host = Self { root, ca: Ca::new(), nginx: free_port(), booted: None, folder };
        host.boot();
        host
    }

    fn boot(&mut self) {
        self.booted = None;
        self.booted = Some(Booted::start_own(self.folder.path(), &self.root));
    }

    /// A line of a shell inside that must succeed.
    #[track_caller]
    fn does(&self, line: &str) -> String {
        let ran = self.booted.as_ref().unwrap().shell(line);
        assert_eq!(ran.code, Some(0), "{line}: {}\n{}", ran.said(), self.journal());
        ran.stdout.trim().to_owned()
    }

    fn journal(&self) -> String {
        let booted = self.booted.as_ref().unwrap();
        booted.shell("journalctl --no-pager -n 60; systemctl --no-pager --failed").said()
    }

    fn property(&self, unit: &str, name: &str) -> String {
        self.booted.as_ref().unwrap().property(unit, name)
    }

    /// What dpkg and the packages' scripts said.
    fn install(&self, packages: &[PathBuf; 2]) -> String {
        for package in packages {
            std::fs::copy(package, self.root.join("var/tmp").join(package.file_name().unwrap())).unwrap();
        }
        let names = packages.each_ref().map(|package| package.file_name().unwrap().to_string_lossy().into_owned());
        let names = names.join(" ");
        self.does(&format!("cd /var/tmp && DEBIAN_FRONTEND=noninteractive dpkg -i {names} 2>&1 && rm {names}"))
    }

    /// As a person would after the installation: keys, configs, nginx.
    fn configure(&self) {
        let port = free_port();
        let client_key = self.does("certdeploy-client keygen /etc/certdeploy/client_key");
        let server_key = self.does("certdeploy-server keygen /etc/certdeploy/server_key");
        let client = format!(
            "destination: /etc/ssl/certdeploy\nupdate_delay: null\nlog_level: DEBUG\n\
             log_filename: /var/log/certdeploy/client.log\nupdate_services:\n  \
             - {{type: systemd, name: nginx.service, action: reload}}\nsftpd:\n  listen_address: 127.0.0.1\n  \
             listen_port: {port}\n  privkey_filename: /etc/certdeploy/client_key\n  server_pubkey: {server_key}\n"
        );
        let server = format!(
            "privkey_filename: /etc/certdeploy/server_key\nlog_level: DEBUG\nrenew_exec: /bin/true\n\
             log_filename: /var/log/certdeploy/server.log\nclient_configs:\n  \
             - {{name: web1, address: 127.0.0.1, port: {port}, pubkey: {client_key}, domains: [a.example]}}\n"
        );
        std::fs::create_dir_all(self.root.join("etc/ssl/certdeploy")).unwrap();
        std::fs::write(self.root.join("etc/certdeploy/client.yml"), client).unwrap();
        std::fs::write(self.root.join("etc/certdeploy/server.yml"), server).unwrap();
        let site = format!(
            "server {{\n  listen 127.0.0.1:{} ssl;\n  ssl_certificate /etc/ssl/certdeploy/a.example/fullchain.pem;\n  \
             ssl_certificate_key /etc/ssl/certdeploy/a.example/privkey.pem;\n}}\n",
            self.nginx
        );
        std::fs::write(self.root.join("etc/nginx/conf.d/certdeploy.conf"), site).unwrap();
        let _ = std::fs::remove_file(self.root.join("etc/nginx/sites-enabled/default"));
    }

    /// certbot's hook, as certbot runs it.
    #[track_caller]
    fn hook(&self) {
        self.does(&format!("RENEWED_LINEAGE=/etc/letsencrypt/live/a.example RENEWED_DOMAINS=a.example /{HOOK}"));
    }

    fn holds(&self, lineage: &Lineage) -> bool {
        let deployed = self.root.join("etc/ssl/certdeploy/a.example/fullchain.pem");
        // The link is relative, so it leads to the same from outside.
        std::fs::read_to_string(deployed).is_ok_and(|text| text == lineage.issued.file(FileName::Fullchain))
    }

    #[track_caller]
    fn receives(&self, lineage: &Lineage) {
        until(&format!("the client holds the last issue: {}", self.journal()), PATIENCE, || {
            self.holds(lineage).then_some(())
        });
    }

    /// Waits until nginx shows this leaf.
    #[track_caller]
    fn serves(&self, lineage: &Lineage) {
        let want = lineage.issued.cert.replace('\n', "");
        until("nginx shows the last issue", PATIENCE, || {
            let mut openssl = command("/usr/bin/openssl");
            openssl.args(["s_client", "-connect"]).arg(format!("127.0.0.1:{}", self.nginx));
            run(openssl).stdout.replace('\n', "").contains(&want).then_some(())
        });
    }

    /// All files that a package or the programs could have made.
    fn files(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for folder in ["etc", "usr", "var", "opt", "srv", "root", "home"] {
            walk(&self.root, &self.root.join(folder), &mut all);
        }
        all
    }
}

fn walk(root: &Path, folder: &Path, all: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        // What Debian and systemd note for themselves.
        let noise = [
            "var/lib/dpkg/",
            "var/log/dpkg.log",
            "var/lib/systemd/",
            "var/log/journal",
            "var/cache/",
            "var/lib/apt",
            "var/tmp/",
            "var/lib/nginx",
            "var/log/nginx",
        ];
        let own = name.contains("certdeploy");
        let backup =
            ["etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/.pwd.lock", "etc/subuid-", "etc/subgid-"]
                .contains(&name.as_str());
        if own || (!noise.iter().any(|start| name.starts_with(start)) && !backup) {
            all.insert(name);
        }
        if path.is_dir() && !path.is_symlink() {
            walk(root, &path, all);
        }
    }
}

#[test]
fn lintian_finds_nothing_and_the_examples_are_configs() {
    if !can_run("packages", NEEDS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let both = packages(folder.path(), "0.6.0-0.1");
    let mut lintian = command(find("lintian").unwrap());
    lintian.args(["--allow-root", "--fail-on", "error,warning"]).args(&both).env("TMPDIR", folder.path());
    let ran = run(lintian);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{}", ran.said());

    for (package, example) in both.iter().zip(["client.yml", "server.yml"]) {
        let mut tar = command("/bin/sh");
        let name = example.replace(".yml", "");
        tar.args(["-c", "dpkg-deb --fsys-tarfile \"$0\" | tar -xO \"$1\""]).arg(package);
        tar.arg(format!("./usr/share/doc/certdeploy-{name}/examples/{example}"));
        let text = run(tar).ended(0).stdout;
        let warnings = match example {
            "client.yml" => certdeploy_client::config::parse(&text, Path::new(example)).map(|(_, warnings)| warnings),
            _ => certdeploy_server::config::parse(Path::new(example), &text).map(|(_, warnings)| warnings),
        };
        assert!(warnings.unwrap_or_else(|error| panic!("{error}")).is_empty(), "{example}");
    }
}

#[test]
fn packages_are_installed_used_upgraded_and_purged() {
    if !can_run("packages", NEEDS) {
        return;
    }
    let mut host = Host::new();
    let folder = host.folder.path().to_owned();
    let (first, second) = (packages(&folder, "0.6.0-0.1"), packages(&folder, "0.6.1-0.1"));
    let before = host.files();

    // A hook of the Python program, which is gone.
    let hook = host.root.join(HOOK);
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    symlink("/usr/local/bin/certdeploy-server", &hook).unwrap();
    let _ = host.install(&first);
    for program in ["certdeploy-client", "certdeploy-server"] {
        for (folder, file) in [
            ("bash-completion/completions", program.to_owned()),
            ("zsh/vendor-completions", format!("_{program}")),
            ("fish/vendor_completions.d", format!("{program}.fish")),
            ("man/man1", format!("{program}.1.gz")),
        ] {
            assert!(host.root.join("usr/share").join(folder).join(&file).exists(), "{folder}/{file}");
        }
    }
    assert_eq!(std::fs::read_link(&hook).unwrap(), Path::new("/usr/bin/certdeploy-server"));
    assert_eq!(host.does("getent passwd certdeploy | cut -d: -f6,7"), "/var/cache/certdeploy:/usr/sbin/nologin");
    assert_eq!(host.does("stat -c '%a %U' /var/cache/certdeploy"), "700 certdeploy");
    // Whose staging directory it is, is the user's to say: another boot or upgrade leaves it.
    host.does("chown daemon: /var/cache/certdeploy && chmod 750 /var/cache/certdeploy && systemd-tmpfiles --create");
    assert_eq!(host.does("stat -c '%a %U' /var/cache/certdeploy"), "750 daemon");
    host.does("chown certdeploy: /var/cache/certdeploy && chmod 700 /var/cache/certdeploy");
    // Nothing runs before somebody wants it.
    for unit in ["certdeploy-client.service", "certdeploy-server.service", "certdeploy-client.timer"] {
        assert_eq!(
            (host.property(unit, "ActiveState"), host.property(unit, "UnitFileState")),
            ("inactive".into(), "disabled".into())
        );
    }

    let mut lineage = Lineage::new(&host.root.join("etc/letsencrypt"), &host.ca, "a.example", &["a.example"]);
    host.configure();
    host.does("certdeploy-server check");
    host.does("systemctl enable --now certdeploy-client.service certdeploy-server.service");
    host.receives(&lineage);
    host.does("systemctl enable --now nginx.service");
    host.serves(&lineage);

    lineage.renew(&host.ca);
    host.hook();
    host.receives(&lineage);
    host.serves(&lineage);

    // After a reboot all of it is there again.
    host.boot();
    host.serves(&lineage);
    for unit in ["certdeploy-client.service", "certdeploy-server.service"] {
        until(&format!("{unit} is up: {}", host.journal()), PATIENCE, || {
            (host.property(unit, "ActiveState") == "active").then_some(())
        });
    }
    lineage.renew(&host.ca);
    host.hook();
    host.serves(&lineage);

    upgraded(&host, &second);
    lineage.renew(&host.ca);
    host.hook();
    host.serves(&lineage);
    purged(&host, &before);
    left_to_others(&host, &second);
}

fn upgraded(host: &Host, packages: &[PathBuf; 2]) {
    let main = |unit: &str| host.property(unit, "MainPID");
    let old = [main("certdeploy-client"), main("certdeploy-server")];
    // What a person has changed in a conffile stays.
    host.does("echo '# mine' >>/etc/logrotate.d/certdeploy-client");
    let _ = host.install(packages);
    for (unit, old) in ["certdeploy-client", "certdeploy-server"].into_iter().zip(old) {
        assert_eq!(host.property(unit, "ActiveState"), "active", "{}", host.journal());
        assert_ne!(main(unit), old, "{unit} runs the old program");
    }
    assert_eq!(host.does("tail -n 1 /etc/logrotate.d/certdeploy-client"), "# mine");
    assert_eq!(host.does("dpkg-query -W -f '${Version}' certdeploy-client"), "0.6.1-0.1");
}

fn purged(host: &Host, before: &BTreeSet<String>) {
    host.does("DEBIAN_FRONTEND=noninteractive dpkg -r certdeploy-client certdeploy-server");
    assert_eq!(host.does("systemctl is-active certdeploy-client certdeploy-server || true"), "inactive\ninactive");
    assert!(!host.root.join("usr/bin/certdeploy-server").exists());
    assert!(host.root.join("etc/certdeploy/server.yml").exists() && host.root.join("var/lib/certdeploy").exists());
    // A place that somebody has mounted is emptied, and cannot be removed.
    host.does("rm -rf /var/lib/certdeploy/* && mount -t tmpfs none /var/lib/certdeploy && touch /var/lib/certdeploy/x");
    host.does("dpkg -P certdeploy-client certdeploy-server");
    host.does("rmdir --ignore-fail-on-non-empty /var/lib/certdeploy 2>/dev/null || umount /var/lib/certdeploy");
    host.does("rmdir /var/lib/certdeploy");
    let mine = |name: &&String| {
        let made = ["etc/certdeploy", "etc/ssl", "etc/letsencrypt/live", "etc/letsencrypt/archive"];
        let nginx = ["etc/nginx/conf.d/certdeploy.conf", "etc/systemd/system/multi-user.target.wants/nginx.service"];
        made.iter().any(|folder| name.starts_with(folder))
            || nginx.contains(&name.as_str())
            || *name == "etc/letsencrypt"
    };
    let after = host.files();
    let left: Vec<&String> = after.difference(before).filter(|name| !mine(name)).collect();
    assert!(left.is_empty(), "left after the purge: {left:#?}");
    let gone: Vec<&String> = before.difference(&after).filter(|name| !name.contains("sites-enabled")).collect();
    assert!(gone.is_empty(), "taken away with the purge: {gone:#?}");
    assert_eq!(host.does("getent passwd certdeploy || echo none"), "none");
    for kept in ["etc/certdeploy/server.yml", "etc/certdeploy/client_key", "etc/ssl/certdeploy/a.example/privkey.pem"] {
        assert!(host.root.join(kept).exists(), "{kept} was the user's");
    }
}

/// What was there before the packages stays, and is named where it is in their way.
fn left_to_others(host: &Host, packages: &[PathBuf; 2]) {
    host.does("useradd --system certdeploy && install -D -m 755 /bin/true /opt/certdeploy-server");
    host.does(&format!("mkdir -p $(dirname /{HOOK}) && ln -s /opt/certdeploy-server /{HOOK}"));
    let said = host.install(packages);
    assert!(said.contains(&format!("certbot's hook /{HOOK} runs /opt/certdeploy-server")), "{said}");
    host.does("dpkg -P certdeploy-client certdeploy-server");
    host.does("getent passwd certdeploy");
    assert_eq!(host.does(&format!("readlink /{HOOK}")), "/opt/certdeploy-server");

    // A script of the user's own, which sets something and then runs the program.
    host.does(&format!("rm /{HOOK} && install -m 755 /bin/true /{HOOK}"));
    let said = host.install(packages);
    assert!(said.contains(&format!("/{HOOK} is there already and stays")), "{said}");
    assert_eq!(host.does("dpkg-query -W -f '${db:Status-Status}' certdeploy-server"), "installed");
    host.does("dpkg -P certdeploy-client certdeploy-server");
    host.does(&format!("cmp /bin/true /{HOOK}"));
}
