//! What a job's accepted results stand on, put into a sentence.

use potluck_node::api::{AssuranceInfo, JobInfo};

use crate::print::count;

/// Who agrees, who of them is known for good work, what was checked beyond that, and who lied.
pub(crate) fn text(job: &JobInfo, found: &AssuranceInfo) -> String {
    let mut parts = vec![agreement(job, found)];
    if job.accepted > 0 && found.copies > 1 {
        parts.push(established(job, found));
    }
    if found.audited > 0 {
        let share = 100 * u64::from(found.audited) / u64::from(job.accepted.max(1));
        let units = count(found.audited, "unit");
        parts.push(format!("{units} ({share} %) audited by more copies than needed"));
    }
    if found.own > 0 && found.workers > 1 {
        parts.push(format!("this node ran {} itself", count(found.own, "unit")));
    }
    if found.convicted > 0 {
        let liars = count(found.convicted as u64, "peer");
        parts.push(format!("{liars} proven to have lied about it, whose word does not count"));
    }
    parts.join("; ")
}

fn agreement(job: &JobInfo, found: &AssuranceInfo) -> String {
    let copies = usize::from(found.copies);
    if job.accepted == 0 && found.workers < copies {
        let (workers, more) = (count(found.workers as u64, "worker"), copies - found.workers);
        return format!(
            "nothing is accepted yet: {copies} must agree on each unit, {workers} known, waiting for \
             {more} more"
        );
    }
    match (job.accepted, copies) {
        (0, 1) => "nothing is accepted yet: one copy of each unit will do".to_owned(),
        (0, copies) => format!("nothing is accepted yet: {copies} must agree on each unit"),
        (accepted, 1) if found.own >= accepted => {
            "run by this node alone: nobody cross-checked it".to_owned()
        }
        (_, 1) => {
            "one copy of each accepted unit, by one worker each: only audits and disputes check it"
                .to_owned()
        }
        (_, copies) => format!("{copies} of {copies} copies agree on every accepted unit"),
    }
}

fn established(job: &JobInfo, found: &AssuranceInfo) -> String {
    let workers = match found.workers {
        1 => "the only worker known".to_owned(),
        workers => format!("the {workers} workers"),
    };
    if found.established == 0 {
        let none =
            if found.workers == 1 { workers + " has no" } else { format!("none of {workers} has") };
        return format!("{none} standing here yet");
    }
    let of = format!(
        "{} of {workers} {}",
        found.established,
        if found.established == 1 { "has" } else { "have" }
    );
    let share = 100 * u64::from(found.with_established) / u64::from(job.accepted.max(1));
    format!("{of} standing here and spoke on {share} % of the accepted units")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::job;

    fn shown(accepted: u32, found: AssuranceInfo) -> String {
        text(&JobInfo { accepted, ..job("1", 1) }, &found)
    }

    fn of(copies: u8, workers: usize) -> AssuranceInfo {
        AssuranceInfo { copies, workers, ..AssuranceInfo::default() }
    }

    #[test]
    fn agreement_of_strangers_is_said_to_be_that() {
        let text = "2 of 2 copies agree on every accepted unit; none of the 3 workers has standing here yet";
        assert_eq!(shown(64, of(2, 3)), text);
    }

    #[test]
    fn who_has_standing_and_what_was_audited_is_counted() {
        let found = AssuranceInfo {
            established: 2,
            with_established: 60,
            audited: 5,
            convicted: 1,
            own: 7,
            ..of(2, 9)
        };
        let text = "2 of 2 copies agree on every accepted unit; 2 of the 9 workers have standing here and \
                    spoke on 93 % of the accepted units; 5 units (7 %) audited by more copies than \
                    needed; this node ran 7 units itself; 1 peer proven to have lied about it, whose \
                    word does not count";
        assert_eq!(shown(64, found), text);
    }

    #[test]
    fn what_nobody_else_ran_is_not_called_checked() {
        let found = AssuranceInfo { own: 64, ..of(1, 1) };
        assert_eq!(shown(64, found), "run by this node alone: nobody cross-checked it");
        assert!(shown(64, of(1, 3)).starts_with("one copy of each accepted unit"));
    }

    #[test]
    fn with_fewer_peers_than_copies_it_is_said_who_is_waited_for() {
        let text = "nothing is accepted yet: 4 must agree on each unit, 1 worker known, waiting for 3 more";
        assert_eq!(shown(0, of(4, 1)), text);
    }
}
