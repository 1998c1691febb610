//! What is to be done with a valid bundle, as steps. Pure: decides, never acts.

use certdeploy_common::cert::{FileName, check::show_time};

use super::record::Record;
use super::state::State;

/// What a valid bundle means for what is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// It becomes the next generation.
    Deploy,
    /// The very same files are there already.
    Unchanged,
    /// The same, but its users are to be told again.
    UpdateAgain,
    /// It is older than what is deployed.
    Refuse(String),
}

/// What is asked of the deployment.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// What came.
    pub record: &'a Record,
    /// Whether the pusher insists.
    pub force: bool,
    /// Now, in Unix seconds.
    pub now: i64,
}

/// Decides what to do with what came.
pub fn decide(state: &State, wish: Wish<'_>) -> Decision {
    let Some(deployed) = state.current.as_ref().and_then(|current| current.record.as_ref()) else {
        return Decision::Deploy;
    };
    if deployed.digest == wish.record.digest && state.held().is_some() {
        return if wish.force { Decision::UpdateAgain } else { Decision::Unchanged };
    }
    let unwanted = deployed.instead.as_ref().is_some_and(|instead| instead.is_about(wish.record));
    // What was rolled back is better than what has expired since.
    if unwanted && !wish.force && (deployed.serial.is_empty() || deployed.not_after > wish.now) {
        let serial = &wish.record.serial;
        return Decision::Refuse(format!(
            "the certificate (serial {serial}) was rolled back here; only --force brings it back"
        ));
    }
    // A bare key says nothing of its age. One that is not valid yet must not keep out those that are until it is.
    let dated = !wish.record.serial.is_empty();
    let early = deployed.not_before > wish.now && wish.record.not_before <= wish.now;
    if dated && wish.record.not_before < deployed.not_before && !early && !wish.force {
        return Decision::Refuse(format!(
            "the certificate (serial {}, from {} UTC) is older than the deployed one (serial {}, from {} UTC)",
            wish.record.serial,
            show_time(wish.record.not_before),
            deployed.serial,
            show_time(deployed.not_before),
        ));
    }
    Decision::Deploy
}

/// One step of a deployment; each leaves the directory in a state that readers can live with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the lineage's directory.
    MakeDirectory,
    /// Copy what stands under these names now into a generation of its own.
    Keep {
        /// The generation's number.
        number: u64,
        /// The names.
        names: Vec<FileName>,
    },
    /// Write the new generation, whole and synced.
    Write {
        /// Its number.
        number: u64,
    },
    /// Make a generation the current one: the swap.
    Switch {
        /// Its number.
        number: u64,
    },
    /// Put the link of a name in place, over whatever is there.
    Link(FileName),
    /// Take a name away that the new generation does not have.
    Unlink(FileName),
    /// Remove a generation that nobody needs.
    Remove(u64),
}

/// How long generations are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// How many, the current one included.
    pub keep: usize,
    /// How old a replaced one must be at least, in seconds.
    pub min_age: i64,
}

/// The steps that make `files` the next generation, at the time `now` (Unix seconds). Returns its number too.
#[must_use]
pub fn plan(state: &State, files: &[FileName], retention: Retention, now: i64) -> (u64, Vec<Step>) {
    let mut steps = Vec::new();
    let mut next = state.generations.last().map_or(1, |(number, _)| number + 1);
    if !state.exists {
        steps.push(Step::MakeDirectory);
    }
    // Before anything else, while they are still the same.
    steps.extend(state.copies.iter().copied().map(Step::Link));
    let mut linked = [state.links.as_slice(), state.copies.as_slice()].concat();
    linked.sort_unstable();
    if !state.foreign.is_empty() {
        // What readers see now becomes a generation first, so that no instant shows a mix.
        let number = if state.generations.is_empty() { 0 } else { next };
        next = number + 1;
        linked.extend(&state.foreign);
        linked.sort_unstable();
        steps.push(Step::Keep { number, names: linked.clone() });
        steps.push(Step::Switch { number });
        steps.extend(state.foreign.iter().copied().map(Step::Link));
    }
    steps.push(Step::Write { number: next });
    steps.extend(linked.iter().copied().filter(|name| !files.contains(name)).map(Step::Unlink));
    steps.push(Step::Switch { number: next });
    steps.extend(files.iter().copied().filter(|name| !linked.contains(name)).map(Step::Link));
    steps.extend(outdated(state, next, retention, now).into_iter().map(Step::Remove));
    (next, steps)
}

/// The generations that may go, if `current` is the current one. A generation above it never was current.
#[must_use]
pub fn outdated(state: &State, current: u64, retention: Retention, now: i64) -> Vec<u64> {
    let previous = state.current.as_ref().map(|current| current.number);
    let mut kept = 1;
    let mut outdated = Vec::new();
    // One is replaced when the next one is made.
    let mut replaced = now;
    for (number, made) in state.generations.iter().rev().copied().filter(|(number, _)| *number != current) {
        let was_current = previous.is_none_or(|previous| number <= previous);
        if was_current && (kept < retention.keep || Some(number) == previous || now - replaced < retention.min_age) {
            kept += 1;
        } else {
            outdated.push(number);
        }
        if was_current {
            replaced = made;
        }
    }
    outdated
}

#[cfg(test)]
mod tests {
    use FileName::{Cert, Chain, Fullchain, Privkey};
    use certdeploy_common::cert::Digest;

    use super::super::state::Current;
    use super::*;

    const KEEP: Retention = Retention { keep: 3, min_age: 60 };

    fn record(text: &str, not_before: i64, files: &[FileName]) -> Record {
        Record {
            digest: Digest::of(text.as_bytes()),
            files: files.to_vec(),
            serial: text.to_owned(),
            not_before,
            not_after: 100_000,
            names: std::collections::BTreeSet::new(),
            all: None,
            permissions: None,
            instead: None,
        }
    }

    fn deployed(record: Record) -> State {
        let files = vec![Cert, Fullchain, Privkey];
        State {
            exists: true,
            current: Some(Current { number: 4, record: Some(record), files: files.clone(), intact: true }),
            generations: vec![(1, 100), (2, 200), (3, 300), (4, 400)],
            links: files,
            copies: vec![],
            foreign: vec![],
        }
    }

    #[test]
    fn what_came_is_weighed_against_what_is_there() {
        let state = deployed(record("b", 20, &[Fullchain, Privkey]));
        let decide = |record: &Record, force| decide(&state, Wish { record, force, now: 1000 });
        let same = record("b", 20, &[Fullchain, Privkey]);
        assert_eq!(decide(&same, false), Decision::Unchanged);
        assert_eq!(decide(&same, true), Decision::UpdateAgain);
        assert_eq!(decide(&record("c", 30, &[Fullchain, Privkey]), false), Decision::Deploy);
        let older = record("a", 10, &[Fullchain, Privkey]);
        assert!(matches!(decide(&older, false), Decision::Refuse(why) if why.contains("older than the deployed")));
        assert_eq!(decide(&older, true), Decision::Deploy);
    }

    #[test]
    fn what_is_not_valid_yet_does_not_keep_out_what_is() {
        let state = deployed(record("from next year", 2000, &[Fullchain, Privkey]));
        let decide = |not_before, now| {
            let record = record("b", not_before, &[Fullchain, Privkey]);
            decide(&state, Wish { record: &record, force: false, now })
        };
        assert_eq!(decide(900, 1000), Decision::Deploy);
        assert!(matches!(decide(1900, 1000), Decision::Refuse(_)), "neither of them is valid yet");
        assert!(matches!(decide(900, 2000), Decision::Refuse(_)), "both are");
    }

    #[test]
    fn what_was_rolled_back_does_not_come_back_by_itself() {
        let mut put_back = record("a", 10, &[Fullchain, Privkey]);
        let unwanted = record("b", 20, &[Fullchain, Privkey]);
        put_back.instead = Some(unwanted.taken_out(3));
        let state = deployed(put_back.clone());
        let decide = |record: &Record, force| decide(&state, Wish { record, force, now: 1000 });
        assert!(matches!(decide(&unwanted, false), Decision::Refuse(why) if why.contains("rolled back")));
        assert_eq!(decide(&unwanted, true), Decision::Deploy);
        assert_eq!(decide(&record("c", 30, &[Fullchain, Privkey]), false), Decision::Deploy);
        let expired = State { current: state.current.clone(), ..deployed(put_back.clone()) };
        let wish = Wish { record: &unwanted, force: false, now: i64::MAX };
        assert_eq!(super::decide(&expired, wish), Decision::Deploy, "what is there has expired");
        let with_chain = Record { digest: Digest::of(b"b and chain"), ..unwanted.clone() };
        assert!(matches!(decide(&with_chain, false), Decision::Refuse(_)), "the same certificate");

        let mut further = record("0", 5, &[Fullchain, Privkey]);
        further.instead = Some(put_back.taken_out(1));
        let state = deployed(further);
        for one in [&unwanted, &put_back] {
            let wish = Wish { record: one, force: false, now: 1000 };
            assert!(matches!(super::decide(&state, wish), Decision::Refuse(why) if why.contains("rolled back")));
        }
    }

    #[test]
    fn the_same_files_are_deployed_again_when_somebody_has_been_at_them() {
        let same = record("b", 20, &[Fullchain, Privkey]);
        let wish = Wish { record: &same, force: false, now: 1000 };
        let mut touched = deployed(same.clone());
        touched.current.as_mut().unwrap().intact = false;
        assert_eq!(decide(&touched, wish), Decision::Deploy);
        let mut unlinked = deployed(same.clone());
        unlinked.links.pop();
        assert_eq!(decide(&unlinked, wish), Decision::Deploy);
        let mut foreign = deployed(same.clone());
        foreign.foreign.push(foreign.links.pop().unwrap());
        assert_eq!(decide(&foreign, wish), Decision::Deploy);
    }

    #[test]
    fn the_first_generation_and_the_next() {
        let (number, steps) = plan(&State::default(), &[Cert, Privkey], KEEP, 1000);
        assert_eq!(number, 1);
        let write = Step::Write { number: 1 };
        assert_eq!(
            steps,
            [Step::MakeDirectory, write, Step::Switch { number: 1 }, Step::Link(Cert), Step::Link(Privkey)]
        );
        let (number, steps) = plan(&deployed(record("b", 0, &[])), &[Chain, Fullchain, Privkey], KEEP, 1000);
        assert_eq!(number, 5);
        let (write, switch) = (Step::Write { number: 5 }, Step::Switch { number: 5 });
        assert_eq!(steps, [write, Step::Unlink(Cert), switch, Step::Link(Chain), Step::Remove(2), Step::Remove(1)]);
    }

    #[test]
    fn plain_files_become_a_generation_before_anything_changes() {
        let state = State { exists: true, foreign: vec![Fullchain, Privkey], ..State::default() };
        let (number, steps) = plan(&state, &[Cert, Fullchain, Privkey], KEEP, 0);
        assert_eq!(number, 1);
        assert_eq!(
            steps,
            [
                Step::Keep { number: 0, names: vec![Fullchain, Privkey] },
                Step::Switch { number: 0 },
                Step::Link(Fullchain),
                Step::Link(Privkey),
                Step::Write { number: 1 },
                Step::Switch { number: 1 },
                Step::Link(Cert),
            ]
        );
    }

    #[test]
    fn young_generations_stay_and_unfinished_ones_go() {
        let mut state = deployed(record("b", 0, &[]));
        state.generations.push((9, 990));
        assert_eq!(outdated(&state, 10, KEEP, 1000), [9, 2, 1]);
        assert_eq!(outdated(&state, 10, Retention { keep: 1, min_age: 1000 }, 1000), [9]);
        // 2 was replaced at 300, when 3 was made, and 1 at 200.
        assert_eq!(outdated(&state, 10, Retention { keep: 1, min_age: 700 }, 950), [9, 1]);
        assert_eq!(outdated(&state, 10, Retention { keep: 1, min_age: 0 }, 1000), [9, 3, 2, 1]);
    }
}
