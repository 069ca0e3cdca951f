//! The rule: what the voices on one unit amount to. Pure, and blind to order.

use potluck_unit::{NoResult, ResultHash};

/// What a set of receipts on one unit amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody whose word counts has spoken.
    Open,
    /// Too few have spoken, and who spoke agrees.
    Partial(ResultHash),
    /// There are contradicting results.
    Disputed,
    /// k distinct peers agree by right of their seats and nobody contradicts.
    Accepted(ResultHash),
    /// No result anywhere, and as many peers as matter have tried.
    Unrunnable(NoResult),
}

/// One peer's word on one unit, if it counts at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Voice {
    /// R.
    pub(crate) result: ResultHash,
    /// The level from which on it has a seat by the public lottery.
    pub(crate) public: u8,
    /// The level from which on it has one by the secret lottery.
    pub(crate) drawn: u8,
    /// Whether it may support a result: newcomers may not, once most others are established.
    pub(crate) known: bool,
}

/// What the rule goes by beside the voices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// k.
    pub(crate) copies: usize,
    /// How wide the public windows are.
    pub(crate) level: u8,
    /// How wide the secret windows are.
    pub(crate) drawn_level: u8,
    /// How many peers could run it at all.
    pub(crate) workers: usize,
}

/// One peer's run without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GaveUp {
    /// Why.
    pub(crate) why: NoResult,
    /// Whether it came to a result with any unit of the job: who never does may be at fault itself.
    pub(crate) able: bool,
}

/// What three peers could not do that can do others, a fourth need not try.
pub(crate) const GAVE_UP_MAX: usize = 3;
/// The same where it is not known what they can do.
pub(crate) const GAVE_UP_ANY_MAX: usize = 8;
/// By how many voices a result must lead in the eyes of who neither ran the unit nor is called to.
pub(crate) const LEAD: usize = 3;

/// The verdict on a unit with these voices and these runs without a result.
pub(crate) fn verdict(voices: &[Voice], gave_up: &[GaveUp], rule: &Rule) -> Verdict {
    let first = voices.first().map(|voice| voice.result);
    if voices.iter().any(|voice| Some(voice.result) != first) {
        return Verdict::Disputed;
    }
    if let Some(result) = first.filter(|_| is_quorum(voices, rule)) {
        return Verdict::Accepted(result);
    }
    // The lowest reason, so that the order of arrival does not matter.
    let able = gave_up.iter().filter(|gave_up| gave_up.able).count();
    let enough = able >= GAVE_UP_MAX
        || gave_up.len() >= GAVE_UP_ANY_MAX
        || gave_up.len() + voices.len() >= rule.workers;
    if let Some(why) = gave_up.iter().map(|gave_up| gave_up.why).min().filter(|_| enough) {
        return Verdict::Unrunnable(why);
    }
    first.map_or(Verdict::Open, Verdict::Partial)
}

/// Whether these voices, which agree, are enough: k with a seat, of which one may be by the public
/// lottery alone, and one at least of a peer that is known.
pub(crate) fn is_quorum(voices: &[Voice], rule: &Rule) -> bool {
    let drawn = voices.iter().filter(|voice| voice.drawn <= rule.drawn_level).count();
    let public_only = |voice: &&Voice| voice.drawn > rule.drawn_level && voice.public <= rule.level;
    let public = voices.iter().filter(public_only).count();
    drawn + public.min(1) >= rule.copies && voices.iter().any(|voice| voice.known)
}

/// Whether some of these voices that agree are a quorum, whatever others say.
pub(crate) fn has_quorum(voices: &[Voice], rule: &Rule) -> bool {
    voices.iter().any(|one| {
        let alike: Vec<Voice> =
            voices.iter().filter(|voice| voice.result == one.result).copied().collect();
        is_quorum(&alike, rule)
    })
}

/// The result of a dispute for a peer that can't tell who lies: one on which at least k agree, and
/// that many more than contradict. It convicts nobody by this. None if there is none.
pub(crate) fn majority(results: &[ResultHash], copies: usize, lead: usize) -> Option<ResultHash> {
    let times = |result: ResultHash| results.iter().filter(|other| **other == result).count();
    let leads = |result: &&ResultHash| {
        let agree = times(**result);
        agree >= copies && agree >= (results.len() - agree) + lead
    };
    results.iter().find(leads).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seats::LEVEL_MAX;

    const NONE: u8 = LEVEL_MAX + 1;

    fn result(n: u8) -> ResultHash {
        ResultHash([n; 16])
    }

    fn voice(said: u8, public: u8, drawn: u8) -> Voice {
        Voice { result: result(said), public, drawn, known: true }
    }

    fn rule(copies: usize, level: u8) -> Rule {
        Rule { copies, level, drawn_level: level, workers: 5 }
    }

    fn check(votes: &[u8], gave_up: usize, copies: usize, workers: usize, expected: Verdict) {
        let voices: Vec<_> = votes.iter().map(|said| voice(*said, 0, 0)).collect();
        let gave_up = vec![GaveUp { why: NoResult::Deadline, able: true }; gave_up];
        assert_eq!(verdict(&voices, &gave_up, &Rule { workers, ..rule(copies, 0) }), expected);
    }

    #[test]
    fn a_result_needs_k_voices_and_no_dissent() {
        check(&[], 0, 2, 5, Verdict::Open);
        check(&[1], 0, 2, 5, Verdict::Partial(result(1)));
        check(&[1, 1], 0, 2, 5, Verdict::Accepted(result(1)));
        check(&[1, 2], 0, 2, 5, Verdict::Disputed);
        check(&[1, 1, 1, 2], 0, 2, 5, Verdict::Disputed);
        check(&[1], 0, 1, 5, Verdict::Accepted(result(1)));
    }

    #[test]
    fn a_unit_is_unrunnable_when_three_gave_up_or_nobody_is_left_to_try() {
        check(&[], 2, 2, 5, Verdict::Open);
        check(&[], 3, 2, 5, Verdict::Unrunnable(NoResult::Deadline));
        check(&[], 2, 2, 2, Verdict::Unrunnable(NoResult::Deadline));
        check(&[1], 1, 2, 2, Verdict::Unrunnable(NoResult::Deadline));
        check(&[1], 1, 2, 3, Verdict::Partial(result(1)));
        check(&[1, 1], 3, 2, 5, Verdict::Accepted(result(1)));
    }

    #[test]
    fn who_never_comes_to_a_result_ends_a_unit_only_together_with_many() {
        let gave_up = |able: usize, others: usize| {
            let one = |able| GaveUp { why: NoResult::HostMemory, able };
            let all: Vec<GaveUp> = std::iter::repeat_n(one(true), able)
                .chain(std::iter::repeat_n(one(false), others))
                .collect();
            verdict(&[], &all, &Rule { workers: 100, ..rule(1, 0) })
        };
        assert_eq!(gave_up(2, GAVE_UP_ANY_MAX - 3), Verdict::Open);
        assert_eq!(gave_up(3, 0), Verdict::Unrunnable(NoResult::HostMemory));
        assert_eq!(gave_up(0, GAVE_UP_ANY_MAX), Verdict::Unrunnable(NoResult::HostMemory));
    }

    #[test]
    fn of_a_quorum_one_voice_at_most_goes_by_the_public_lottery() {
        let quorum = |voices: &[Voice], copies| is_quorum(voices, &rule(copies, 0));
        assert!(quorum(&[voice(1, 0, NONE)], 1));
        assert!(!quorum(&[voice(1, 0, NONE), voice(1, 0, NONE)], 2));
        assert!(quorum(&[voice(1, 0, NONE), voice(1, NONE, 0)], 2));
        assert!(quorum(&[voice(1, NONE, 0), voice(1, NONE, 0)], 2));
        assert!(!quorum(&[voice(1, 0, 0)], 2), "one peer is one voice");
    }

    #[test]
    fn who_has_no_seat_yet_gets_one_when_windows_widen() {
        let voices = [voice(1, 3, NONE), voice(1, NONE, 2)];
        assert!(!is_quorum(&voices, &rule(2, 2)));
        assert!(is_quorum(&voices, &rule(2, 3)));
    }

    #[test]
    fn newcomers_alone_are_no_quorum_where_others_are_known() {
        let newcomer = Voice { known: false, ..voice(1, 0, 0) };
        assert!(!is_quorum(&[newcomer, newcomer], &rule(2, 0)));
        assert!(is_quorum(&[newcomer, voice(1, 0, 0)], &rule(2, 0)));
    }

    #[test]
    fn a_majority_must_lead() {
        let of = |said: &[u8]| said.iter().map(|n| result(*n)).collect::<Vec<_>>();
        assert_eq!(majority(&of(&[1, 1, 2]), 2, 1), Some(result(1)));
        assert_eq!(majority(&of(&[1, 1, 2, 2]), 2, 1), None);
        assert_eq!(majority(&of(&[1, 2, 3]), 1, 1), None);
        assert_eq!(majority(&of(&[1, 1, 1, 2]), 2, LEAD), None);
        assert_eq!(majority(&of(&[2, 1, 1, 1, 1]), 2, LEAD), Some(result(1)));
    }
}
