//! What the incoming directory holds after a restart: complete uploads, and rests that go.

use std::io;

use certdeploy_common::wire::layout;

use super::Staged;
use crate::dir::Dir;
use crate::link::Commit;

/// Removes what never became complete (its peers are gone with their connections) and lists what did, oldest first.
///
/// # Errors
/// The directory cannot be read; a rest that cannot be removed is only logged.
pub fn sweep(incoming: &Dir) -> io::Result<Vec<Commit>> {
    let mut complete = Vec::new();
    for (name, _) in incoming.entries()? {
        match Staged::parse(&name) {
            Some(Staged::Push(push)) if is_complete(incoming, &name) => complete.push(Commit::Push(push)),
            Some(Staged::Plain(_, lineage)) => {
                let commit = Commit::Plain(lineage);
                if !complete.contains(&commit) {
                    complete.push(commit);
                }
            }
            Some(Staged::Push(_) | Staged::Session) | None => {
                if let Err(error) = incoming.remove_tree(&name) {
                    tracing::warn!("Cannot remove the rest of an upload `{name}`: {error}");
                }
            }
        }
    }
    Ok(complete)
}

fn is_complete(incoming: &Dir, name: &str) -> bool {
    incoming.child(name).is_ok_and(|push| push.has(layout::MANIFEST))
}

#[cfg(test)]
mod tests {
    use certdeploy_common::wire::PushId;

    use super::*;

    #[test]
    fn complete_uploads_stay_and_rests_go() {
        let temp = tempfile::tempdir().unwrap();
        let incoming = Dir::open(temp.path()).unwrap();
        let (one, two, three) = (PushId::new([1; 16]), PushId::new([2; 16]), PushId::new([3; 16]));
        let lineage: certdeploy_common::cert::Lineage = "a.example".parse().unwrap();
        incoming.make(&one.directory()).unwrap().create(layout::MANIFEST).unwrap();
        incoming.make(&two.directory()).unwrap().create(layout::MANIFEST_PART).unwrap();
        incoming.make(&Staged::session(&three)).unwrap().make("a.example").unwrap();
        incoming.make(&Staged::plain(&three, &lineage)).unwrap();
        std::fs::write(temp.path().join("junk"), "").unwrap();
        assert_eq!(sweep(&incoming).unwrap(), [Commit::Plain(lineage), Commit::Push(one)]);
        assert_eq!(incoming.entries().unwrap().len(), 2);
    }
}
