//! What the oracle takes for granted of the protocol: the one place to change when the protocol does.

use std::collections::{BTreeMap, BTreeSet};

use potluck_peer::{Peer, Verdict, Word};
use potluck_unit::{JobId, PeerId, Record, ResultHash};

use crate::work::Task;

/// Up to so many workers everybody is called to settle disputes.
const SMALL_GRID: u32 = 8;
/// Proven lies after which nothing a peer says counts.
const STRIKES: usize = 3;
/// How often a machine runs a unit in one life: anew where nobody bears out what it found, before it
/// convicts.
const RUNS_MAX: usize = 2;

/// Machines that can't run a unit after which it may be given up.
pub(crate) const GIVE_UPS: usize = 3;

/// Whom a peer has convicted.
pub(crate) fn convicted(peer: &Peer) -> BTreeSet<PeerId> {
    peer.convictions().iter().map(|conviction| conviction.peer).collect()
}

/// Who supports a result with a word that counts.
pub(crate) fn supporters(words: &[Word], result: ResultHash) -> BTreeSet<PeerId> {
    let support = |word: &&Word| word.counts && word.said == Ok(result);
    words.iter().filter(support).map(|word| word.peer).collect()
}

/// Whether two peers that hold the same records must decide the same: they believe the same people.
/// A strike counts in its job, and three count everywhere.
pub(crate) fn think_alike(one: &Peer, two: &Peer) -> bool {
    let struck = |peer: &Peer| {
        let mut strikes: BTreeMap<PeerId, (BTreeSet<JobId>, usize)> = BTreeMap::new();
        for conviction in peer.convictions() {
            let (jobs, times) = strikes.entry(conviction.peer).or_default();
            jobs.insert(conviction.job);
            *times = (*times + 1).min(STRIKES);
        }
        strikes.into_iter().map(|(peer, (jobs, times))| (peer, (jobs, times == STRIKES)))
    };
    struck(one).eq(struck(two))
}

/// Of whom a peer can be unsure in a job: whom it convicted, whose word counts where it found the same
/// itself, unless it turns out to say both; and everybody whom somebody contradicts somewhere. Who is
/// not called to settle that goes by what a great majority says, and takes no more word of the others;
/// who is called waits until it knows. So both may differ on every unit of which those have spoken.
pub(crate) fn unsure(peer: &Peer, job: &JobId) -> BTreeSet<PeerId> {
    let units = peer.job_record(job).map_or(0, |job| job.units);
    let mut unsure = convicted(peer);
    for index in 0..units {
        let words = peer.unit(job, index).map_or_else(Vec::new, |unit| unit.words);
        if is_contradicted(&words) {
            unsure.extend(words.iter().filter(|one| one.said.is_ok()).map(|one| one.peer));
        }
    }
    unsure
}

fn is_contradicted(words: &[Word]) -> bool {
    let said: BTreeSet<ResultHash> = words.iter().filter_map(|word| word.said.ok()).collect();
    said.len() > 1
}

/// Whether a peer's own experience is part of its verdict on a unit, so that another may differ: it
/// found itself what somebody said whom it convicted, it tried in vain to settle a dispute, or one of
/// the two is called to settle what the other is not. In a large grid such a unit makes windows wider
/// for all others too.
pub(crate) fn own_view(
    words: &[Word],
    small: bool,
    unsure: &BTreeSet<PeerId>,
    two: [PeerId; 2],
) -> bool {
    let in_vain = |word: &Word| word.said.is_err() && two.contains(&word.peer);
    let own = |word: &Word| unsure.contains(&word.peer) || in_vain(word);
    (!small && !unsure.is_empty()) || words.iter().any(own)
}

/// Whether a machine that has run a unit so many times in this life may run it again: others say
/// something of it that it must hold against its own machine first, or what it found is lost.
pub(crate) fn may_run_again(words: &[Word], me: &PeerId, times: usize, lost: bool) -> bool {
    lost || (times < RUNS_MAX && words.iter().any(|word| word.peer != *me && word.said.is_ok()))
}

/// Whether every honest submitter of a job learns who lied about it: in a small grid, where everybody
/// is called to settle. In a large one it may go by what a great majority says.
pub(crate) fn settles_itself(task: &Task) -> bool {
    match task.record.record() {
        Record::Job(job) => job.peers <= SMALL_GRID,
        Record::Claim(_)
        | Record::Receipts(_)
        | Record::Close(_)
        | Record::Proof(_)
        | Record::Contact(_) => false,
    }
}

/// Whether two verdicts on the same records of peers that think alike may stand side by side: whether
/// a unit is given up depends on how many workers a peer knows of.
pub(crate) fn agree(one: Option<Verdict>, two: Option<Verdict>) -> bool {
    let gave_up = |verdict| matches!(verdict, Some(Verdict::Unrunnable(_)));
    one == two || gave_up(one) || gave_up(two)
}

/// Whether an accepted result may be given up: somebody was convicted since, somebody dissents, or
/// one is unsure of whom to believe: of who spoke of this unit, or in a large grid of anybody, since
/// windows are as wide as what those in good faith have done.
pub(crate) fn may_reopen(
    words: &[Word],
    convictions_since: usize,
    small: bool,
    unsure: impl FnOnce() -> BTreeSet<PeerId>,
) -> bool {
    convictions_since > 0 || is_contradicted(words) || {
        let unsure = unsure();
        let large = !small && !unsure.is_empty();
        large || words.iter().any(|word| unsure.contains(&word.peer))
    }
}

/// Whether an accepted result may be in doubt after a restart: a convicted peer said it too, or one in
/// doubt, and that counts only with who found the same, which a crash may have come before it was
/// signed.
pub(crate) fn may_forget(words: &[Word], result: ResultHash, unsure: &BTreeSet<PeerId>) -> bool {
    words.iter().any(|word| word.said == Ok(result) && unsure.contains(&word.peer))
}

/// Whether a peer decides on a job, or only watches: who lends nothing settles no disputes but those
/// of its own jobs.
pub(crate) fn decides(slots: u16, submitted: bool) -> bool {
    slots > 0 || submitted
}

/// The result that a peer's user would take for final now.
pub(crate) fn taken(peer: &Peer, job: &JobId, index: u32) -> Option<ResultHash> {
    match peer.verdict(job, index)? {
        Verdict::Accepted(result) => Some(result),
        Verdict::Open | Verdict::Partial(_) | Verdict::Disputed | Verdict::Unrunnable(_) => None,
    }
}
