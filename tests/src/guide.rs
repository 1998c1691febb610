//! The pages in `docs/` and the README as a person follows them: their fenced blocks in order, each with the heading that
//! it stands under. What a block means, and on which host it is run, is for the test to say.

use crate::shipped::file;

/// One fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The nearest heading above it.
    pub heading: String,
    /// What follows the fence: `sh`, `yaml`, ...
    pub language: String,
    /// The lines between the fences.
    pub text: String,
}

impl Block {
    /// The file that the block is, if its first line is a comment that begins with a path.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        let first = self.text.lines().next()?.strip_prefix("# ")?;
        first.split([' ', ':']).next().filter(|path| path.contains('/'))
    }
}

/// All blocks of a page; `page` is its path in the repository.
///
/// # Panics
/// It is not there.
#[must_use]
pub fn blocks(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(file(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut heading = String::new();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                open = Some(Block { heading: heading.clone(), language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) if line.starts_with('#') => line.trim_start_matches('#').trim().clone_into(&mut heading),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a block has no end");
    blocks
}

/// The headings of a page that have blocks, each once, in order.
#[must_use]
pub fn headings(page: &str) -> Vec<String> {
    let mut headings: Vec<String> = blocks(page).into_iter().map(|block| block.heading).collect();
    headings.dedup();
    headings
}
