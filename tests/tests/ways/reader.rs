//! Whoever follows a page: runs its commands, writes its files, and carries the public keys from one host to the other.

use std::cell::RefCell;

use certdeploy_tests::guide::{Block, blocks};
use certdeploy_tests::process::Ran;

/// The example of what the server's `keygen` prints.
const SERVER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP+H3Nk/9uSa7LHNt8fvCPKKkNFnVE5SGC5tnthf6/OK";
/// The example of what a client's `keygen` prints.
const CLIENT: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuhX3Q690lnBhpfGHOs0j4CuCxE3E3jekWehvHRmVKt";

/// Where blocks are followed.
pub(crate) trait Place {
    /// Runs the lines of a shell.
    fn sh(&self, lines: &str) -> Ran;
    /// Starts what stays in the foreground.
    fn stays(&self, line: &str);
    /// Writes a file.
    fn put(&self, path: &str, text: &str);
    /// Everything that helps to see why.
    fn state(&self) -> String;
}

/// The person.
#[derive(Default)]
pub(crate) struct Reader {
    /// What was printed, under the example that stands for it.
    keys: RefCell<Vec<(&'static str, String)>>,
}

impl Reader {
    /// Follows the blocks of one section.
    pub(crate) fn follow(&self, (page, heading): (&str, &str), place: &dyn Place) {
        let section: Vec<Block> = blocks(page).into_iter().filter(|block| block.heading == heading).collect();
        assert!(!section.is_empty(), "{page} has no blocks under {heading:?}");
        for block in section {
            eprintln!("--- {page}, {heading}\n{}", block.text);
            self.block(&block, place);
        }
    }

    fn block(&self, block: &Block, place: &dyn Place) {
        let text = self.with_keys(&block.text);
        if block.language != "sh" {
            let path = block.file().unwrap_or_else(|| panic!("no file is named:\n{text}"));
            return place.put(path, &text);
        }
        if text.lines().any(|line| line.split('#').next().is_some_and(|line| line.trim().ends_with("--daemon"))) {
            return place.stays(text.trim());
        }
        let ran = place.sh(&text);
        assert_eq!(ran.code, Some(0), "{text}\n{}\n{}", ran.said(), place.state());
        let printed = ran.stdout.lines().filter(|line| line.starts_with("ssh-ed25519 "));
        let printing =
            text.lines().filter(|line| [" keygen ", "_ed25519_key.pub"].iter().any(|word| line.contains(word)));
        for (line, key) in printing.zip(printed) {
            // A client's is its daemon's own or an sshd's.
            let example = if line.contains("certdeploy-server keygen") { SERVER } else { CLIENT };
            self.keys.borrow_mut().push((example, key.to_owned()));
        }
    }

    /// The text with the keys that were printed last in the places of the examples.
    pub(crate) fn with_keys(&self, text: &str) -> String {
        let keys = self.keys.borrow();
        [SERVER, CLIENT].iter().fold(text.to_owned(), |text, example| {
            let known = keys.iter().rev().find(|(of, _)| of == example);
            assert!(known.is_some() || !text.contains(example), "this key was not printed yet:\n{text}");
            known.map_or(text.clone(), |(_, line)| text.replace(example, line))
        })
    }
}
