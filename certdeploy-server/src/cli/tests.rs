//! What command lines and variables mean.

use super::*;

fn parsed(args: &str, variables: &[(&str, &str)]) -> Result<Command, Usage> {
    let argv: Vec<String> =
        std::iter::once("certdeploy-server").chain(args.split_whitespace()).map(str::to_owned).collect();
    let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    parse(&argv, &environment).map(|invocation| invocation.command)
}

fn enqueue(anew: bool, push: bool) -> Command {
    Command::Enqueue(Enqueue { lineage: "/l".into(), domains: "d".into(), force: false, anew, push })
}

const HOOK: [(&str, &str); 2] = [("RENEWED_LINEAGE", "/l"), ("RENEWED_DOMAINS", "d")];

fn hook_and(more: (&'static str, &'static str)) -> Vec<(&'static str, &'static str)> {
    HOOK.into_iter().chain([more]).collect()
}

#[test]
fn flags_beat_variables_and_the_hook_beats_inherited_modes() {
    type Case = (&'static str, Vec<(&'static str, &'static str)>, Command);
    let cases: Vec<Case> = vec![
        ("", HOOK.to_vec(), enqueue(false, false)),
        ("", hook_and(("CERTDEPLOY_SERVER_DAEMON", "true")), enqueue(false, false)),
        ("", hook_and(("CERTDEPLOY_RENEW_ONLY", "nonsense")), enqueue(false, false)),
        ("", hook_and(("CERTDEPOLY_PUSH_ONLY", "yes")), enqueue(false, true)),
        ("--daemon", HOOK.to_vec(), Command::Daemon),
        ("--renew", HOOK.to_vec(), Command::Renew),
        ("--push", HOOK.to_vec(), enqueue(false, true)),
        ("--no-push", hook_and(("CERTDEPLOY_PUSH_ONLY", "1")), enqueue(false, false)),
        ("--lineage /l --domains d", vec![("CERTDEPLOY_SERVER_DAEMON", "1")], enqueue(true, false)),
        ("--push --daemon", vec![], Command::Push),
        ("--daemon --no-daemon --push", vec![], Command::Push),
        ("", vec![("CERTDEPLOY_SERVER_DAEMON", "On")], Command::Daemon),
        ("", vec![("CERTDEPLOY_SERVER_RENEW_ONLY", "t")], Command::Renew),
        ("", vec![("CERTDEPOLY_SERVER_PUSH_ONLY", "y"), ("CERTDEPLOY_SERVER_DAEMON", "y")], Command::Push),
        ("--push", vec![("CERTDEPLOY_RENEW_ONLY", "y")], Command::Push),
        ("--daemon", vec![("CERTDEPLOY_PUSH_ONLY", "y")], Command::Daemon),
        ("status --json", vec![("CERTDEPLOY_SERVER_DAEMON", "y")], Command::Status { json: true }),
        ("keygen k", vec![], Command::Keygen { path: "k".into() }),
        ("--daemon --daemon", vec![], Command::Daemon),
        ("--lineage /x --domains d --lineage /l", vec![], enqueue(true, false)),
        ("status --json --json", vec![], Command::Status { json: true }),
    ];
    for (args, variables, want) in cases {
        assert_eq!(parsed(args, &variables), Ok(want), "{args} {variables:?}");
    }
}

#[test]
fn wrong_usage_is_told_apart_from_nothing_to_do() {
    for (args, variables) in [
        ("--daemon --lineage /l --domains d", vec![]),
        ("--daemon --force", vec![]),
        ("--push --force", vec![]),
        ("--nonsense", vec![]),
        ("--log-level debug", vec![]),
        ("", vec![("CERTDEPLOY_SERVER_DAEMON", "maybe")]),
        ("--push", vec![("CERTDEPLOY_LOG_LEVEL", "debug")]),
        ("--push --sftp-log-level 10", vec![]),
        ("--push", vec![("CERTDEPOLY_SFTP_LOG_LEVEL", "LOUD")]),
        ("keygen", vec![]),
        ("keygen a b", vec![]),
    ] {
        assert!(matches!(parsed(args, &variables), Err(Usage::Wrong(_))), "{args} {variables:?}");
    }
    for (args, variables) in
        [("", vec![]), ("--lineage /l", vec![]), ("", vec![("RENEWED_LINEAGE", "/l"), ("RENEWED_DOMAINS", "")])]
    {
        assert!(matches!(parsed(args, &variables), Err(Usage::NothingToDo { .. })), "{args}");
    }
    assert_eq!(parsed("--version", &[]), Err(Usage::Asked("certdeploy-server 0.6.0\n".into())));
    assert!(
        matches!(parsed("--help", &[]), Err(Usage::Asked(text)) if text.contains("Usage: certdeploy-server [OPTIONS]"))
    );
}

#[test]
fn the_config_comes_from_flag_variable_or_default() {
    let of = |args: &[&str], variables: &[(&str, &str)]| {
        let argv: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let invocation = parse(&argv, &environment).unwrap();
        (invocation.config.display().to_string(), invocation.log.level)
    };
    let both = [("CERTDEPLOY_SERVER_CONFIG", "/v"), ("CERTDEPLOY_LOG_LEVEL", "INFO")];
    assert_eq!(of(&["x", "--push"], &[]), (CONFIG.into(), None));
    assert_eq!(of(&["x", "--push"], &both), ("/v".into(), Some(LogLevel::Info)));
    let twice = ["x", "--config=/f", "--log-level", "INFO", "--push", "--log-level", "DEBUG", "--config", "/g"];
    assert_eq!(of(&twice, &[]), ("/g".into(), Some(LogLevel::Debug)));
    assert_eq!(
        of(&["x", "status", "--config=/f", "--log-level", "DEBUG"], &both),
        ("/f".into(), Some(LogLevel::Debug))
    );
}

#[test]
fn what_is_said_of_the_log_has_all_its_names() {
    let of = |args: &str, variables: &[(&str, &str)]| {
        let argv: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse(&argv, &environment).unwrap().log
    };
    let level = |level| LogOptions { level: Some(level), ..LogOptions::default() };
    assert_eq!(of("x --push", &[("LOG_LEVEL", "debug")]), level(LogLevel::Debug));
    assert_eq!(of("x --push", &[("LOG_LEVEL", "trace")]), LogOptions::default(), "another program's word");
    let both = [("LOG_LEVEL", "DEBUG"), ("CERTDEPLOY_LOG_LEVEL", "INFO")];
    assert_eq!(of("x --push", &both), level(LogLevel::Info));
    assert_eq!(of("x --push --log-level ERROR", &both), level(LogLevel::Error));
    for prefix in ["CERTDEPLOY_SERVER", "CERTDEPOLY_SERVER", "CERTDEPLOY", "CERTDEPOLY"] {
        let (level, file) = (format!("{prefix}_SFTP_LOG_LEVEL"), format!("{prefix}_SFTP_LOG_FILENAME"));
        let log = of("x --push", &[(&level, "DEBUG"), (&file, "/l"), ("CERTDEPLOY_SERVER_LOG_FILENAME", "/o")]);
        let want = LogOptions {
            level: None,
            file: Some("/o".into()),
            library_level: Some(LogLevel::Debug),
            library_file: Some("/l".into()),
        };
        assert_eq!(log, want, "{prefix}");
        let given = "x --push --log-filename=/1 --sftp-log-filename /2 --sftp-log-level INFO";
        let log = of(given, &[(&level, "DEBUG"), (&file, "/l")]);
        assert_eq!((log.file, log.library_file), (Some("/1".into()), Some("/2".into())));
        assert_eq!(log.library_level, Some(LogLevel::Info));
    }
}

#[test]
fn every_name_of_both_generations_works_and_never_makes_the_hook_something_else() {
    let modes: [(&[&str], Command, &str); 3] = [
        (&["CERTDEPLOY_SERVER_DAEMON"], Command::Daemon, "--no-daemon"),
        (&["CERTDEPLOY_RENEW_ONLY", "CERTDEPLOY_SERVER_RENEW_ONLY"], Command::Renew, "--no-renew"),
        (
            &[
                "CERTDEPOLY_PUSH_ONLY",
                "CERTDEPOLY_SERVER_PUSH_ONLY",
                "CERTDEPLOY_PUSH_ONLY",
                "CERTDEPLOY_SERVER_PUSH_ONLY",
            ],
            Command::Push,
            "--no-push",
        ),
    ];
    for (names, mode, off) in modes {
        for name in names {
            for on in ["1", "t", "true", "y", "yes", "on", "TRUE", "Yes"] {
                assert_eq!(parsed("", &[(name, on)]), Ok(mode.clone()), "{name}={on}");
                assert!(matches!(parsed(off, &[(name, on)]), Err(Usage::NothingToDo { .. })), "{off} {name}={on}");
                let hook = parsed("", &[HOOK[0], HOOK[1], (name, on)]);
                assert_eq!(hook, Ok(enqueue(false, mode == Command::Push)), "the hook with {name}={on}");
            }
            for no in ["0", "f", "false", "n", "no", "off", "FALSE", ""] {
                assert!(matches!(parsed("", &[(name, no)]), Err(Usage::NothingToDo { .. })), "{name}={no}");
            }
            assert!(matches!(parsed("", &[(name, "maybe")]), Err(Usage::Wrong(_))), "{name}");
        }
    }
}
