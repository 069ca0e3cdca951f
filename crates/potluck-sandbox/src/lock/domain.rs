//! The child's landlock domain: it can open no file, use no TCP port, and neither signal nor reach
//! a process outside, even by a system call that the filters let through.
//!
//! It covers what it is told to cover. Descriptors that are open already go on working, which is
//! how the pipes and the artefact do; the existence and size of files can still be asked for where
//! the filters allow that, and UDP is the filters' alone.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetStatus, Scope,
};

use crate::layers::{Layer, LayerKind, LayerState};

/// Enters the strictest domain that this kernel has: everything is handled and nothing allowed.
pub(super) fn enter() -> Layer {
    let entered = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    let (state, note) = match entered {
        Ok(status) => judge(&status),
        Err(error) => (LayerState::Missing, format!("the kernel refuses it: {error}")),
    };
    Layer::new(LayerKind::Domain, state, note)
}

fn judge(status: &RestrictionStatus) -> (LayerState, String) {
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        LandlockStatus::NotEnabled => {
            return (LayerState::Missing, "this kernel has it switched off".into());
        }
        LandlockStatus::NotImplemented => {
            return (LayerState::Missing, "this kernel has none".into());
        }
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return (LayerState::Missing, format!("ABI {abi} is there but does not hold"));
    }
    missing(abi).map_or_else(
        || {
            let what = "no files, no TCP, no signals or abstract sockets to other processes";
            (LayerState::Full, format!("ABI {abi}: {what}"))
        },
        |what| (LayerState::Partial, format!("this kernel's ABI {abi} does not cover {what}")),
    )
}

/// What a domain of this version leaves open of what we ask for.
fn missing(abi: ABI) -> Option<&'static str> {
    if abi >= ABI::V6 {
        None
    } else if abi >= ABI::V4 {
        Some("signals and abstract sockets")
    } else if abi >= ABI::V3 {
        Some("TCP, signals and abstract sockets")
    } else {
        Some("truncating files, TCP, signals and abstract sockets")
    }
}

/// The newest version whose rights are all known to us. Older kernels take what they know of it.
const KNOWN: ABI = ABI::V9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sixth_version_covers_everything() {
        assert_eq!(missing(ABI::V6), None);
        assert_eq!(missing(ABI::V9), None);
        assert_eq!(missing(ABI::V5), Some("signals and abstract sockets"));
        assert!(missing(ABI::V3).unwrap().starts_with("TCP"));
        assert!(missing(ABI::V1).unwrap().starts_with("truncating"));
    }
}
