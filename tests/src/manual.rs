//! The manual pages of the config files, rendered from the lists that the parsers are made of.

use std::fmt::Write as _;

use certdeploy_common::setting::{Default, Setting};

/// A page of section 5: the file `name`, where it is, what it is, and all its settings.
#[must_use]
pub fn page(name: &str, about: &str, settings: &'static [Setting], see: &[&str]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH {name} 5 \"\" \"certdeploy {version}\" \"\"\n.SH NAME\n{} \\- {}\n",
        escape(name),
        escape(about)
    );
    let file = name.trim_start_matches("certdeploy-");
    let _ = write!(
        text,
        ".SH DESCRIPTION\nYAML, read from \\fI/etc/certdeploy/{}\\fR unless \\fB\\-\\-config\\fR or the environment names another \
         file. Unknown keys are refused with the nearest right one.\n.SH SETTINGS\n",
        escape(file)
    );
    for setting in settings {
        entry(&mut text, setting);
    }
    for setting in settings {
        sections(&mut text, setting);
    }
    let _ = write!(text, ".SH SEE ALSO\n{}\n", see.iter().map(|page| reference(page)).collect::<Vec<_>>().join(",\n"));
    text
}

fn sections(text: &mut String, setting: &Setting) {
    let Some(inside) = setting.kind.inside else { return };
    let _ = writeln!(text, ".SS Keys of {}", escape(setting.key));
    for setting in inside {
        entry(text, setting);
    }
    for setting in inside {
        sections(text, setting);
    }
}

fn entry(text: &mut String, setting: &Setting) {
    let default = match setting.default {
        Default::Required => "required".to_owned(),
        Default::Yaml(value) => format!("default \\fB{}\\fR", escape(value)),
        Default::Unset => "not set by default".to_owned(),
    };
    let _ = write!(
        text,
        ".TP\n\\fB{}\\fR ({}; {default})\n{}\n",
        escape(setting.key),
        escape(setting.kind.name),
        markdown(setting.doc)
    );
}

/// `name(5)`, set as it is done.
fn reference(page: &str) -> String {
    let (name, section) = page.split_once('(').unwrap_or((page, "1)"));
    format!("\\fB{}\\fR({section}", escape(name))
}

/// Text between backquotes is bold.
fn markdown(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let set = |(number, part): (usize, &str)| match number % 2 {
        0 => escape(part),
        _ => format!("\\fB{}\\fR", escape(part)),
    };
    let text: String = parts.map(set).collect();
    // At the start of a line these would be requests.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_to_roff_is_escaped() {
        assert_eq!(markdown("`.x` is a-b\\c"), "\\fB.x\\fR is a\\-b\\ec");
        assert_eq!(markdown(".x"), "\\&.x");
        assert_eq!(reference("a-b(5)"), "\\fBa\\-b\\fR(5)");
    }
}
