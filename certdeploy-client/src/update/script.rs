//! Updates of type `script`: the user's executable, told what changed by its environment.

use std::path::PathBuf;
use std::time::Duration;

use crate::account::Account;

use super::command::{self, CommandError, Surroundings};
use super::{Batch, Due, UpdateError};

/// A script, its arguments and its limit.
#[derive(Debug, Clone)]
pub struct Script {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables it gets beside ours.
    pub env: Vec<(String, String)>,
    /// Where it starts; `None` where we are.
    pub cwd: Option<PathBuf>,
    /// Whom it runs as; `None` is us.
    pub user: Option<Account>,
    /// How long it may run; `None` for ever.
    pub timeout: Option<Duration>,
}

impl Script {
    /// Tells two ways of calling one executable apart; `None`: just so.
    pub(super) fn id(&self) -> Option<String> {
        let Self { path: _, args, env, cwd, user, timeout: _ } = self;
        let cwd = cwd.as_ref().map(|cwd| cwd.display().to_string());
        let env = env.iter().flat_map(|(name, value)| ["env", name, value]);
        let words = args.iter().flat_map(|arg| ["arg", arg]).chain(env);
        let words = words.chain(cwd.iter().flat_map(|cwd| ["cwd", cwd]));
        let words: Vec<&str> = words.chain(user.iter().flat_map(|user| ["user", &user.name])).collect();
        (!words.is_empty()).then(|| super::digest(words))
    }
}

/// Runs the script and waits for it.
///
/// # Errors
/// It cannot be started, fails, or takes too long.
pub async fn run(script: &Script, batch: &Batch) -> Result<(), UpdateError> {
    let failed = |source| UpdateError::Script { path: script.path.clone(), source };
    check(script, batch).await.map_err(failed)?;
    tracing::info!("Script {} returned=0", script.path.display());
    Ok(())
}

/// Runs it as a check of something else.
///
/// # Errors
/// It cannot be started, fails, or takes too long.
pub async fn check(script: &Script, batch: &Batch) -> Result<(), CommandError> {
    let ours = environment(batch).into_iter().map(|(name, value)| (name.to_owned(), value));
    let surroundings = Surroundings {
        environment: script.env.iter().cloned().chain(ours).collect(),
        directory: script.cwd.clone(),
        user: script.user.clone(),
    };
    command::run(&script.path, &script.args, &surroundings, script.timeout).await
}

/// What a script learns. `RENEWED_*` is what certbot gives its hooks: of the first lineage, when several changed.
fn environment(batch: &Batch) -> Vec<(&'static str, String)> {
    let words = |words: Vec<&str>| words.join(" ");
    let domains = |domains: Vec<&std::collections::BTreeSet<_>>| {
        let all: std::collections::BTreeSet<&str> =
            domains.into_iter().flatten().map(certdeploy_common::cert::Domain::as_str).collect();
        words(all.into_iter().collect())
    };
    let mut environment = vec![
        ("CERTDEPLOY_DESTINATION", batch.destination.display().to_string()),
        ("CERTDEPLOY_LINEAGES", words(batch.lineages.keys().map(certdeploy_common::cert::Lineage::as_str).collect())),
        ("CERTDEPLOY_DOMAINS", domains(batch.lineages.values().map(|due| &due.names).collect())),
    ];
    if let Some((lineage, Due { names, .. })) = batch.lineages.first_key_value() {
        environment.push(("RENEWED_LINEAGE", batch.destination.join(lineage.as_str()).display().to_string()));
        environment.push(("RENEWED_DOMAINS", domains(vec![names])));
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_learns_all_lineages_and_certbot_s_words_for_the_first() {
        let names = |text: &[&str]| text.iter().map(|name| name.parse().unwrap()).collect();
        let due = |names| Due {
            generation: 1,
            folder: String::new(),
            serial: String::new(),
            names,
            entries: None,
            parts: std::collections::BTreeMap::new(),
            fallen: std::collections::BTreeMap::new(),
        };
        let batch = Batch {
            destination: "/d".into(),
            lineages: [
                ("b.example".parse().unwrap(), due(names(&["b.example", "www.b.example"]))),
                ("a.example".parse().unwrap(), due(names(&["a.example"]))),
            ]
            .into(),
        };
        assert_eq!(
            environment(&batch),
            [
                ("CERTDEPLOY_DESTINATION", "/d".to_owned()),
                ("CERTDEPLOY_LINEAGES", "a.example b.example".to_owned()),
                ("CERTDEPLOY_DOMAINS", "a.example b.example www.b.example".to_owned()),
                ("RENEWED_LINEAGE", "/d/a.example".to_owned()),
                ("RENEWED_DOMAINS", "a.example".to_owned()),
            ]
        );
    }
}
