//! The document of certdeploy 0.2 (`tests/fixtures/certdeploy-0.2-readme.md`): each block of it is run as it is written.
//! Only addresses, paths and `<placeholders>` are fitted to the test's world. A block that is neither run nor named in
//! [`ELSEWHERE`] fails, and so does a name there that nothing goes by any more.

mod client;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use certdeploy_server::config::{self, Settings, kinds::Unit};
use certdeploy_tests::document::{blocks, document, words};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{self, Daemon, Ran, binary, run};
use certdeploy_tests::{Lineage, Target, World};

/// What is shown to work elsewhere: images, units and cron have suites of their own.
const ELSEWHERE: [&str; 10] = [
    "docker run -d -v $(pwd)/conf:/etc/certdeploy -v /etc/letsencrypt:/etc/letsencrypt haxwithaxe/certdeploy-server",
    "image: haxwithaxe/certdeploy-server",
    "docker run -d -v $(pwd)/conf:/etc/certdeploy -v shared_certs:/certdeploy/certs haxwithaxe/certdeploy-client",
    "image: haxwithaxe/certdeploy-client",
    "Description=Certdeploy Client Daemon",
    "systemctl start certdeploy-client.service",
    "Description=Certdeploy Client\n",
    "Description=CertDeploy Client Timer",
    "systemctl enable certdeploy-client.timer",
    "@daily",
];

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Kind {
    Server,
    Client,
    Command,
    Elsewhere,
}

fn kind(block: &str) -> Option<Kind> {
    let first = |words: &[&str]| {
        let mut lines = block.lines().filter(|line| !line.starts_with(['#', '-', ' ']));
        lines.next().is_some_and(|line| words.iter().any(|word| line.starts_with(word)))
    };
    if ELSEWHERE.iter().any(|name| block.contains(name)) {
        Some(Kind::Elsewhere)
    } else if first(&["certdeploy-server ", "certdeploy-client ", "sudo ln "]) {
        Some(Kind::Command)
    } else if first(&["renew_", "push_", "client_configs:", "privkey_filename:", "private_key_file:"]) {
        Some(Kind::Server)
    } else if first(&["destination:", "source:", "update_services:", "sftpd:"]) {
        Some(Kind::Client)
    } else {
        None
    }
}

fn of_kind(wanted: Kind) -> Vec<String> {
    blocks().into_iter().filter(|block| kind(block) == Some(wanted)).collect()
}

#[test]
fn each_block_of_the_document_is_run_or_named() {
    let blocks = blocks();
    for block in &blocks {
        assert!(kind(block).is_some(), "nobody runs this block:\n{block}");
    }
    for name in ELSEWHERE {
        assert!(blocks.iter().any(|block| block.contains(name)), "{name:?} is not in the document");
    }
    let count = |wanted| of_kind(wanted).len();
    let counts = [Kind::Server, Kind::Client, Kind::Command, Kind::Elsewhere].map(count);
    assert_eq!((blocks.len(), counts), (37, [11, 10, 6, 10]));
}

/// A server's example as a whole config in this world.
fn fitted(world: &World, block: &str, more: &str) -> String {
    let key = world.server_key().display().to_string();
    let pin = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
    let mut text = block
        .replace("/etc/certdeploy/server_key", &key)
        .replace("<your client ip or hostname>", "127.0.0.1")
        .replace("<your client's pubkey without the comment>", pin)
        .replace("<the domain name that this client needs certs for>", "example.com");
    if !text.contains("priv") {
        text.push_str(&format!("privkey_filename: {key}\n"));
    }
    if !text.contains("client_configs:") {
        text.push_str(&format!("client_configs:\n  - {{address: 1.2.3.4, pubkey: {pin}, domains: [example.com]}}\n"));
    }
    let live = world.letsencrypt().join("live");
    format!("{text}queue_dir: {}\nlive_directory: {}\n{more}", world.queue().display(), live.display())
}

/// What the server makes of an example: its settings, once `check` found nothing wrong, and the config's warnings.
fn examined(world: &World, block: &str) -> (Settings, Vec<String>) {
    let file = world.server_config();
    fs::write(&file, fitted(world, block, "renew_exec: /bin/true\n")).unwrap();
    let checked = world.server(&["check"]).ended(0);
    let own = format!("{}:", file.display());
    let warnings = checked.stdout.lines().filter(|line| line.starts_with(&own)).map(str::to_owned).collect();
    // What it prints of it is a config too, and means the same.
    let printed = world.server(&["check", "--effective"]).ended(0).stdout;
    let effective = world.path("server/effective.yml");
    fs::write(&effective, &printed).unwrap();
    let again = run({
        let mut command = process::command(binary("certdeploy-server"));
        command.arg("--config").arg(&effective).args(["check", "--effective"]);
        command
    });
    let plain = |text: &str| text.replace("  # default", "");
    assert_eq!(plain(&again.ended(0).stdout), plain(&printed));
    let (settings, _) = config::load(&file).unwrap();
    (settings, warnings)
}

#[test]
fn each_server_config_is_taken_and_means_what_the_document_says() {
    let world = World::new();
    let _lineage = world.lineage("example.com", &["www.example.com", "example.com"]);
    for block in of_kind(Kind::Server) {
        let (settings, warnings) = examined(&world, &block);
        let says = |word: &str| block.contains(word);
        let old =
            if says("private_key_file") { vec!["`private_key_file` works", "`check_renew` works"] } else { vec![] };
        assert_eq!(warnings.len(), old.len(), "{warnings:?}\n{block}");
        assert!(old.iter().zip(&warnings).all(|(old, line)| line.contains(old)), "{warnings:?}");

        let interval = settings.renew.interval;
        let (count, unit) = match () {
            () if says("monday") => (1, Unit::Weekday(0)),
            () if says("renew_every: 2") => (2, Unit::Day),
            () if says("every: week") => (1, Unit::Week),
            () => (1, Unit::Day),
        };
        let at = says("renew_at: 15:00") || says("renew_at: 09:00");
        assert_eq!((interval.count, interval.unit, interval.at.is_some()), (count, unit, at), "{block}");

        let seconds = Duration::from_secs;
        assert_eq!(settings.push.interval, seconds(if says("push_interval: 30") { 30 } else { 0 }), "{block}");
        let burst = settings.targets[0].burst;
        let retries = if says("push_retries: 42") {
            42
        } else if says("push_retries: 12") {
            12
        } else {
            1
        };
        let interval = seconds(if says("push_retry_interval: 3600") { 3600 } else { 30 });
        assert_eq!((burst.retries, burst.interval), (retries, interval), "{block}");
        if let Some(other) = settings.targets.get(1) {
            assert_eq!((other.burst.retries, other.burst.interval), (1, seconds(30)), "only the first has its own");
        }
    }
}

#[test]
fn a_key_that_is_made_as_the_document_says_is_taken() {
    if !can_run("users_document::a_key_that_is_made", &[Need::Program("ssh-keygen")]) {
        return;
    }
    let line = "ssh-keygen -t ed25519 -f server_key";
    assert!(document().contains(&format!("`{line}`")));
    let world = World::new();
    fs::remove_file(world.server_key()).unwrap();
    let mut keygen = process::command("/usr/bin/ssh-keygen");
    keygen.args(line.split(' ').skip(1)).args(["-q", "-N", ""]).current_dir(world.path("server"));
    let _ = run(keygen).ended(0);
    fs::rename(world.path("server/server_key"), world.server_key()).unwrap();
    let _ = examined(&world, &of_kind(Kind::Server)[6]);
}

/// A world that is set up by the document: its simple config, with the port of a client of ours and the mock certbot.
struct Scene {
    world: World,
    target: Target,
    lineage: Lineage,
    _client: Daemon,
}

fn scene() -> Scene {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let lineage = world.lineage("example.com", &["www.example.com", "example.com"]);
    let simple = of_kind(Kind::Server).into_iter().find(|block| block.starts_with("---\nprivkey_filename")).unwrap();
    let mock = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/mock/mock-certbot.sh");
    let text = fitted(&world, &simple, &format!("renew_exec: {}\n", mock.display()));
    let pin = text.lines().find(|line| line.contains("pubkey:")).unwrap().to_owned();
    let own = format!("    port: {}\n    pubkey: {}", target.port, target.pinned);
    fs::write(world.server_config(), text.replace("1.2.3.4", "127.0.0.1").replace(&pin, &own)).unwrap();
    let client = target.start();
    Scene { world, target, lineage, _client: client }
}

impl Scene {
    /// A command line of the document, with the paths of this world.
    fn command(&self, line: &str) -> Command {
        let root = self.world.letsencrypt().display().to_string();
        let config = self.world.server_config().display().to_string();
        let line = line.replace("/etc/letsencrypt", &root).replace("/path/to/server.yml", &config);
        let mut words = words(line.trim()).into_iter();
        assert_eq!(words.next().as_deref(), Some("certdeploy-server"));
        let mut command = process::command(binary("certdeploy-server"));
        command.args(words).env("CERTDEPLOY_SERVER_CONFIG", config).env("MOCK_LETSENCRYPT", root);
        command
    }

    fn with(&self, name: &str, value: &str) -> Command {
        let mut command = self.command("certdeploy-server");
        command.env(name, value);
        command
    }

    fn run(&self, line: &str) -> Ran {
        assert!(of_kind(Kind::Command).iter().any(|block| block.trim() == line), "{line} is not in the document");
        run(self.command(line)).ended(0)
    }

    /// certbot's mock has run, and the renewal waits in the queue.
    fn queued(&self) {
        assert!(!self.target.holds(&self.lineage));
        assert_eq!(self.world.status()["fine"], false, "{}", self.world.status());
    }
}

#[test]
fn each_command_line_does_what_the_document_says() {
    let mut scene = scene();
    let _ = scene.run(
        "certdeploy-server --push --lineage /etc/letsencrypt/live/example.com --domains \"www.example.com example.com\"",
    );
    scene.target.updates(&scene.lineage);

    scene.lineage.renew(&scene.world.ca);
    let _ = scene.run("certdeploy-server --renew");
    scene.queued();
    let _ = scene.run("certdeploy-server --push");
    scene.target.updates(&scene.lineage);

    scene.lineage.renew(&scene.world.ca);
    let line = "certdeploy-server --daemon --config /path/to/server.yml --log-level INFO";
    assert!(of_kind(Kind::Command).iter().any(|block| block.trim() == line));
    let log = scene.world.path("server/server.log");
    let mut daemon = Daemon::start("certdeploy-server", scene.command(line), &log);
    let _ = scene.world.hook(&scene.lineage).ended(0);
    scene.target.updates(&scene.lineage);
    assert!(daemon.stop().success(), "{}", daemon.said());
    assert!(
        !daemon.said().contains("DEBUG:") && daemon.said().contains("INFO:certdeploy-server: "),
        "{}",
        daemon.said()
    );
}

#[test]
fn each_variable_does_what_the_document_says() {
    const OURS: [&str; 5] = [
        "CERTDEPLOY_RENEW_ONLY",
        "CERTDEPLOY_SERVER_DAEMON",
        "CERTDEPLOY_SERVER_CONFIG",
        "CERTDEPLOY_LOG_LEVEL",
        "CERTDEPOLY_PUSH_ONLY",
    ];
    let text = document();
    let server = text.split("## The Client").next().unwrap();
    let listed: Vec<&str> = server
        .lines()
        .filter_map(|line| line.strip_prefix("* ``CERT")?.split_once("``"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(listed.iter().map(|name| format!("CERT{name}")).collect::<Vec<_>>(), OURS);

    let mut scene = scene();
    let mut renew = scene.with("CERTDEPLOY_RENEW_ONLY", "true");
    renew.env("CERTDEPLOY_LOG_LEVEL", "DEBUG");
    let said = run(renew).ended(0).said();
    for words in ["DEBUG:certdeploy-server: Running renew", "HOOK PASSED"] {
        assert!(said.contains(words), "{words} is not in:\n{said}");
    }
    scene.queued();
    let _ = run(scene.with("CERTDEPOLY_PUSH_ONLY", "true")).ended(0);
    scene.target.updates(&scene.lineage);

    scene.lineage.renew(&scene.world.ca);
    let log = scene.world.path("server/server.log");
    let mut daemon = Daemon::start("certdeploy-server", scene.with("CERTDEPLOY_SERVER_DAEMON", "true"), &log);
    let _ = scene.world.hook(&scene.lineage).ended(0);
    scene.target.updates(&scene.lineage);
    assert!(daemon.stop().success(), "{}", daemon.said());
}

#[test]
fn the_hook_is_the_link_that_the_document_makes() {
    let scene = scene();
    let block = of_kind(Kind::Command).into_iter().find(|block| block.starts_with("sudo ln ")).unwrap();
    let root = scene.world.letsencrypt().display().to_string();
    let link = scene.world.letsencrypt().join("renewal-hooks/deploy/certdeploy-hook");
    fs::remove_file(&link).unwrap();
    let ours = binary("certdeploy-server").display().to_string();
    let line = block.replace("/etc/letsencrypt", &root).replace("/usr/local/bin/certdeploy-server", &ours);
    let mut ln = process::command("/bin/ln");
    ln.args(line.split_whitespace().skip(2));
    let without = scene.world.server(&["check"]).ended(0).stdout;
    assert!(without.contains("note: there is no hook in"), "{without}");
    let _ = run(ln).ended(0);
    let with = scene.world.server(&["check"]).ended(0).stdout;
    assert!(!with.contains("hook"), "{with}");
    let _ = scene.world.hook(&scene.lineage).ended(0);
    scene.queued();
    let _ = scene.world.server(&["--push"]).ended(0);
    scene.target.updates(&scene.lineage);
}

#[test]
fn the_mock_certbot_only_renews() {
    let mock = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/mock/mock-certbot.sh");
    assert_eq!(mock.metadata().unwrap().permissions().mode() & 0o111, 0o111);
    let mut other = process::command(&mock);
    other.arg("certonly");
    let _ = run(other).ended(255);
    let mut broken = process::command(&mock);
    broken.arg("renew").env("MOCK_LETSENCRYPT", "/nonexistent");
    assert!(run(broken).ended(0).stdout.contains("HOOK FAILED"));
}
