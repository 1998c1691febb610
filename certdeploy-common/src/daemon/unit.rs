//! Drop-ins for units of systemd: the text that makes a sandbox tight, and how paths are written in it. Pure; it must not
//! decide what a program needs.

pub mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::setting::yaml::{Content, Node};

/// What a sandbox leaves a program.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Directories and files that it writes.
    pub writes: BTreeSet<PathBuf>,
    /// What else it looks at, as far as it may lie in somebody's home or in `/tmp`.
    pub reads: BTreeSet<PathBuf>,
    /// Whether it may write nothing else: all that it and its programs write is known.
    pub strict: bool,
    /// The programs and directories of libraries that may be executed; `None`: everything.
    pub executes: Option<BTreeSet<PathBuf>>,
    /// Directories that systemd makes before it starts, where that knows such; others must exist to be written.
    pub makes: BTreeSet<PathBuf>,
    /// The modes of those that exist: nobody who looks into them is shut out. See [`places::resolved`].
    pub modes: BTreeMap<PathBuf, u32>,
    /// What it may do beyond an ordinary user, as `CAP_...`.
    pub capabilities: BTreeSet<&'static str>,
    /// Whether it sets set-id bits, as modes that are configured may have them.
    pub set_id_bits: bool,
    /// Whether programs that it starts must be able to become somebody else by set-id bits.
    pub new_privileges: bool,
    /// How long it takes to end by itself, in seconds.
    pub stop: u64,
}

/// For every program: nothing that is about the machine itself.
const ALWAYS: &str = "ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\nProtectControlGroups=yes\n\
     ProtectHostname=yes\nProtectClock=yes\nRestrictNamespaces=yes\nRestrictRealtime=yes\nLockPersonality=yes\n\
     KeyringMode=private\nSystemCallArchitectures=native\n";

/// For a program of which is known what it writes.
const STRICT: &str = "ProtectSystem=strict\nPrivateDevices=yes\nDevicePolicy=closed\nPrivateMounts=yes\n\
     ProtectProc=invisible\nProcSubset=pid\n";

/// For one whose programs are not known: they may write configs and data, not the system's programs.
const LOOSE: &str = "ProtectSystem=yes\n";

/// What the sets of system calls of older versions of systemd lack.
const CALLS: &str = "@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp";

/// What is taken out of these sets again, because nobody who only copies files and asks over sockets calls it.
const NO_CALLS: &str = "~@keyring @memlock @pkey userfaultfd personality setns unshare name_to_handle_at kcmp vmsplice";

/// The `[Service]` section that leaves just this.
#[must_use]
pub fn service(needs: &Needs) -> String {
    let mut text = String::from("[Service]\n");
    text.push_str(&made(needs));
    if needs.strict {
        let _ = writeln!(text, "{STRICT}ProtectHome={}", home(needs));
        if !touches(needs, &["/tmp", "/var/tmp"]) {
            text.push_str("PrivateTmp=yes\n");
        }
    } else {
        text.push_str(LOOSE);
    }
    // Also where only the system's programs are shut: a directory of the config may lie among them.
    let _ = writeln!(text, "ReadWritePaths={}", paths(&needs.writes));
    text.push_str(ALWAYS);
    if let Some(executes) = &needs.executes {
        // Our own files say their modes; those of another program, like certbot's, are read by others.
        let _ = write!(text, "UMask=0077\nMemoryDenyWriteExecute=yes\nNoExecPaths=/\nExecPaths={}\n", paths(executes));
        // The signal comes from outside: `kill` is a program.
        text.push_str("ExecReload=\nExecReload=+/bin/kill -HUP $MAINPID\n");
    }
    let netlink = if needs.executes.is_some() { "" } else { " AF_NETLINK" };
    let _ = writeln!(text, "RestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6{netlink}");
    let _ = writeln!(text, "NoNewPrivileges={}", yes(!needs.new_privileges));
    let _ = writeln!(text, "RestrictSUIDSGID={}", yes(!needs.set_id_bits));
    let capabilities: Vec<&str> = needs.capabilities.iter().copied().collect();
    // An empty word first: what is said before this file counts no more.
    let _ = write!(text, "CapabilityBoundingSet=\nCapabilityBoundingSet={}\n", capabilities.join(" "));
    let _ = write!(text, "SystemCallFilter=\nSystemCallFilter={CALLS}\n");
    if needs.strict {
        let _ = writeln!(text, "SystemCallFilter={NO_CALLS}");
    }
    text.push_str("SystemCallErrorNumber=EPERM\n");
    // The drop-in may stand beside a unit of one pass as well: it lengthens a time, it never shortens one.
    if needs.stop > USUAL_STOP {
        let _ = writeln!(text, "TimeoutStopSec={}", needs.stop.max(SHIPPED_STOP));
    }
    text
}

/// How long systemd waits for an end where no unit says it, in seconds.
const USUAL_STOP: u64 = 90;
/// How long it does by the shipped units, in seconds.
const SHIPPED_STOP: u64 = 180;

/// What is said of a sandbox for programs of which nothing is known, as a comment.
#[must_use]
pub fn loose_comment(programs: &str) -> String {
    format!(
        "# It runs {programs}. What these need is not known, so they may start what they want, and write everywhere but in\n\
         # /usr, /boot and /efi (ProtectSystem). Set-id programs like sudo stay without their bits (NoNewPrivileges, unless it\n\
         # says no below); no mounts, namespaces and containers of their own (RestrictNamespaces, CapabilityBoundingSet); no\n\
         # clock, kernel, raw devices and reboot (Protect..., SystemCallFilter). If one must, take that line out.\n"
    )
}

/// What cannot be written when it is not there, and cannot be made where nothing can be written. Nobody else looks into
/// what is new; what is there keeps its mode.
fn made(needs: &Needs) -> String {
    let mut text = String::new();
    for (places, kind) in [
        (&["/var/lib"][..], "State"),
        (&["/var/log"], "Logs"),
        (&["/var/cache"], "Cache"),
        (&["/run", "/var/run"], "Runtime"),
    ] {
        let below = |path: &Path| places.iter().find_map(|place| path.strip_prefix(place).ok().map(Path::to_owned));
        let all = needs.makes.iter().filter_map(|path| below(path).map(|name| (path, name)));
        let all: Vec<_> = all.filter(|(_, name)| !name.as_os_str().is_empty()).collect();
        if all.is_empty() {
            continue;
        }
        let names: BTreeSet<String> = all.iter().map(|(_, name)| quoted(name)).collect();
        let mode = all.iter().filter_map(|(path, _)| needs.modes.get(*path)).fold(0o700, |all, mode| all | mode);
        let names = names.into_iter().collect::<Vec<_>>().join(" ");
        let _ = write!(text, "{kind}Directory={names}\n{kind}DirectoryMode={mode:04o}\n");
        if kind == "Runtime" {
            text.push_str("RuntimeDirectoryPreserve=yes\n");
        }
    }
    text
}

const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

const HOMES: &[&str] = &["/home", "/root", "/run/user"];

/// Homes disappear, unless something of ours is in one.
fn home(needs: &Needs) -> &'static str {
    if touches(needs, HOMES) { "read-only" } else { "yes" }
}

fn touches(needs: &Needs, places: &[&str]) -> bool {
    let executes = needs.executes.iter().flatten();
    let mut all = needs.writes.iter().chain(&needs.reads).chain(executes);
    all.any(|path| places.iter().any(|place| path.starts_with(place)))
}

/// With a dash: what is not there is passed over, and does not keep the unit from its start.
fn paths(all: &BTreeSet<PathBuf>) -> String {
    let dashed = |path: &PathBuf| quoted(Path::new(&format!("-{}", path.display())));
    all.iter().map(dashed).collect::<Vec<_>>().join(" ")
}

/// A path as systemd.syntax(7) and its specifiers want it.
#[must_use]
pub fn quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for c in path.display().to_string().chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
    let inside = text.get(1..text.len() - 1).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | '@' | '+' | '%');
    if !inside.is_empty() && inside.chars().all(plain) { inside.to_owned() } else { text }
}

/// The absolute paths that a config names, also as `unix://` or `unix:`.
#[must_use]
pub fn named(config: &Node) -> BTreeSet<PathBuf> {
    match &config.content {
        Content::Null => BTreeSet::new(),
        Content::Scalar { text, .. } => {
            let text = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
            Some(text).filter(|text| text.starts_with('/')).map(PathBuf::from).into_iter().collect()
        }
        Content::List(items) => items.iter().flat_map(named).collect(),
        Content::Map(pairs) => pairs.iter().flat_map(|(_, value)| named(value)).collect(),
    }
}

/// The directories of the libraries in a process's `/proc/<pid>/maps`.
#[must_use]
pub fn libraries(maps: &str) -> BTreeSet<PathBuf> {
    let file = |line: &str| line.split_whitespace().nth(5).filter(|path| path.contains(".so")).map(PathBuf::from);
    maps.lines().filter_map(file).filter_map(|path| path.parent().map(Path::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_they_must_be() {
        for (path, want) in
            [("/var/lib/x", "/var/lib/x"), ("/a b", "\"/a b\""), ("/50%", "/50%%"), ("/a\"\\\n", "\"/a\\\"\\\\\\n\"")]
        {
            assert_eq!(quoted(Path::new(path)), want);
        }
    }

    #[test]
    fn homes_and_temporary_files_stay_where_something_of_ours_is() {
        let needs = |path: &str| Needs { writes: [PathBuf::from(path)].into(), strict: true, ..Needs::default() };
        let usual = service(&needs("/var/lib/x"));
        assert!(usual.contains("ProtectHome=yes\n") && usual.contains("PrivateTmp=yes\n"), "{usual}");
        assert!(service(&needs("/home/x")).contains("ProtectHome=read-only\n"));
        assert!(!service(&needs("/tmp/x")).contains("PrivateTmp"));
        assert!(service(&needs("/homes")).contains("ProtectHome=yes\n"));
    }

    #[test]
    fn what_may_be_missing_is_made_or_passed_over() {
        let all = ["/run/a", "/var/run/a", "/run", "/var/cache/c", "/var/lib/x", "/srv/y z"].map(PathBuf::from);
        let modes = [(PathBuf::from("/var/cache/c"), 0o755)].into();
        let needs = Needs { writes: all.clone().into(), makes: all.into(), modes, ..Needs::default() };
        let text = service(&needs);
        for line in [
            "RuntimeDirectory=a\nRuntimeDirectoryMode=0700\nRuntimeDirectoryPreserve=yes\n",
            "CacheDirectory=c\nCacheDirectoryMode=0755\n",
            "StateDirectory=x\nStateDirectoryMode=0700\n",
            // Not strict, and said all the same.
            "ProtectSystem=yes\nReadWritePaths=-/run -/run/a \"-/srv/y z\" -/var/cache/c -/var/lib/x -/var/run/a\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn a_mask_is_only_for_files_of_ours_and_times_are_only_lengthened() {
        let needs = |executes, stop| Needs { strict: true, executes, stop, ..Needs::default() };
        assert!(!service(&needs(None, 70)).contains("UMask"));
        let alone = service(&needs(Some(BTreeSet::new()), 70));
        assert!(alone.contains("UMask=0077\n") && !alone.contains("TimeoutStopSec"), "{alone}");
        assert!(service(&needs(None, 100)).contains("TimeoutStopSec=180\n"));
        assert!(service(&needs(None, 400)).contains("TimeoutStopSec=400\n"));
    }

    #[test]
    fn paths_in_a_config_are_found_wherever_they_stand() {
        let config = "a: /a\nb: [{c: 'unix:///c'}, d]\ne: 5\n";
        assert_eq!(named(&crate::setting::yaml::parse(config).unwrap()), ["/a", "/c"].map(PathBuf::from).into());
    }

    #[test]
    fn libraries_are_found_among_mappings() {
        let maps = "7f00-7f01 r-xp 00000000 08:01 12   /usr/lib/x86_64-linux-gnu/libc.so.6\n7f02-7f03 rw-p 0 00:00 0\n\
                    7f04-7f05 r--p 0 08:01 9 /usr/bin/certdeploy-client\n7f06-7f07 rw-p 0 00:00 0  [stack]\n";
        assert_eq!(libraries(maps), [PathBuf::from("/usr/lib/x86_64-linux-gnu")].into());
    }
}
