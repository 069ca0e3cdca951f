//! Which system calls a child may make, and with which arguments.
//!
//! Anything else kills the process on the spot, and so does a call of another architecture or of
//! the x32 kind: no honest child makes one, and one that is broken into learns nothing from an
//! error. A few calls that the standard library and libc make in good faith, with a way to go on
//! without, are refused with an error instead ([`REFUSED`]).
//!
//! Filters stack: the strictest word counts, and none is ever taken back. So the two words a
//! filter can say, of three that are needed, are said by two filters.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Stage;
use crate::layers::{Layer, LayerKind, LayerState};

/// Puts the filter of this stage on every thread of the process.
pub(super) fn filter(stage: Stage) -> Layer {
    let kind = LayerKind::Calls;
    match install(stage) {
        Ok(calls) => {
            let note = format!("{calls} calls, none that opens, sends, forks or runs a program");
            Layer::new(kind, LayerState::Full, note)
        }
        Err(why) => Layer::new(kind, LayerState::Missing, why),
    }
}

/// Answers how many calls are left.
fn install(stage: Stage) -> Result<usize, String> {
    let failed = |error: seccompiler::Error| format!("the kernel refuses it: {error}");
    let allowed = allowed(stage);
    let calls = allowed.len();
    // The refusals of the first stage hold in those that follow.
    if stage != Stage::Serve {
        let refused = REFUSED.map(|call| (call, Anyhow)).to_vec();
        let refuse = SeccompAction::Errno(libc::EACCES.unsigned_abs());
        let program = program(refused, SeccompAction::Allow, refuse)?;
        seccompiler::apply_filter_all_threads(&program).map_err(failed)?;
    }
    let everything = allowed.into_iter().chain(REFUSED.map(|call| (call, Anyhow))).collect();
    let program = program(everything, SeccompAction::KillProcess, SeccompAction::Allow)?;
    seccompiler::apply_filter_all_threads(&program).map_err(failed)?;
    Ok(calls)
}

/// How a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// With any arguments.
    Anyhow,
    /// With none of these bits in the argument of this number.
    Without(u8, u64),
    /// With exactly these, as argument number and value.
    With(&'static [(u8, u64)]),
    /// As a signal to abort, sent to this very process.
    Aborting,
}

use Manner::{Aborting, Anyhow, With, Without};

/// What guests' code and the loop around it need: to move bytes through the pipes that are open
/// already, to take and give back memory that cannot be executed, and to end.
const SERVE: &[(c_long, Manner)] = &[
    (libc::SYS_read, Anyhow),
    (libc::SYS_write, Anyhow),
    (libc::SYS_readv, Anyhow),
    (libc::SYS_writev, Anyhow),
    (libc::SYS_mmap, Without(2, PROT_EXEC)),
    (libc::SYS_mprotect, Without(2, PROT_EXEC)),
    (libc::SYS_mremap, Anyhow),
    (libc::SYS_munmap, Anyhow),
    (libc::SYS_madvise, Anyhow),
    (libc::SYS_brk, Anyhow),
    (libc::SYS_futex, Anyhow),
    (libc::SYS_sched_yield, Anyhow),
    (libc::SYS_clock_gettime, Anyhow),
    (libc::SYS_restart_syscall, Anyhow),
    (libc::SYS_rt_sigreturn, Anyhow),
    (libc::SYS_rt_sigprocmask, Anyhow),
    (libc::SYS_sigaltstack, Anyhow),
    (libc::SYS_exit, Anyhow),
    (libc::SYS_exit_group, Anyhow),
    // A program whose allocation is refused aborts: that tells the parent more than a bad call.
    (libc::SYS_getpid, Anyhow),
    (libc::SYS_gettid, Anyhow),
    (libc::SYS_tgkill, Aborting),
];

/// What an engine asks for when it is made, beside [`SERVE`].
const START: &[(c_long, Manner)] = &[
    (libc::SYS_getrandom, Anyhow),
    (libc::SYS_rt_sigaction, Anyhow),
    (libc::SYS_close, Anyhow),
    // A build with assertions looks whether what it closes is open.
    #[cfg(debug_assertions)]
    (libc::SYS_fcntl, With(&[(1, F_GETFD)])),
    // How many processors there are, asked of this thread only.
    (libc::SYS_sched_getaffinity, With(&[(0, 0)])),
];

/// What loading an artefact takes, beside [`START`]: its file, executable memory, and the filter
/// of the next stage.
const LOAD: &[(c_long, Manner)] = &[
    (libc::SYS_mmap, Anyhow),
    (libc::SYS_mprotect, Anyhow),
    (libc::SYS_statx, Anyhow),
    (libc::SYS_fstat, Anyhow),
    (libc::SYS_newfstatat, Anyhow),
    // Other processors must not run old instructions: only ARM needs to ask for that.
    #[cfg(target_arch = "aarch64")]
    (libc::SYS_membarrier, Anyhow),
    (libc::SYS_prctl, With(&[(0, PR_SET_NO_NEW_PRIVS), (1, 1)])),
    (libc::SYS_seccomp, With(&[(0, SECCOMP_SET_MODE_FILTER)])),
];

/// Opening files: to count processors in a container, and libc to learn how memory is granted
/// before it gives some back. Both go on without.
const REFUSED: [c_long; REFUSED_CALLS] = [
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
];

/// Every call of a stage once, in its freest manner.
fn allowed(stage: Stage) -> Vec<(c_long, Manner)> {
    let parts: &[&[(c_long, Manner)]] = match stage {
        Stage::Compile => &[START, SERVE],
        Stage::Load => &[LOAD, START, SERVE],
        Stage::Serve => &[SERVE],
    };
    let mut allowed: Vec<(c_long, Manner)> = Vec::new();
    for (call, manner) in parts.iter().copied().flatten() {
        if !allowed.iter().any(|(known, _)| known == call) {
            allowed.push((*call, *manner));
        }
    }
    allowed
}

/// A filter that says `matched` of these calls and `otherwise` of all others.
fn program(
    calls: Vec<(c_long, Manner)>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, String> {
    let wrong = |error: seccompiler::BackendError| format!("the filter cannot be made: {error}");
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, manner) in calls {
        let conditions = conditions(manner).map_err(wrong)?;
        // No rule at all means: whatever the arguments.
        let rule = (!conditions.is_empty()).then(|| SeccompRule::new(conditions)).transpose();
        rules.insert(call, rule.map_err(wrong)?.into_iter().collect());
    }
    let filter = SeccompFilter::new(rules, otherwise, matched, ARCH).map_err(wrong)?;
    filter.try_into().map_err(wrong)
}

/// Only the lower half of an argument is compared: no bit above it means anything to the kernel in
/// those that are.
fn conditions(manner: Manner) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let is = |argument, comparison, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, comparison, value)
    };
    match manner {
        Anyhow => Ok(Vec::new()),
        Without(argument, bits) => Ok(vec![is(argument, SeccompCmpOp::MaskedEq(bits), 0)?]),
        With(arguments) => {
            arguments.iter().map(|(number, value)| is(*number, SeccompCmpOp::Eq, *value)).collect()
        }
        Aborting => Ok(vec![
            is(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?,
            is(2, SeccompCmpOp::Eq, SIGABRT)?,
        ]),
    }
}

const PROT_EXEC: u64 = libc::PROT_EXEC as u64;
#[cfg(debug_assertions)]
const F_GETFD: u64 = libc::F_GETFD as u64;
const PR_SET_NO_NEW_PRIVS: u64 = libc::PR_SET_NO_NEW_PRIVS as u64;
const SECCOMP_SET_MODE_FILTER: u64 = libc::SECCOMP_SET_MODE_FILTER as u64;
const SIGABRT: u64 = libc::SIGABRT as u64;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;
/// The old calls beside the new: only x86 has them.
const REFUSED_CALLS: usize = if cfg!(target_arch = "x86_64") { 2 } else { 1 };

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 3] = [Stage::Compile, Stage::Load, Stage::Serve];

    #[test]
    fn every_stage_makes_a_filter() {
        for stage in STAGES {
            let made = program(allowed(stage), SeccompAction::KillProcess, SeccompAction::Allow);
            assert!(made.is_ok(), "{stage:?}: {made:?}");
        }
    }

    #[test]
    fn a_stage_that_follows_only_takes_away() {
        let load = allowed(Stage::Load);
        for (call, _) in allowed(Stage::Serve) {
            assert!(load.iter().any(|(known, _)| *known == call), "{call}");
        }
    }

    #[test]
    fn only_loading_makes_memory_executable() {
        for stage in STAGES {
            let manner = |call| allowed(stage).into_iter().find(|known| known.0 == call).unwrap().1;
            let expected = if stage == Stage::Load { Anyhow } else { Without(2, PROT_EXEC) };
            assert_eq!(manner(libc::SYS_mmap), expected, "{stage:?}");
            assert_eq!(manner(libc::SYS_mprotect), expected, "{stage:?}");
        }
    }

    #[test]
    fn what_is_refused_is_never_allowed() {
        for stage in STAGES {
            assert!(allowed(stage).iter().all(|(call, _)| !REFUSED.contains(call)), "{stage:?}");
        }
    }
}
