//! The README's reference of settings, rendered from the same lists that the parsers are made of.

use std::fmt::Write as _;

use certdeploy_common::setting::{Default, Setting};

/// A Markdown table of these settings, and one for each section inside them. A section that several settings have is
/// shown once, under all their names.
#[must_use]
pub fn render(settings: &'static [Setting]) -> String {
    let mut sections: Vec<(Vec<String>, &'static [Setting])> = Vec::new();
    collect("", settings, &mut sections);
    let mut text = table(settings);
    for (names, inside) in sections {
        let _ = write!(text, "\n**`{}`**\n\n{}", names.join("`, `"), table(inside));
    }
    text
}

fn collect(at: &str, settings: &'static [Setting], sections: &mut Vec<(Vec<String>, &'static [Setting])>) {
    for setting in settings {
        let Some(inside) = setting.kind.inside else { continue };
        let name = format!("{at}{}", setting.key);
        match sections.iter_mut().find(|(_, known)| std::ptr::eq(*known, inside)) {
            Some((names, _)) => names.push(name),
            None => {
                sections.push((vec![name.clone()], inside));
                collect(&format!("{name}."), inside, sections);
            }
        }
    }
}

fn table(settings: &[Setting]) -> String {
    let mut text = String::from("| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    for setting in settings {
        let default = match setting.default {
            Default::Required => "required".to_owned(),
            Default::Yaml(value) => format!("`{value}`"),
            Default::Unset => "not set".to_owned(),
        };
        let old = match setting.old {
            [] => String::new(),
            names => format!(" Old name: `{}`.", names.join("`, `")),
        };
        let doc = setting.doc.replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | {} | {default} | {doc}{old} |", setting.key, setting.kind.name);
    }
    text
}

/// `document` with what stands between `<!-- settings: NAME -->` and `<!-- end -->` replaced; `None` without the marks.
#[must_use]
pub fn put_between_marks(document: &str, name: &str, table: &str) -> Option<String> {
    let mark = format!("<!-- settings: {name} -->\n");
    let start = document.find(&mark)? + mark.len();
    let end = start + document.get(start..)?.find("<!-- end -->")?;
    Some(format!("{}{table}{}", document.get(..start)?, document.get(end..)?))
}
