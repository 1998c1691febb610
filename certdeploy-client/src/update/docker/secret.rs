//! Updates of type `docker_secret`: deployed files as a new version of a swarm secret, the services that had an older
//! one moved over, older versions removed. The content goes into one request's body and nowhere else.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use certdeploy_common::cert::{Digest, FileName, Lineage};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::line::Api;
use super::rollout::{self, Begun, Standing, text};
use super::{DockerError, Engine, Failed, within};
use crate::dir::Dir;
use crate::update::{Batch, Due, UpdateError};

/// Which secret, made of what.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its name without the version.
    pub name: Name,
    /// The files it holds, in this order.
    pub files: Vec<FileName>,
    /// How many versions are kept beside the current one.
    pub keep: u32,
    /// Where.
    pub engine: Engine,
    /// How long the rollout of each service may take; `None` for ever.
    pub timeout: Option<Duration>,
}

/// A secret's name without the version, in which `{lineage}` may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

/// Stands for the lineage's name.
const LINEAGE: &str = "{lineage}";
/// The longest name that a swarm takes.
const NAME_LIMIT: usize = 64;
/// The digits of the digest in a version's name, and the dash before them.
const VERSION: usize = 12;

/// What `name` must be.
pub const NAME_MUST: &str = "be at most 51 letters, digits, `-`, `_` and `.`, beginning with a letter or digit; \
                             `{lineage}` in it stands for the lineage's name";

impl Name {
    /// Reads it as the config writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let sample = text.replace(LINEAGE, "x");
        is_name(&sample).then(|| Self(text.to_owned()))
    }

    /// Whether each lineage has a secret of its own.
    #[must_use]
    pub fn is_for_each(&self) -> bool {
        self.0.contains(LINEAGE)
    }

    fn of(&self, lineage: &Lineage) -> Result<String, DockerError> {
        let name = self.0.replace(LINEAGE, lineage.as_str());
        if is_name(&name) { Ok(name) } else { Err(DockerError::SecretName(name)) }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() + 1 + VERSION <= NAME_LIMIT
        && text.chars().all(fine)
}

/// Does it for every lineage of the batch, also when an earlier one failed.
///
/// # Errors
/// See [`DockerError`] and [`Failed`].
pub async fn run(secret: &Secret, batch: &Batch) -> Result<(), UpdateError> {
    let failed = |source| UpdateError::Docker { what: "secret", name: format!("name={}", secret.name), source };
    let lineages: Vec<&str> = batch.lineages.keys().map(Lineage::as_str).collect();
    if lineages.len() > 1 && !secret.name.is_for_each() {
        return Err(failed(DockerError::SeveralLineages(lineages.join(", "))));
    }
    let api = secret.engine.api(Duration::ZERO).await.map_err(failed)?;
    let mut some = Failed::default();
    for (lineage, due) in &batch.lineages {
        if let Err(error) = one(&api, secret, &batch.destination, lineage, due).await {
            some.add(lineage.as_str(), error);
        }
    }
    some.of("secret", format!("name={}", secret.name))
}

async fn one(api: &Api, secret: &Secret, destination: &Path, lineage: &Lineage, due: &Due) -> Result<(), DockerError> {
    let name = secret.name.of(lineage)?;
    let content = match content(&destination.join(lineage.as_str()), &due.folder, &secret.files) {
        Ok(Some(content)) => content,
        Ok(None) => {
            tracing::info!("Lineage {lineage} has newer files already; the secret {name} follows with their update");
            return Ok(());
        }
        Err(reason) => return Err(DockerError::Files { lineage: lineage.clone(), reason }),
    };
    let version = Version::of(&name, &content);
    let existing = versions(api, &name).await?;
    let current = match existing.iter().find(|one| one.ours && one.name == version.name) {
        Some(current) => current.id.clone(),
        None => create(api, &version, &name, lineage, due, content).await?,
    };
    let old: Vec<&Existing> = existing.iter().filter(|one| one.id != current).collect();
    let moved = move_over(api, secret, &old, &Reference { id: &current, name: &version.name }).await?;
    remove(api, &old, secret.keep).await;
    tracing::info!("Docker secret updated: name={name} version={} services={moved}", version.name);
    Ok(())
}

/// The files one after another, all of the generation `folder`; `None` when that is not the current one any more.
fn content(directory: &Path, folder: &str, files: &[FileName]) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    let unreadable = |error: std::io::Error| format!("`{}` cannot be read: {error}", directory.display());
    let lineage = Dir::open(directory).map_err(unreadable)?;
    if lineage.link("..data").as_deref() != Some(folder) {
        return Ok(None);
    }
    let generation = lineage.child(folder).map_err(unreadable)?;
    let mut content = Zeroizing::new(Vec::with_capacity(files.iter().map(|file| room(*file)).sum()));
    for file in files {
        let (bytes, _) =
            generation.read(file.as_str(), file.limit(), &[]).map_err(|error| format!("{} {error}", file.as_str()))?;
        content.extend_from_slice(&bytes);
        if !bytes.ends_with(b"\n") {
            content.push(b'\n');
        }
    }
    Ok(Some(content))
}

/// Room from the beginning: a vector that grows leaves copies behind.
fn room(file: FileName) -> usize {
    usize::try_from(file.limit()).unwrap_or_default() + 1
}

struct Version {
    name: String,
}

impl Version {
    /// The same content has the same name, so that it is never made twice.
    fn of(name: &str, content: &[u8]) -> Self {
        let digest = Digest::of(content);
        Self { name: format!("{name}-{}", digest.as_str().get(..VERSION).unwrap_or_default()) }
    }
}

/// A secret that the engine has.
#[derive(Debug)]
struct Existing {
    id: String,
    name: String,
    /// Grows with time.
    index: u64,
    /// Made by us; otherwise by hand, under the plain name.
    ours: bool,
}

/// The versions of a secret, newest first, and one that was made by hand under the plain name.
async fn versions(api: &Api, name: &str) -> Result<Vec<Existing>, DockerError> {
    let all = api.get("/secrets").await?;
    let existing = |secret: &Value| {
        let ours = text(secret, "/Spec/Labels/certdeploy.secret") == Some(name);
        let found = Existing {
            id: text(secret, "/ID")?.to_owned(),
            name: text(secret, "/Spec/Name")?.to_owned(),
            index: secret.pointer("/Version/Index").and_then(Value::as_u64).unwrap_or_default(),
            ours,
        };
        (ours || found.name == name).then_some(found)
    };
    let mut found: Vec<Existing> = all.as_array().into_iter().flatten().filter_map(existing).collect();
    found.sort_by_key(|one| std::cmp::Reverse(one.index));
    Ok(found)
}

async fn create(
    api: &Api,
    version: &Version,
    name: &str,
    lineage: &Lineage,
    due: &Due,
    content: Zeroizing<Vec<u8>>,
) -> Result<String, DockerError> {
    let labels = json!({
        "certdeploy.secret": name,
        "certdeploy.lineage": lineage.as_str(),
        "certdeploy.serial": due.serial,
    });
    let head = format!("{{\"Name\":{},\"Labels\":{labels},\"Data\":\"", json!(version.name));
    let mut body = Zeroizing::new(vec![0; head.len() + content.len().div_ceil(3) * 4 + 2]);
    let (start, data) = body.split_at_mut(head.len());
    start.copy_from_slice(head.as_bytes());
    let written = STANDARD.encode_slice(&content, data).unwrap_or_default();
    drop(content);
    body.truncate(head.len() + written);
    body.extend_from_slice(b"\"}");
    let created = match api.post("/secrets/create", Bytes::from_owner(body)).await {
        // The client of another manager was faster.
        Err(error) if error.status() == Some(409) => {
            let existing = versions(api, name).await?;
            return existing
                .into_iter()
                .find(|one| one.ours && one.name == version.name)
                .map(|one| one.id)
                .ok_or(error);
        }
        created => created?,
    };
    let id = text(&created, "/ID").map(str::to_owned);
    id.ok_or_else(|| DockerError::Broken("it made a secret, but does not say which".to_owned()))
}

/// What a service is to refer to.
#[derive(Debug, Clone, Copy)]
struct Reference<'a> {
    id: &'a str,
    name: &'a str,
}

/// Moves every service that refers to an old version to the current one. Returns how many there are on it now.
async fn move_over(
    api: &Api,
    secret: &Secret,
    old: &[&Existing],
    current: &Reference<'_>,
) -> Result<usize, DockerError> {
    let services = api.get("/services").await?;
    let old: Vec<&str> = old.iter().map(|one| one.id.as_str()).collect();
    let (mut first, mut moved) = (None, 0);
    for service in services.as_array().into_iter().flatten() {
        let Some(id) = text(service, "/ID") else { continue };
        let refers = |ids: &[&str]| {
            references(service).any(|one| text(one, "/SecretID").is_some_and(|found| ids.contains(&found)))
        };
        let (behind, there) = (refers(&old), refers(&[current.id]));
        let standing = rollout::standing(service);
        if !behind && (!there || standing == Standing::Done) {
            moved += usize::from(there);
            continue;
        }
        // A rollout that has stopped halfway is begun anew: that is what a retry is for.
        let halfway = there && matches!(standing, Standing::Bad(_));
        let rollout = async {
            // One that goes on, as after a time limit of ours, would only be put back to its beginning.
            if !behind && !halfway {
                return rollout::finished(api, id, &Begun::before()).await;
            }
            let change = |spec: &mut Value| {
                let replaced = replace(spec, &old, current);
                if halfway && !replaced {
                    rollout::force(spec);
                }
                replaced || halfway
            };
            match rollout::change(api, id, change).await? {
                Some(begun) => rollout::finished(api, id, &begun).await,
                None => Ok(()),
            }
        };
        match within(secret.timeout, rollout).await {
            Ok(()) => moved += 1,
            Err(error) => {
                tracing::warn!("Docker service {} is not on secret {}: {error}", rollout::name(service), current.name);
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(moved), Err)
}

const SECRETS: &str = "/TaskTemplate/ContainerSpec/Secrets";

fn references(service: &Value) -> impl Iterator<Item = &Value> {
    let spec = service.get("Spec");
    spec.and_then(|spec| spec.pointer(SECRETS)).and_then(Value::as_array).into_iter().flatten()
}

/// Lets the references to old versions mean the current one. File name, owner and mode stay.
fn replace(spec: &mut Value, old: &[&str], current: &Reference<'_>) -> bool {
    let mut replaced = false;
    for reference in spec.pointer_mut(SECRETS).and_then(Value::as_array_mut).into_iter().flatten() {
        let is_old = text(reference, "/SecretID").is_some_and(|id| old.contains(&id));
        if let (true, Some(reference)) = (is_old, reference.as_object_mut()) {
            reference.insert("SecretID".to_owned(), json!(current.id));
            reference.insert("SecretName".to_owned(), json!(current.name));
            replaced = true;
        }
    }
    replaced
}

/// Removes what is too old. What was made by hand is not ours to remove, and what is in use comes next time.
async fn remove(api: &Api, old: &[&Existing], keep: u32) {
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    for one in old.iter().filter(|one| one.ours).skip(keep) {
        match api.delete(&format!("/secrets/{}", one.id)).await {
            Ok(_) => tracing::info!("Docker secret {} is not needed any more and was removed", one.name),
            Err(error) if error.status() == Some(404) => {}
            Err(error) if error.to_string().contains("in use by") => {
                tracing::info!("Docker secret {} is in use and stays until the next update", one.name);
            }
            Err(error) => tracing::warn!("Docker secret {} cannot be removed: {error}", one.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leaves_room_for_the_version() {
        for good in ["web-tls", "{lineage}", "tls_{lineage}.pem", &"x".repeat(51)] {
            assert!(Name::parse(good).is_some(), "{good}");
        }
        for bad in ["", "-x", "a b", "{name}", &"x".repeat(52), "a/b"] {
            assert!(Name::parse(bad).is_none(), "{bad}");
        }
        let name = Name::parse("tls-{lineage}").unwrap();
        assert_eq!(name.of(&"a.example".parse().unwrap()).unwrap(), "tls-a.example");
        let long: Lineage = format!("{}.example", "x".repeat(50)).parse().unwrap();
        assert!(name.of(&long).unwrap_err().to_string().contains("at most 51"), "said, not cut");
        assert_eq!(Version::of("web", b"abc").name, "web-ba7816bf8f01");
    }

    #[test]
    fn only_the_reference_changes() {
        let reference = |id: &str, name: &str, file: &str| json!({"SecretID": id, "SecretName": name, "File": {"Name": file, "UID": "33", "GID": "0", "Mode": 256}});
        let spec = |secrets: Value| json!({"TaskTemplate": {"ContainerSpec": {"Secrets": secrets, "X": 1}}, "Y": 2});
        let mut changed =
            spec(json!([reference("1", "web-a", "tls.pem"), reference("9", "other", "o"), reference("2", "web", "w")]));
        assert!(replace(&mut changed, &["1", "2"], &Reference { id: "3", name: "web-b" }));
        let want =
            json!([reference("3", "web-b", "tls.pem"), reference("9", "other", "o"), reference("3", "web-b", "w")]);
        assert_eq!(changed, spec(want));
        assert!(!replace(&mut changed, &["1", "2"], &Reference { id: "3", name: "web-b" }));
        assert!(!replace(&mut json!({}), &["1"], &Reference { id: "3", name: "web-b" }));
    }

    #[test]
    fn the_content_is_of_one_generation_or_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".gen-1")).unwrap();
        std::os::unix::fs::symlink(".gen-1", dir.path().join("..data")).unwrap();
        std::fs::write(dir.path().join(".gen-1/fullchain.pem"), "chain").unwrap();
        std::fs::write(dir.path().join(".gen-1/privkey.pem"), "key\n").unwrap();
        let of = |folder, files| content(dir.path(), folder, files);
        let both = [FileName::Fullchain, FileName::Privkey];
        assert_eq!(of(".gen-1", &both).unwrap().unwrap().as_slice(), b"chain\nkey\n");
        assert_eq!(of(".gen-2", &both), Ok(None));
        assert_eq!(of(".gen-1", &[FileName::Chain]), Err("chain.pem is missing".to_owned()));
    }
}
