//! The list of settings: one declaration makes the struct, its parser, its reference and its test table.

use super::place::{Complaint, Located, Place, Problems};
use super::value::{Kind, Value};
use super::yaml::{Content, Key, Node};

/// What holds when a key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// The file is refused.
    Required,
    /// This YAML text is read in its place.
    Yaml(&'static str),
    /// Nothing: another setting decides. Only for types that can be unset, see [`Value::unset`].
    Unset,
}

/// One setting, as people see it.
#[derive(Debug)]
pub struct Setting {
    /// The key in the file.
    pub key: &'static str,
    /// Its type: what may stand there, with samples.
    pub kind: &'static Kind,
    /// What holds when it is absent.
    pub default: Default,
    /// Former or mistaken names that still work, with a warning.
    pub old: &'static [&'static str],
    /// What other programs call it: refused, but the message names this key.
    pub like: &'static [&'static str],
    /// What it does, in Markdown.
    pub doc: &'static str,
}

/// A mapping with a fixed set of keys.
pub trait Section: Sized {
    /// The keys, in the order of the reference.
    const SETTINGS: &'static [Setting];
    /// What the section is called in messages ("config option", "client config option").
    const NAME: &'static str;
    /// Whether an unknown key is only warned about: existing configs have such keys there.
    const LENIENT: bool = false;

    /// Reads the mapping; all that is wrong goes to `problems`.
    fn read_map(place: Place, map: Vec<(Key, Node)>, problems: &mut Problems) -> Option<Self>;
}

/// Reads a section from a whole document or a value.
pub fn read_section<S: Section>(node: Node, problems: &mut Problems) -> Option<S> {
    match node.content {
        Content::Map(map) => S::read_map(node.place, map, problems),
        Content::Null => S::read_map(node.place, Vec::new(), problems),
        Content::Scalar { .. } | Content::List(_) => {
            let found = node.kind();
            let message = format!("Invalid {}: expected a mapping of keys (`key: value`), found {found}", S::NAME);
            problems.error(Complaint::new(node.place, message));
            None
        }
    }
}

/// The pairs of a mapping that no setting has taken yet.
pub struct Pairs {
    section: &'static str,
    place: Place,
    left: Vec<(Key, Node)>,
}

impl Pairs {
    /// Starts taking settings out of `map`.
    #[must_use]
    pub fn new(section: &'static str, place: Place, map: Vec<(Key, Node)>) -> Self {
        Self { section, place, left: map }
    }

    /// Takes one setting out, by its name or an old one; its default when it is absent.
    pub fn take<V: Value>(&mut self, setting: &Setting, problems: &mut Problems) -> Option<Located<V::Out>> {
        let Some((key, node)) = self.find(setting, problems) else {
            return self.absent::<V>(setting, problems);
        };
        let place = node.place;
        match V::read(setting.key, node, problems) {
            Ok(value) => Some(Located { value, place }),
            Err(mut complaint) => {
                if complaint.place.line == 0 {
                    complaint.place = key.place;
                }
                problems.error(complaint);
                None
            }
        }
    }

    fn find(&mut self, setting: &Setting, problems: &mut Problems) -> Option<(Key, Node)> {
        let at = self.left.iter().position(|(key, _)| key.name == setting.key);
        let old = self.left.iter().position(|(key, _)| setting.old.contains(&key.name.as_str()));
        if let Some(old) = old {
            let (key, node) = self.left.remove(old);
            if at.is_some() {
                problems.error(Complaint::new(
                    key.place,
                    format!(
                        "Invalid {}: `{}` is an old name of `{}`, which is given too; remove it",
                        self.section, key.name, setting.key
                    ),
                ));
                let at = self.left.iter().position(|(key, _)| key.name == setting.key)?;
                return Some(self.left.remove(at));
            }
            problems.warn(key.place, format!("`{}` works, but its name is `{}` now", key.name, setting.key));
            return Some((key, node));
        }
        at.map(|at| self.left.remove(at))
    }

    fn absent<V: Value>(&self, setting: &Setting, problems: &mut Problems) -> Option<Located<V::Out>> {
        match setting.default {
            Default::Required => {
                problems.error(Complaint::new(
                    self.place,
                    format!("Invalid {}: missing required key `{}`", self.section, setting.key),
                ));
                None
            }
            Default::Unset => V::unset().map(|value| Located { value, place: Place::default() }),
            Default::Yaml(text) => {
                let node = default(text).map_err(|complaint| problems.error(complaint)).ok()?;
                let value = V::read(setting.key, node, problems);
                value
                    .map_err(|complaint| problems.error(complaint))
                    .ok()
                    .map(|value| Located { value, place: Place::default() })
            }
        }
    }

    /// Complains about every key that is left, with the nearest right one.
    pub fn finish<S: Section>(self, problems: &mut Problems) {
        for (key, _) in self.left {
            let hint = hint(&key.name, S::SETTINGS);
            let message = format!("Invalid {}: unknown key \"{}\"{hint}", self.section, key.name);
            if S::LENIENT {
                problems.warn(key.place, message);
            } else {
                problems.error(Complaint::new(key.place, message));
            }
        }
    }
}

/// The YAML of a default. The plain ones, nearly all, do without the parser: thousands of targets have dozens each.
pub(super) fn default(text: &str) -> Result<Node, Complaint> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.');
    let content = match text {
        "null" => Content::Null,
        "[]" => Content::List(Vec::new()),
        _ if text.chars().all(plain) => Content::Scalar { text: text.to_owned(), quoted: false },
        _ => return super::yaml::parse(text),
    };
    Ok(Node { place: Place::default(), content })
}

fn hint(written: &str, settings: &[Setting]) -> String {
    if let Some(setting) = settings.iter().find(|setting| setting.like.contains(&written)) {
        return format!(" (did you mean \"{}\"?)", setting.key);
    }
    let inside = |setting: &&Setting| {
        setting.kind.inside.is_some_and(|inside| inside.iter().any(|setting| setting.key == written))
    };
    if let Some(section) = settings.iter().find(inside) {
        return format!(" (it belongs inside `{}`; look at the indentation)", section.key);
    }
    let distance = |setting: &Setting| {
        let names = std::iter::once(&setting.key).chain(setting.old);
        names.map(|name| strsim::osa_distance(written, name)).min().unwrap_or(usize::MAX)
    };
    let nearest = settings.iter().min_by_key(|setting| distance(setting));
    match nearest {
        Some(setting) if distance(setting) <= 1 + written.len() / 4 => {
            format!(" (did you mean \"{}\"?)", setting.key)
        }
        _ => {
            let known: Vec<&str> = settings.iter().map(|setting| setting.key).collect();
            format!(" (known keys: {})", known.join(", "))
        }
    }
}

/// `r#type`, as Rust must write it, is the key `type`.
#[must_use]
pub const fn plain_name(written: &'static str) -> &'static str {
    match written.as_bytes() {
        [b'r', b'#', rest @ ..] => match std::str::from_utf8(rest) {
            Ok(name) => name,
            Err(_) => written,
        },
        _ => written,
    }
}

/// Declares a section: a struct whose fields are the settings, and the list that documents and tests them. In one that
/// is `lenient` an unknown key is only warned about.
///
/// ```text
/// settings! {
///     /// Keys of `server.yml`.
///     pub struct ServerFile ("config option") {
///         fail_fast: Switch = yaml "false", old [], "Stop on the first failed action.";
///         privkey_filename: PathText = required, old ["private_key_file"], like ["key"], "The server's own key.";
///     }
/// }
/// ```
#[macro_export]
macro_rules! settings {
    (@default required) => { $crate::setting::Default::Required };
    (@default unset) => { $crate::setting::Default::Unset };
    (@default yaml $text:literal) => { $crate::setting::Default::Yaml($text) };
    (@mode lenient) => { true };
    (
        $(#[$meta:meta])*
        pub struct $name:ident ($section:literal $(, $mode:ident)?) {
            $( $key:ident : $kind:ty = $presence:ident $($default:literal)?, old [$($old:literal),*],
                $(like [$($like:literal),*],)? $doc:literal; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub struct $name {
            $( #[doc = $doc] pub $key: $crate::setting::Located<<$kind as $crate::setting::Value>::Out>, )*
        }

        impl $crate::setting::Section for $name {
            const NAME: &'static str = $section;
            $( const LENIENT: bool = $crate::settings!(@mode $mode); )?
            const SETTINGS: &'static [$crate::setting::Setting] = &[
                $( $crate::setting::Setting {
                    key: $crate::setting::list::plain_name(stringify!($key)),
                    kind: &<$kind as $crate::setting::Value>::KIND,
                    default: $crate::settings!(@default $presence $($default)?),
                    old: &[$($old),*],
                    like: &[$($($like),*)?],
                    doc: $doc,
                }, )*
            ];

            fn read_map(
                place: $crate::setting::Place,
                map: Vec<($crate::setting::yaml::Key, $crate::setting::yaml::Node)>,
                problems: &mut $crate::setting::Problems,
            ) -> Option<Self> {
                let mut pairs = $crate::setting::list::Pairs::new($section, place, map);
                let mut settings = <Self as $crate::setting::Section>::SETTINGS.iter();
                $( let $key = pairs.take::<$kind>(settings.next()?, problems); )*
                pairs.finish::<Self>(problems);
                Some(Self { $( $key: $key?, )* })
            }
        }
    };
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro makes public types, as every real section is")]
mod tests {
    use crate::setting::list::read_section;
    use crate::setting::value::{Count, Maybe, Nested, PathText, Switch};
    use crate::setting::{Problems, Section, yaml};

    crate::settings! {
        /// A sample.
        pub struct Sample ("config option") {
            fail_fast: Switch = yaml "false", old ["fastfail"], "Stop.";
            pubkey: Maybe<PathText> = yaml "null", old [], like ["hostkey"], "A key.";
            inner: Maybe<Nested<Inner>> = yaml "null", old [], "More.";
        }
    }
    crate::settings! {
        /// A nested sample.
        pub struct Inner ("inner option") {
            count: Count = required, old [], "How many.";
        }
    }
    crate::settings! {
        /// One that takes what it does not know.
        pub struct Loose ("loose option", lenient) {
            count: Count = yaml "1", old [], "How many.";
        }
    }

    fn read(text: &str) -> (Option<Sample>, Problems) {
        let mut problems = Problems::default();
        let value = read_section(yaml::parse(text).unwrap(), &mut problems);
        (value, problems)
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_nearest_right_one() {
        let (value, problems) = read("fail_fast: yes\npubkye: x\n");
        let all: Vec<String> = problems.errors.iter().map(|c| format!("{}: {}", c.place, c.message)).collect();
        assert_eq!(all, ["2:1: Invalid config option: unknown key \"pubkye\" (did you mean \"pubkey\"?)"]);
        assert!(value.is_some(), "the rest is read, so that all complaints come at once");
    }

    #[test]
    fn in_a_lenient_section_an_unknown_key_is_a_warning_with_the_same_words() {
        let mut problems = Problems::default();
        let read = read_section::<Loose>(yaml::parse("cuont: 2\n").unwrap(), &mut problems);
        assert!(problems.errors.is_empty() && read.unwrap().count.value == 1);
        let want = "Invalid loose option: unknown key \"cuont\" (did you mean \"count\"?)";
        assert_eq!(problems.warnings[0].message, want);
    }

    #[test]
    fn other_programs_words_and_keys_of_the_section_inside_are_told_apart_from_misspelt_ones() {
        let (_, problems) = read("hostkey: x\ncount: 1\n");
        let all: Vec<&str> = problems.errors.iter().map(|complaint| complaint.message.as_str()).collect();
        let want = [
            "Invalid config option: unknown key \"hostkey\" (did you mean \"pubkey\"?)",
            "Invalid config option: unknown key \"count\" (it belongs inside `inner`; look at the indentation)",
        ];
        assert_eq!(all, want);
    }

    #[test]
    fn old_names_work_with_a_warning_and_nested_sections_are_read() {
        let (value, problems) = read("fastfail: on\ninner: {count: 3}\n");
        assert!(problems.errors.is_empty());
        assert_eq!(problems.warnings[0].message, "`fastfail` works, but its name is `fail_fast` now");
        let value = value.unwrap();
        assert!(value.fail_fast.value && value.pubkey.value.is_none());
        assert_eq!(value.inner.value.unwrap().count.value, 3);
        assert_eq!(Sample::SETTINGS.len(), 3);
    }

    #[test]
    fn a_missing_required_key_is_named() {
        let (_, problems) = read("inner: {}\n");
        assert_eq!(problems.errors[0].message, "Invalid inner option: missing required key `count`");
    }
}
