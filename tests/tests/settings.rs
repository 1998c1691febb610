//! The table of settings: every key of every section, with what it takes and what it refuses, made from the one list
//! that the parsers and the README's reference are made of. A key that is only in one of the three fails here.

use std::path::Path;

use certdeploy_client::config::file::{ClientFile, KindPermissionsFile, PermissionsFile, SftpdFile, UpdateFile};
use certdeploy_client::config::pushers::PusherFile;
use certdeploy_common::setting::list::read_section;
use certdeploy_common::setting::{Default, Problems, Section, Setting, yaml};
use certdeploy_server::config::file::{CheckRenewFile, ServerFile, TargetFile};

/// One row: a section's file and what was said of it.
struct Said {
    errors: Vec<String>,
    warnings: Vec<String>,
}

fn read<S: Section>(text: &str) -> Said {
    let mut problems = Problems::default();
    match yaml::parse(text) {
        Ok(node) => _ = read_section::<S>(node, &mut problems),
        Err(complaint) => problems.error(complaint),
    }
    let (errors, warnings) = problems.lines(Path::new("t.yml"));
    Said { errors, warnings }
}

/// The required keys but `except`, with a good value each.
fn required<S: Section>(except: &str) -> String {
    let needed = S::SETTINGS.iter().filter(|s| matches!(s.default, Default::Required) && s.key != except);
    needed.map(|s| format!("{}: {}\n", s.key, s.kind.valid.first().copied().unwrap_or("x"))).collect()
}

/// The place of the value in the last line of `text`, as complaints begin with it.
fn line_of(text: &str) -> usize {
    text.lines().count()
}

fn takes_and_refuses<S: Section>(setting: &'static Setting) {
    let Setting { key, kind, .. } = setting;
    let head = required::<S>(key);
    for sample in kind.valid {
        let text = format!("{head}{key}: {sample}\n");
        assert_eq!(read::<S>(&text).errors, Vec::<String>::new(), "{}: `{key}: {sample}` is refused", S::NAME);
    }
    for sample in kind.invalid {
        let text = format!("{head}{key}: {sample}\n");
        let (line, column) = (line_of(&text), key.len() + 3);
        let errors = read::<S>(&text).errors;
        let [error] = errors.as_slice() else { panic!("{}: `{key}: {sample}` gives {errors:?}", S::NAME) };
        let place = error.strip_prefix(&format!("t.yml:{line}:")).unwrap_or_else(|| panic!("the line: {error}"));
        let at: usize = place.split(':').next().unwrap_or_default().parse().expect("a column");
        // What is wrong inside a list or mapping is said of the item.
        assert!(at == column || (sample.starts_with(['[', '{']) && at > column), "the column: {error}");
        if kind.inside.is_some() {
            assert!(error.contains("expected a mapping of keys"), "{error}");
        } else {
            let (says, must) = (error.contains(&format!("for `{key}`. `{key}` must ")), kind.expected);
            assert!(says && error.contains(must), "{error} does not say that `{key}` must {must}");
        }
    }
}

fn is_required<S: Section>(setting: &'static Setting) {
    let key = setting.key;
    let errors = read::<S>(&required::<S>(key)).errors;
    let missing = format!("missing required key `{key}`");
    let found = errors.iter().any(|error| error.contains(&missing) && error.starts_with("t.yml:"));
    assert_eq!(found, matches!(setting.default, Default::Required), "{}: {key}: {errors:?}", S::NAME);
}

fn is_named_when_misspelt<S: Section>(setting: &'static Setting) {
    let key = setting.key;
    let known = |name: &str| {
        let all = S::SETTINGS.iter().flat_map(|s| [s.key].into_iter().chain(s.old.iter().copied()));
        all.chain(S::SETTINGS.iter().flat_map(|s| s.like.iter().copied())).any(|known| known == name)
    };
    for drop in 0..key.len() {
        let misspelt = format!("{}{}", &key[..drop], &key[drop + 1..]);
        if known(&misspelt) {
            continue;
        }
        let text = format!("{}{misspelt}: 1\n", required::<S>(""));
        let want = format!(
            "t.yml:{}:1: Invalid {}: unknown key \"{misspelt}\" (did you mean \"{key}\"?)",
            line_of(&text),
            S::NAME
        );
        let Said { errors, warnings } = read::<S>(&text);
        let mut all = errors.iter().chain(&warnings).map(|line| line.replace("warning: ", ""));
        assert!(all.any(|line| line == want), "{want}\nis not in {errors:?} {warnings:?}");
    }
}

fn has_other_names<S: Section>(setting: &'static Setting) {
    let Setting { key, kind, old, like, .. } = setting;
    let head = required::<S>(key);
    let sample = kind.valid.first().copied().unwrap_or("null");
    for name in *old {
        let Said { errors, warnings } = read::<S>(&format!("{head}{name}: {sample}\n"));
        let want = format!("`{name}` works, but its name is `{key}` now");
        assert!(errors.is_empty() && warnings.iter().any(|line| line.contains(&want)), "{errors:?} {warnings:?}");
        let both = read::<S>(&format!("{head}{key}: {sample}\n{name}: {sample}\n")).errors;
        assert!(both.iter().any(|line| line.contains(&format!("`{name}` is an old name of `{key}`"))), "{both:?}");
    }
    for name in *like {
        let Said { errors, .. } = read::<S>(&format!("{}{name}: x\n", required::<S>("")));
        assert!(errors.iter().any(|line| line.contains(&format!("(did you mean \"{key}\"?)"))), "{name}: {errors:?}");
    }
}

fn table<S: Section>() {
    let plain = read::<S>(&required::<S>(""));
    assert_eq!(plain.errors, Vec::<String>::new(), "{}: the defaults are good values themselves", S::NAME);
    assert_eq!(plain.warnings, Vec::<String>::new(), "{}", S::NAME);
    for setting in S::SETTINGS {
        let Setting { key, kind, .. } = setting;
        assert!(kind.inside.is_some() || !kind.valid.is_empty(), "{key} has no sample that is taken");
        assert!(!kind.invalid.is_empty(), "{key} has no sample that is refused");
        takes_and_refuses::<S>(setting);
        is_required::<S>(setting);
        is_named_when_misspelt::<S>(setting);
        has_other_names::<S>(setting);
    }
    let unknown = read::<S>(&format!("{}quite_unknown_indeed: 1\n", required::<S>("")));
    let said = unknown.errors.iter().chain(&unknown.warnings);
    assert!(said.clone().any(|line| line.contains("unknown key \"quite_unknown_indeed\"")), "{:?}", unknown.errors);
    let nothing = read::<S>("[1]\n").errors;
    assert!(nothing[0].starts_with("t.yml:1:1: Invalid ") && nothing[0].contains("found a list"), "{nothing:?}");
}

#[test]
fn the_server_s_keys() {
    table::<ServerFile>();
    table::<CheckRenewFile>();
}

#[test]
fn the_keys_of_a_target() {
    table::<TargetFile>();
}

#[test]
fn the_client_s_keys() {
    table::<ClientFile>();
    table::<SftpdFile>();
    table::<PusherFile>();
    table::<PermissionsFile>();
    table::<KindPermissionsFile>();
}

#[test]
fn the_keys_of_an_update() {
    table::<UpdateFile>();
}

#[test]
fn a_mode_with_two_readings_is_refused_with_both() {
    let said = |mode: &str| read::<PermissionsFile>(&format!("mode: {mode}\n"));
    for (mode, octal, python) in [("416", "0416", "0640"), ("400", "0400", "0620"), ("444", "0444", "0674")] {
        let errors = said(mode).errors;
        let want = format!("this is {octal} or, as the Python program read it, {python}; write the one that is meant");
        assert!(errors.len() == 1 && errors[0].starts_with("t.yml:1:7: ") && errors[0].contains(&want), "{errors:?}");
    }
    for mode in ["0640", "0400", "'400'", "0o640", "600", "755"] {
        let Said { errors, warnings } = said(mode);
        assert!(errors.is_empty() && warnings.is_empty(), "{mode}: {errors:?} {warnings:?}");
    }
    assert!(said("384").warnings[0].contains("384 is taken as a decimal number; write 0600"));
}

#[test]
fn a_delay_is_taken_where_the_python_program_can_only_have_meant_it_so() {
    let said = |delay: &str| read::<ClientFile>(&format!("destination: /d\nupdate_delay: {delay}\n")).errors;
    for delay in ["10min", "1h, 30m", "2 hours and 5m", "1.5h", "null"] {
        assert_eq!(said(delay), Vec::<String>::new(), "{delay}");
    }
    for delay in ["junk5sjunk", "1 month", "500ms", "1h30", "-5m", "5"] {
        assert_eq!(said(delay).len(), 1, "{delay}");
    }
}

#[test]
fn every_key_is_in_the_readme() {
    fn look(reference: &str, settings: &'static [Setting]) {
        for setting in settings {
            let rows = reference.lines().filter(|line| line.starts_with(&format!("| `{}` |", setting.key)));
            assert!(rows.count() > 0, "the README's reference has no row for `{}`", setting.key);
            look(reference, setting.kind.inside.unwrap_or_default());
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("README.md");
    let readme = std::fs::read_to_string(path).expect("README.md");
    look(&readme, ServerFile::SETTINGS);
    look(&readme, ClientFile::SETTINGS);
}
