//! No more files can be opened: who is to be visited waits for that, and nothing else comes of it.

use std::fs::File;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::*;

/// Set in the process that may open only a few files; the limit would concern all tests of this one.
const CONFINED: &str = "CERTDEPLOY_TEST_CONFINED";

#[expect(clippy::disallowed_methods, reason = "this very test, in a process of its own")]
#[tokio::test(start_paused = true)]
async fn when_no_file_can_be_opened_targets_wait_and_the_round_goes_on() {
    if std::env::var_os(CONFINED).is_none() {
        let name = "dispatch::tests::files::when_no_file_can_be_opened_targets_wait_and_the_round_goes_on";
        let mut confined = Command::new(std::env::current_exe().unwrap());
        let done = confined.args([name, "--exact", "--nocapture"]).env(CONFINED, "1").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&done.stderr));
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: Some(200) }).unwrap();
    let stage = Stage::new(3, 1, "push_interval: 5\n");
    let hog = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut files = Vec::new();
        let error = loop {
            match File::open("/dev/null") {
                Ok(file) => files.push(file),
                Err(error) => break error,
            }
        };
        assert!(room::is_full(&error), "{error}");
        // Whoever looks whether the queue is still there has to look into it.
        let queue = stage.settings.queue_dir.join("queue.sqlite");
        rustix::fs::utimensat(rustix::fs::CWD, queue, &LONG_AGO, rustix::fs::AtFlags::empty()).unwrap();
        tokio::time::sleep(Duration::from_secs(24)).await;
    };
    let ((_, seen), ()) = tokio::join!(stage.run(Mode::Daemon, 100), hog);
    assert_eq!(visits(&seen), [(0, "t0"), (26, "t1"), (31, "t2")]);
    assert_eq!(stage.queue().holdings().unwrap().len(), 3);
}

const LONG_AGO: rustix::fs::Timestamps = {
    let then = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    rustix::fs::Timestamps { last_access: then, last_modification: then }
};
