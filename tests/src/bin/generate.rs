//! Writes what packages bring beside the programs: manual pages (`man/`) and completions (`completions/`), from the
//! programs' own command lines and lists of settings. Usage: `generate DIRECTORY`.

use std::io;
use std::path::{Path, PathBuf};

use certdeploy_client::config::file::ClientFile;
use certdeploy_common::setting::Section;
use certdeploy_server::config::file::ServerFile;
use certdeploy_tests::manual::page;
use clap_complete::Shell;

fn main() -> io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: generate DIRECTORY");
        std::process::exit(2);
    };
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        // What a former version had is not shipped by this one.
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(folder)?,
        }
    }
    for command in [certdeploy_server::cli::command(), certdeploy_client::cli::command()] {
        commands(command, &man, &completions)?;
    }
    files(&man)?;
    by_hand(&man)
}

/// Section 1, and the completions of three shells.
fn commands(command: clap::Command, man: &Path, completions: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    // Nobody shall be offered what a program calls itself by.
    let offered = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = clap::Command::new(&*name.clone().leak())
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(command.get_arguments().cloned())
        .subcommands(offered);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut shown, &name, completions)?;
    }
    clap_mangen::generate_to(command, man)
}

/// Section 5.
fn files(man: &Path) -> io::Result<()> {
    let server = page(
        "certdeploy-server.yml",
        "config of certdeploy-server",
        ServerFile::SETTINGS,
        &["certdeploy-server(1)", "certdeploy-server.service(8)"],
    );
    let client = page(
        "certdeploy-client.yml",
        "config of certdeploy-client",
        ClientFile::SETTINGS,
        &["certdeploy-client(1)", "certdeploy-client.service(8)"],
    );
    std::fs::write(man.join("certdeploy-server.yml.5"), server)?;
    std::fs::write(man.join("certdeploy-client.yml.5"), client)
}

/// Section 8.
fn by_hand(man: &Path) -> io::Result<()> {
    // Below the working directory: a tree may have been moved since it was compiled.
    let folder = Path::new("packaging/man");
    let start = |error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}; start at the top of the sources", folder.display()))
    };
    for entry in std::fs::read_dir(folder).map_err(start)? {
        let entry = entry?;
        let text = std::fs::read_to_string(entry.path())?.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
        std::fs::write(man.join(entry.file_name()), text)?;
    }
    Ok(())
}
