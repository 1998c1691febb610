//! The guides in `docs/` against the repository: tests and messages that they name exist, links lead somewhere, and
//! each example config parses.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn below(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in directory.read_dir().unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn guides() -> Vec<PathBuf> {
    let mut guides = below(&root().join("docs"), ".md");
    guides.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name)));
    guides
}

/// What stands between single backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn each_difference_from_the_python_program_names_the_test_that_keeps_it() {
    let text = read(&root().join("docs/moving-from-python.md"));
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| What ")).collect();
    assert!(rows.len() >= 25, "{} differences", rows.len());
    let mut named = 0;
    for row in text.lines() {
        for reference in quoted(row).into_iter().filter(|quoted| quoted.contains(".rs::")) {
            let (file, name) = reference.split_once("::").expect("file.rs::name");
            let tests = read(&root().join("tests/tests").join(file));
            let there = [format!("fn {name}("), format!("fn {name}<")].iter().any(|wanted| tests.contains(wanted));
            assert!(there, "{file} has no test `{name}`, which docs/moving-from-python.md names");
            named += 1;
        }
    }
    for row in rows {
        assert!(row.contains(".rs::"), "no test keeps: {row}");
        let cells: Vec<&str> = row.trim().trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 5 && cells.iter().all(|cell| !cell.is_empty()), "a cell is empty or too much: {row}");
    }
    assert!(named >= 25, "{named} tests are named");
}

#[test]
fn each_message_that_is_explained_is_one_that_the_programs_say() {
    let sources = ["certdeploy-server/src", "certdeploy-client/src", "certdeploy-common/src"];
    let code: String =
        sources.iter().flat_map(|place| below(&root().join(place), ".rs")).map(|path| read(&path)).collect();
    let text = read(&root().join("docs/troubleshooting.md"));
    let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("### ")).collect();
    assert!(headings.len() >= 25, "{} messages", headings.len());
    for heading in headings {
        let message = quoted(heading).first().copied().unwrap_or_default();
        let said = code.contains(message) || code.contains(&message.replace('"', "\\\""));
        assert!(!message.is_empty() && said, "no program says `{message}`");
    }
}

#[test]
fn links_lead_somewhere() {
    for guide in guides() {
        let text = read(&guide);
        let here = guide.parent().expect("a directory");
        for after in text.split("](").skip(1) {
            let link = after.split([')', '#', ' ']).next().unwrap_or_default();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            assert!(here.join(link).exists(), "{}: `{link}` leads nowhere", guide.display());
        }
    }
}

/// Fenced blocks of this language whose second line names `file`, or whose text has its one required key.
fn examples(text: &str, file: &str) -> Vec<String> {
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let of_it = blocks.filter(|(language, body)| {
        language.trim() == "yaml" && body.lines().take(2).any(|line| line.starts_with('#') && line.contains(file))
    });
    of_it.map(|(_, body)| body.to_owned()).collect()
}

#[test]
fn each_example_config_in_the_guides_parses() {
    for guide in below(&root().join("docs"), ".md") {
        let text = read(&guide);
        for example in examples(&text, "server.yml") {
            let read = certdeploy_server::config::parse(Path::new("server.yml"), &example);
            let (_, warnings) = read.unwrap_or_else(|error| panic!("{}: {error}\n{example}", guide.display()));
            assert!(warnings.is_empty(), "{}: {warnings:?}", guide.display());
        }
        for example in examples(&text, "client.yml") {
            let read = certdeploy_client::config::parse(&example, Path::new("client.yml"));
            let (_, warnings) = read.unwrap_or_else(|error| panic!("{}: {error}\n{example}", guide.display()));
            assert!(warnings.is_empty(), "{}: {warnings:?}", guide.display());
        }
    }
}
