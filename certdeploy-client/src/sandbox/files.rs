//! Landlock: of all files only what lies below one directory, or nothing at all; no TCP port, no signal to others. It
//! must not decide whether a process goes on without.

use std::os::fd::BorrowedFd;

use certdeploy_common::daemon::logging::causes;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest rights that are known here. ABI 9 would forbid the journal's socket.
const NEWEST: ABI = ABI::V6;

/// What the receiver does below its directory: reading, writing, making, renaming and removing plain files and
/// directories.
fn needed() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// Confines the calling thread, and all that it starts, to `below`. Returned is the ABI that is in force.
///
/// # Errors
/// What is missing, as the end of a sentence.
pub fn confine(below: Option<BorrowedFd<'_>>) -> Result<String, String> {
    let refused =
        |error: RulesetError| format!("{}; a filter around this service may lack the landlock_* calls", causes(&error));
    let status = restrict(below).map_err(refused)?;
    match (status.ruleset, status.landlock) {
        (
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            LandlockStatus::Available { effective_abi, kernel_abi },
        ) => Ok(kernel_abi.map_or_else(|| effective_abi.to_string(), |abi| abi.to_string())),
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Err(format!("its ABI {effective_abi} knows no renames between directories, Linux 5.19 does"))
        }
        (_, LandlockStatus::NotEnabled) => {
            Err("it is not switched on: add `landlock` to the kernel's `lsm=`".to_owned())
        }
        (_, LandlockStatus::NotImplemented) => {
            Err("this kernel, or a filter around this service, does not have it; Linux 5.19 does".to_owned())
        }
    }
}

fn restrict(below: Option<BorrowedFd<'_>>) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default();
    if below.is_some() {
        // Where this right is not known, what it is about is always forbidden: uploads could not be completed.
        rules = rules.set_compatibility(CompatLevel::SoftRequirement).handle_access(AccessFs::Refer)?;
    }
    let rules = rules
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    match below {
        Some(directory) => rules.add_rule(PathBeneath::new(directory, needed()))?.restrict_self(),
        None => rules.restrict_self(),
    }
}
