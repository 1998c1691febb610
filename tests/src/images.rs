//! The image pair, built as a person builds it, by a Docker engine whose storage lies below Cargo's target directory and
//! is kept, so that only what changed is built again. No registry is asked: `debian:bookworm-slim` is what `tests/setup`
//! made of this machine's own package sources, `rust:1-bookworm` is that with this machine's toolchain and the crates of
//! `Cargo.lock` in it.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::engine::docker_at;
use crate::network::Network;
use crate::process::{Daemon, Ran, command, run};
use crate::until;

/// The server's image.
pub const SERVER: &str = "certdeploy-server";
/// The client's image.
pub const CLIENT: &str = "certdeploy-client";
/// An image with a shell and nothing of ours.
pub const DEBIAN: &str = "debian:bookworm-slim";

/// Set by who works on these tests: the images are taken as they are, and nothing is compiled.
const KEEP: &str = "CERTDEPLOY_TESTS_KEEP_IMAGES";
/// Longer than a release build of both programs takes on two cores that are busy.
const BUILD: Duration = Duration::from_secs(20 * 60);
const TOOLCHAIN: &str = "certdeploy-tests/toolchain";
const RUST: &str = "rust:1-bookworm";
/// Cargo's config in the image.
const VENDORED: &str = "[source.crates-io]\nreplace-with = \"vendored\"\n\
                        [source.vendored]\ndirectory = \"/usr/local/cargo/vendor\"\n";
/// The build stage under a name, or cleaning up would take the cache of it away.
const STAGE: &str = "certdeploy-tests/stage";

/// An engine; what runs on it ends with it.
#[derive(Debug)]
pub struct Host {
    socket: PathBuf,
    daemon: Option<Daemon>,
    folder: TempDir,
}

impl Host {
    /// Starts one with its storage in `storage`; in a network of its own it has a bridge, otherwise none, so that the
    /// machine's packet filter is not touched.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(storage: &Path, network: Option<&Network>) -> Self {
        let folder = tempfile::Builder::new().prefix("certdeploy-engine-").tempdir().expect("a temporary directory");
        let path = |name: &str| folder.path().join(name);
        // The machine's own settings are not for this one.
        std::fs::write(path("daemon.json"), "{}").expect("write daemon.json");
        std::fs::create_dir_all(storage).expect("a folder");
        let socket = path("docker.sock");
        let mut dockerd = network.map_or_else(|| command("/usr/sbin/dockerd"), |network| network.command("dockerd"));
        dockerd.arg("--config-file").arg(path("daemon.json")).arg("--data-root").arg(storage.join("data"));
        dockerd.arg("--exec-root").arg(path("exec")).arg("--pidfile").arg(storage.join("dockerd.pid"));
        if network.is_none() {
            dockerd.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]);
        }
        dockerd.arg("-H").arg(format!("unix://{}", socket.display()));
        let daemon = Daemon::start("dockerd", dockerd, &path("dockerd.log"));
        let host = Self { socket, daemon: Some(daemon), folder };
        until("dockerd answers", Duration::from_secs(60), || (host.docker(&["version"]).code == Some(0)).then_some(()));
        host.clear();
        host
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn command(&self) -> Command {
        let mut docker = command("/usr/bin/docker");
        docker.arg("-H").arg(format!("unix://{}", self.socket.display()));
        docker
    }

    /// Runs the docker command.
    #[must_use]
    pub fn docker(&self, words: &[&str]) -> Ran {
        docker_at(&self.socket, words)
    }

    /// Runs it and gives what it printed.
    ///
    /// # Panics
    /// It failed.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        self.docker(words).ended(0).stdout.trim().to_owned()
    }

    /// Builds an image out of the context in `folder`; what is cached is not built again.
    ///
    /// # Panics
    /// It fails; what the builder said is in the message.
    pub fn build(&self, folder: &Path, tag: &str, more: &[&str]) {
        let mut docker = self.command();
        // Packages are fetched as this machine fetches them.
        docker.args(["build", "--network", "host", "-t", tag]).args(more).arg(folder);
        ended(docker, &format!("the image {tag}"));
    }

    /// Builds an image out of a context that `tar`, given these words, writes.
    fn build_tar(&self, tag: &str, words: &[&str]) {
        let mut tar = command("/bin/tar");
        tar.arg("-c").args(words).stdout(Stdio::piped());
        let mut tar = tar.spawn().expect("start tar");
        let mut docker = self.command();
        docker.args(["build", "--network", "host", "-t", tag, "-"]);
        docker.stdin(tar.stdout.take().expect("its output"));
        ended(docker, &format!("the image {tag}"));
        assert!(tar.wait().expect("wait for tar").success(), "tar {words:?}");
    }

    /// What a label of an image says; empty when there is no such image.
    fn label(&self, image: &str, label: &str) -> String {
        let format = format!("{{{{index .Config.Labels \"{label}\"}}}}");
        self.docker(&["image", "inspect", "--format", &format, image]).stdout.trim().to_owned()
    }

    /// Gives images to another engine.
    ///
    /// # Panics
    /// They are not there.
    pub fn give(&self, other: &Self, images: &[&str]) {
        let mut save = self.command();
        save.arg("save").args(images).stdout(Stdio::piped());
        let mut save = save.spawn().expect("start docker save");
        let mut load = other.command();
        load.arg("load").stdin(save.stdout.take().expect("its output"));
        ended(load, "docker load");
        assert!(save.wait().expect("wait").success(), "docker save {images:?}");
    }

    /// Ends and removes everything that runs or is kept, except images.
    fn clear(&self) {
        let _ = self.docker(&["swarm", "leave", "--force"]);
        let all = self.docker(&["ps", "-aq"]).stdout;
        let mut words = vec!["rm", "-f", "-v"];
        words.extend(all.split_whitespace());
        if words.len() > 3 {
            let _ = self.docker(&words);
        }
        let _ = self.docker(&["volume", "prune", "-f"]);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.clear();
        drop(self.daemon.take());
        // It leaves the network of containers that had the machine's mounted.
        let left = self.folder.path().join("exec/netns").read_dir();
        for entry in left.into_iter().flatten().flatten() {
            let mut unmount = command("/bin/umount");
            unmount.arg(entry.path());
            let _ = run(unmount);
        }
    }
}

/// The engine that has both images. Only one at a time: the others wait.
#[derive(Debug)]
pub struct Images {
    /// The engine.
    pub host: Host,
    _lock: File,
}

impl Images {
    /// Builds what is not up to date.
    ///
    /// # Panics
    /// It cannot be built.
    #[must_use]
    pub fn ready() -> Self {
        let place = place();
        let lock = File::create(place.join("lock")).expect("a file");
        lock.lock().expect("lock it");
        end_leftover(&place.join("dockerd.pid"));
        let host = Host::start(&place, None);
        let there = [SERVER, CLIENT].iter().all(|image| host.docker(&["image", "inspect", image]).code == Some(0));
        if there && std::env::var_os(KEEP).is_some() {
            return Self { host, _lock: lock };
        }
        base(&host, &place);
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let file = |name: &str| repository.join(format!("docker/{name}/Dockerfile")).display().to_string();
        host.build(repository, STAGE, &["--target", "build", "-f", &file("server")]);
        host.build(repository, SERVER, &["-f", &file("server")]);
        host.build(repository, CLIENT, &["-f", &file("client")]);
        // What an older build left has no name.
        let _ = host.docker(&["image", "prune", "-f"]);
        Self { host, _lock: lock }
    }
}

/// Where the storage is: below Cargo's target directory, where `tests/setup` put Debian.
fn place() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let places = own.ancestors().map(|folder| folder.join("images"));
    let made = |place: &PathBuf| place.join("debian.tar").is_file();
    places.into_iter().find(made).expect("`images/debian.tar` below the target directory: run tests/setup first")
}

/// Ends the engine of a run that was killed; two on one storage would spoil it.
fn end_leftover(pid_file: &Path) {
    use rustix::process::{Pid, Signal, kill_process};
    let text = std::fs::read_to_string(pid_file).unwrap_or_default();
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return };
    let line = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let words = || std::fs::read_to_string(&line).unwrap_or_default();
    if words().contains(&pid_file.display().to_string()) {
        let _ = kill_process(pid, Signal::TERM);
        until("the engine of an earlier run ends", Duration::from_secs(30), || words().is_empty().then_some(()));
    }
}

/// Makes the images that ours begin with.
fn base(host: &Host, place: &Path) {
    if host.docker(&["image", "inspect", DEBIAN]).code != Some(0) {
        let archive = place.join("debian.tar").display().to_string();
        let _ = host.ask(&["import", "-c", "CMD [\"bash\"]", &archive, DEBIAN]);
    }
    let work = tempfile::tempdir().expect("a temporary directory");
    let folder = work.path().display().to_string();
    let write = |name: &str, text: &str| std::fs::write(work.path().join(name), text).expect("write");
    // Cargo says which one it is.
    let cargo = PathBuf::from(std::env::var_os("CARGO").expect("a test that cargo runs"));
    let sysroot = cargo.parent().and_then(Path::parent).expect("the toolchain's folder").display().to_string();
    let version = run_here(Command::new(cargo.with_file_name("rustc")).arg("-vV"));
    if host.label(TOOLCHAIN, "is") != digest(&version) {
        write(
            "Dockerfile",
            &format!(
                "FROM {DEBIAN}\nRUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev\n\
                 COPY bin /usr/local/bin\nCOPY lib /usr/local/lib\nCOPY libexec /usr/local/libexec\nLABEL is={}\n",
                digest(&version)
            ),
        );
        host.build_tar(TOOLCHAIN, &["-C", &folder, "Dockerfile", "-C", &sysroot, "bin", "lib", "libexec"]);
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let lock = std::fs::read_to_string(repository.join("Cargo.lock")).expect("Cargo.lock");
    let is = digest(&(version, lock, VENDORED));
    if host.label(RUST, "is") == is {
        return;
    }
    let _ = run_here(
        Command::new(&cargo)
            .args(["vendor", "--quiet", "--locked", "--versioned-dirs", "--manifest-path"])
            .arg(repository.join("Cargo.toml"))
            .arg(work.path().join("vendor")),
    );
    write("vendor.toml", VENDORED);
    write(
        "Dockerfile",
        &format!(
            "FROM {TOOLCHAIN}\nENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true\n\
             COPY vendor /usr/local/cargo/vendor\nCOPY vendor.toml /usr/local/cargo/config.toml\nLABEL is={is}\n"
        ),
    );
    // Half of it are libraries for Windows.
    let without = ["winapi-*-gnu-*/lib", "windows_*/lib", "windows-0*/src/Windows"];
    let without: Vec<String> = without.iter().map(|what| format!("--exclude=vendor/{what}")).collect();
    let mut words: Vec<&str> = without.iter().map(String::as_str).collect();
    words.extend(["-C", &folder, "Dockerfile", "vendor", "vendor.toml"]);
    host.build_tar(RUST, &words);
}

/// Runs a command with our own environment, which says how crates are fetched here; gives what it printed.
fn run_here(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// The same for the same, in every run of one toolchain; that is all it is for.
fn digest(what: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Runs what takes minutes.
fn ended(command: Command, what: &str) {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let mut ran = Daemon::start(what, command, log.path());
    until(what, BUILD, || (!ran.runs()).then_some(()));
    assert!(ran.ends().success(), "{what}:\n{}", ran.said());
}
