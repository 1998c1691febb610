//! The types of settings that only this program has: kinds of updates, mappings of text. Pure.

use certdeploy_common::cert::FileName;
use certdeploy_common::scalar_kinds;
use certdeploy_common::setting::value::{List, Verbatim};
use certdeploy_common::setting::yaml::{Content, Node};
use certdeploy_common::setting::{Complaint, Kind, Problems, Value};

use crate::update::OnFailure;

/// The kinds of updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateType {
    /// A unit of systemd.
    Systemd,
    /// A service of SysV init or OpenRC.
    Rc,
    /// An executable of the user's.
    Script,
    /// Containers of a Docker engine.
    DockerContainer,
    /// Services of a Docker swarm.
    DockerService,
    /// A secret of a Docker swarm.
    DockerSecret,
}

impl UpdateType {
    /// The name in the config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Rc => "rc",
            Self::Script => "script",
            Self::DockerContainer => "docker_container",
            Self::DockerService => "docker_service",
            Self::DockerSecret => "docker_secret",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let docker = [Self::DockerContainer, Self::DockerService, Self::DockerSecret];
        [Self::Systemd, Self::Rc, Self::Script].into_iter().chain(docker).find(|kind| kind.as_str() == text)
    }
}

scalar_kinds! {
    /// `on_failure` of an update.
    OnFailureText -> OnFailure, "what follows", "be keep or rollback",
        ["keep", "rollback"], ["restore", "yes"], |text| match text {
            "keep" => Some(OnFailure::Keep),
            "rollback" => Some(OnFailure::Rollback),
            _ => None,
        };
    /// A file of a lineage.
    FileText -> FileName, "file of a lineage", "be cert, chain, fullchain or privkey",
        ["fullchain", "privkey", "chain.pem"], ["combined", "1"], |text| {
            FileName::ALL.into_iter().find(|file| [Some(text), text.strip_suffix(".pem")].contains(&file.as_str().strip_suffix(".pem")))
        };
    /// `type` of an update.
    UpdateTypeText -> UpdateType, "update type",
        "be systemd, rc, script, docker_container, docker_service or docker_secret",
        ["systemd", "rc", "script", "docker_container", "docker_service", "docker_secret"], ["scripts", "unit"],
        UpdateType::parse;
}

/// Names with one or more texts each; `true` and `false` are text here.
#[derive(Debug)]
pub struct TextMap;
impl Value for TextMap {
    type Out = Vec<(String, Vec<String>)>;
    const KIND: Kind = Kind {
        name: "mapping of text",
        expected: "be a mapping of names to text or lists of text",
        valid: &["{a: b}", "{label: [x, y=z], is-task: true}"],
        invalid: &["7", "[a]", "{a: {b: c}}"],
        inside: None,
    };
    fn read(key: &str, node: Node, problems: &mut Problems) -> Result<Self::Out, Complaint> {
        let refused = Complaint::value(node.place, node.kind(), key, Self::KIND.expected);
        let Content::Map(pairs) = node.content else { return Err(refused) };
        let mut read = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            let place = value.place;
            let before = problems.errors.len();
            let texts = List::<Verbatim>::read(key, value, problems)?;
            if problems.errors.len() > before {
                problems.errors.truncate(before);
                return Err(Complaint { place, ..refused });
            }
            read.push((name.name, texts.into_iter().map(|text| text.value).collect()));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use certdeploy_common::setting::yaml;

    use super::*;

    #[test]
    fn samples_are_accepted_or_refused() {
        for (samples, want) in [(TextMap::KIND.valid, true), (TextMap::KIND.invalid, false)] {
            for sample in samples {
                let mut problems = Problems::default();
                let read = TextMap::read("filters", yaml::parse(sample).unwrap(), &mut problems);
                assert_eq!(read.is_ok() && problems.errors.is_empty(), want, "{sample}");
            }
        }
        for (samples, want) in [(UpdateTypeText::KIND.valid, true), (UpdateTypeText::KIND.invalid, false)] {
            for sample in samples {
                assert_eq!(UpdateType::parse(sample).is_some(), want, "{sample}");
            }
        }
    }
}
