//! The queue of the Python certdeploy, `queue.json`, taken over once: its rows are on our disk before the file is put
//! aside, so a crash between the two takes it over twice and never loses it. Nothing in it is a reason not to start.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use certdeploy_common::cert::Lineage;
use certdeploy_common::daemon::logging::escape;
use certdeploy_common::fs::atomic;
use serde_json::{Map, Value};

use super::{Change, Owed, Queue, QueueError};
use crate::clock::Millis;
use crate::config::{Settings, Target};

const FILE: &str = "queue.json";
/// Its being there is the lock of the Python program.
const LOCK: &str = "queue.json.lock";
/// The Python program holds its lock for moments; one that stays was left behind.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest file that is read: some hundred thousand lineages.
const LIMIT: u64 = 32 * 1024 * 1024;

/// What the entries of a Python queue are taken for.
#[derive(Debug, Clone, Copy)]
struct Known<'a> {
    targets: &'a [Target],
    /// certbot's `live/`, for lineages that were queued by a relative path.
    live: &'a Path,
}

/// Why a `queue.json` is not taken over.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a regular file; look at it and remove it")]
    NotAFile,
    #[error("it belongs to user {0}, not to root or to us; chown it if it is yours, or remove it")]
    Owner(u32),
    #[error("it is larger than {LIMIT} bytes; that is no queue; look at it and remove it")]
    TooLarge,
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Takes over what the Python program left, in `queue_dir` and where it kept its queue without that setting; what is
/// wrong with it is only logged.
pub fn import(queue: &mut Queue, settings: &Settings, now: Millis) {
    let directories = [Some(&settings.queue_dir), settings.former_queue_dir.as_ref()];
    let known = Known { targets: &settings.targets, live: &settings.live_directory };
    all(queue, directories.into_iter().flatten(), known, now);
}

fn all<'a>(queue: &mut Queue, directories: impl Iterator<Item = &'a PathBuf>, known: Known<'_>, now: Millis) {
    for directory in directories {
        let file = directory.join(FILE);
        if file.symlink_metadata().is_err() {
            continue;
        }
        if let Err(error) = one(queue, directory, &file, known, now) {
            tracing::error!("The Python queue `{}` is not taken over: {error}", file.display());
        }
    }
}

fn one(queue: &mut Queue, directory: &Path, file: &Path, known: Known<'_>, now: Millis) -> Result<(), ImportError> {
    let _lock = PythonLock::take(directory);
    let bytes = match read(file) {
        // Another process of ours has taken it over meanwhile.
        Err(ImportError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let shown = file.display();
    let entries = serde_json::from_slice::<Map<String, Value>>(&bytes);
    let Ok(entries) = entries.inspect_err(|error| {
        tracing::error!(
            "The Python queue `{shown}` should be a JSON object with a list of paths for each target: {error}"
        );
    }) else {
        let aside = PathBuf::from(format!("{shown}.damaged-{}", now.0));
        atomic::rename(file, &aside)?;
        tracing::error!(
            "The Python queue `{shown}` contains invalid data; it is kept as `{}`. What is in `live_directory` is compared with the targets anyway",
            aside.display()
        );
        return Ok(());
    };
    let (owed, complaints) = taken(&entries, known);
    for complaint in complaints {
        tracing::warn!("The Python queue `{shown}`: {complaint}");
    }
    let count = owed.len();
    let mut changes = Vec::with_capacity(count);
    for owed in owed {
        // A delivery always brings the newest: one that is there already is as good.
        let there = queue.deliveries_to(&owed.target)?.iter().any(|delivery| delivery.lineage == owed.lineage);
        if !there {
            tracing::info!("Queued lineage {} for client {}", owed.path.display(), owed.target);
            changes.push(Change::Owe(owed));
        }
    }
    queue.apply(&changes, now)?;
    let aside = PathBuf::from(format!("{shown}.imported-{}", now.0));
    match atomic::rename(file, &aside) {
        Ok(()) => tracing::info!("Took over the Python queue ({count} entries); it is kept as `{}`", aside.display()),
        Err(error) => {
            tracing::warn!(
                "`{shown}` was taken over, but cannot be renamed ({error}): remove it, or it is taken again"
            );
        }
    }
    Ok(())
}

/// What is owed by the entries, and what is wrong with the others. Pure.
fn taken(entries: &Map<String, Value>, known: Known<'_>) -> (Vec<Owed>, Vec<String>) {
    let mut owed: Vec<Owed> = Vec::new();
    let mut complaints = Vec::new();
    for (id, value) in entries {
        let targets: Vec<&Target> = known.targets.iter().filter(|target| python_id(target) == *id).collect();
        let Some(values) = value.as_array() else {
            complaints.push(format!("the entry \"{}\" is no list", escape(id)));
            continue;
        };
        if targets.is_empty() && !values.is_empty() {
            complaints.push(format!(
                "{} lineages are for \"{}\", which is no target in this config (username, address and port must be as they were)",
                values.len(),
                escape(id)
            ));
            continue;
        }
        for value in values {
            match value.as_str().ok_or("it is no text".to_owned()).and_then(|text| place(text, known.live)) {
                Ok((lineage, path)) => {
                    let new = targets.iter().map(|target| to(target, &lineage, &path));
                    owed.extend(new.filter(|new| !owed.contains(new)).collect::<Vec<_>>());
                }
                Err(wrong) => {
                    complaints.push(format!("the lineage {} is left out: {wrong}", escape(&value.to_string())))
                }
            }
        }
    }
    (owed, complaints)
}

fn to(target: &Target, lineage: &Lineage, path: &Path) -> Owed {
    Owed {
        target: target.id.clone(),
        lineage: lineage.clone(),
        path: path.to_owned(),
        digest: None,
        serial: None,
        not_after: None,
        force: false,
    }
}

/// The lineage of a path as the Python program stored it: verbatim, so perhaps relative to wherever the hook ran.
fn place(text: &str, live: &Path) -> Result<(Lineage, PathBuf), String> {
    let written = Path::new(text);
    let lineage = Lineage::of_path(written).map_err(|error| error.to_string())?;
    if written.is_absolute() {
        return Ok((lineage, written.components().collect()));
    }
    let path = live.join(lineage.as_str());
    if path.is_dir() {
        return Ok((lineage, path));
    }
    Err(format!("its path is relative, and there is no `{}`", path.display()))
}

/// What the Python program calls a target: SHA-1 over user, address and port, without anything between them.
fn python_id(target: &Target) -> String {
    let text = format!("{}{}{}", target.username, target.address, target.port);
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    use rustix::fs::OFlags;
    let metadata = path.symlink_metadata()?;
    if !metadata.is_file() {
        return Err(ImportError::NotAFile);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(io::Error::from)?);
    let meta = opened.metadata()?;
    if !meta.is_file() {
        return Err(ImportError::NotAFile);
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(ImportError::Owner(meta.uid()));
    }
    if meta.len() > LIMIT {
        return Err(ImportError::TooLarge);
    }
    let mut bytes = Vec::new();
    opened.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The lock of the Python program, so that one of its hooks cannot write between our reading and our putting aside.
struct PythonLock(Option<PathBuf>);

impl PythonLock {
    fn take(directory: &Path) -> Self {
        let path = directory.join(LOCK);
        let start = Instant::now();
        loop {
            match File::options().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(_) => return Self(Some(path)),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Self(None),
                Err(_) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => {
                    tracing::warn!(
                        "`{}` was left behind by a Python certdeploy, which would wait for it for ever; remove it. The queue is taken over without it",
                        path.display()
                    );
                    return Self(None);
                }
            }
        }
    }
}

impl Drop for PythonLock {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Check;

    const NOW: Millis = Millis(7);
    const PIN: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";

    struct Scene {
        dir: tempfile::TempDir,
        targets: Vec<Target>,
        queue: Queue,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("live/near")).unwrap();
            let text = format!(
                "{{privkey_filename: /k, client_configs: [{{name: one, address: 10.0.0.1, domains: [a.b], pubkey: {PIN}}}, \
                 {{name: two, address: web2, username: up, port: 2222, domains: [a.b], pubkey: {PIN}}}]}}"
            );
            let targets = crate::config::parse(Path::new("s.yml"), &text).unwrap().0.targets;
            let queue = Queue::open(&dir.path().join("queue"), Check::Whole, NOW).unwrap();
            Self { dir, targets, queue }
        }

        fn json(&self) -> PathBuf {
            self.dir.path().join("queue").join(FILE)
        }

        fn import(&mut self) -> Vec<(String, String)> {
            let live = self.dir.path().join("live");
            let known = Known { targets: &self.targets, live: &live };
            let directories = [self.dir.path().join("nothing"), self.dir.path().join("queue")];
            all(&mut self.queue, directories.iter(), known, NOW);
            let rows = self.queue.deliveries().unwrap();
            let dir = self.dir.path().display().to_string();
            rows.into_iter()
                .map(|row| (row.target.to_string(), row.path.display().to_string().replace(&dir, "")))
                .collect()
        }

        fn names(&self) -> Vec<String> {
            let entries = self.json().parent().unwrap().read_dir().unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| name.starts_with(FILE)).collect();
            names.sort();
            names
        }
    }

    /// As the Python certdeploy 0.5.4 wrote it: sha1("certdeploy10.0.0.122") and sha1("upweb22222").
    const WRITTEN: &str = r#"{"129b14684f5be7cd83c415523403222ba56a572d": ["/le/live/x", "/le/live/x", "/le/live/y/"], "77186e5c24726ad477692b59c5323e52fe629df4": ["live/near"], "0000000000000000000000000000000000000000": ["/le/live/z"]}"#;

    #[test]
    fn each_entry_becomes_a_delivery_once_and_the_file_is_put_aside() {
        let mut scene = Scene::new();
        std::fs::write(scene.json(), WRITTEN).unwrap();
        let want = [("one", "/le/live/x"), ("one", "/le/live/y"), ("two", "/live/near")];
        let want = want.map(|(target, path)| (target.to_owned(), path.to_owned()));
        let mut got = scene.import();
        got.sort();
        assert_eq!(got, want);
        assert_eq!(scene.names(), ["queue.json.imported-7"], "and the lock is gone");
        assert_eq!(scene.import().len(), 3, "nothing is taken twice");
        // A crash before the rename: taken again, and nothing doubles.
        let ids: Vec<i64> = scene.queue.deliveries().unwrap().iter().map(|row| row.id).collect();
        std::fs::write(scene.json(), WRITTEN).unwrap();
        assert_eq!(scene.import().len(), 3);
        assert_eq!(scene.queue.deliveries().unwrap().iter().map(|row| row.id).collect::<Vec<_>>(), ids);
    }

    #[test]
    fn ids_are_those_of_the_python_program() {
        let scene = Scene::new();
        // hashlib.sha1(b"certdeploy10.0.0.122").hexdigest()
        assert_eq!(python_id(&scene.targets[0]), "129b14684f5be7cd83c415523403222ba56a572d");
        assert_eq!(python_id(&scene.targets[1]), "77186e5c24726ad477692b59c5323e52fe629df4");
    }

    #[test]
    fn what_is_unsafe_or_unreadable_is_left_out_and_stops_nothing() {
        let mut scene = Scene::new();
        let id = python_id(&scene.targets[0]);
        let lineages = r#"["/le/live/..", "", "/", "live/far", 7, "/le/live/.x", "/le/live/good"]"#;
        std::fs::write(scene.json(), format!(r#"{{"{id}": {lineages}, "x": 5, "y": []}}"#)).unwrap();
        assert_eq!(scene.import(), [("one".to_owned(), "/le/live/good".to_owned())]);
        for junk in ["", "[]", "{\"a\": [", "\u{0}", "null"] {
            std::fs::write(scene.json(), junk).unwrap();
            assert_eq!(scene.import().len(), 1, "{junk}");
            assert_eq!(scene.names(), ["queue.json.damaged-7", "queue.json.imported-7"]);
        }
    }

    #[test]
    fn what_is_no_plain_file_of_ours_is_left_alone() {
        let mut scene = Scene::new();
        let elsewhere = scene.dir.path().join("elsewhere");
        std::fs::write(&elsewhere, "{}").unwrap();
        std::os::unix::fs::symlink(&elsewhere, scene.json()).unwrap();
        assert!(scene.import().is_empty() && scene.json().is_symlink());
        std::fs::remove_file(scene.json()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            scene.json(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(scene.import().is_empty());
        std::fs::remove_file(scene.json()).unwrap();
        File::create(scene.json()).unwrap().set_len(LIMIT + 1).unwrap();
        assert!(scene.import().is_empty() && scene.json().exists());
    }

    #[test]
    fn a_lock_that_was_left_behind_is_waited_for_and_then_passed_by() {
        let mut scene = Scene::new();
        let id = python_id(&scene.targets[0]);
        std::fs::write(scene.json(), format!(r#"{{"{id}": ["/le/live/x"]}}"#)).unwrap();
        std::fs::write(scene.dir.path().join("queue").join(LOCK), "").unwrap();
        assert_eq!(scene.import().len(), 1);
        assert_eq!(scene.names(), ["queue.json.imported-7", LOCK]);
    }

    #[test]
    fn what_another_process_took_over_meanwhile_is_no_error() {
        let mut scene = Scene::new();
        let (file, live) = (scene.json(), scene.dir.path().join("live"));
        let known = Known { targets: &scene.targets, live: &live };
        one(&mut scene.queue, file.parent().unwrap(), &file, known, NOW).unwrap();
    }
}
