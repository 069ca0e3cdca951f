//! What the loop knows, put into the words of the control interface.

use potluck_peer::{JobStatus, Level, UnitStatus, Verdict, Word};
use potluck_unit::{Job, JobId, NoResult, Quality, Record, ResultHash};

use super::Manner;
use super::api::{
    AssuranceInfo, ConvictionInfo, JobInfo, NodeInfo, PeerInfo, StatementInfo, UnitInfo,
};
use crate::AGENT;
use crate::hub::Hub;

/// This node.
pub(super) fn node(hub: &Hub, manner: Manner) -> NodeInfo {
    let (peer, stats) = (hub.peer(), hub.net().stats());
    NodeInfo {
        id: peer.id().to_string(),
        agent: AGENT.to_owned(),
        listen: hub.net().local_address(),
        open: manner.open,
        slots: manner.slots,
        slots_busy: u16::try_from(peer.slots_busy()).unwrap_or(u16::MAX),
        neighbours: peer.neighbours(),
        workers: peer.workers(),
        units_run: peer.units_run(),
        bytes_sent: stats.wire_bytes_sent,
        bytes_received: stats.wire_bytes_received,
        bytes_on_disk: hub.store().usage(),
        idle_reason: peer.idle_reason(hub.now()),
        lending: super::lending::lending(hub),
        unreachable: unreachable(hub),
    }
}

fn unreachable(hub: &Hub) -> Vec<(String, String)> {
    let failed = |join: &crate::hub::JoinState| Some((join.written.clone(), join.error.clone()?));
    hub.joins().iter().filter_map(failed).collect()
}

/// Everybody heard of.
pub(super) fn peers(hub: &Hub) -> Vec<PeerInfo> {
    let stats = hub.net().stats();
    let info = |status: potluck_peer::PeerStatus| {
        let neighbour = stats.neighbours.get(&status.peer);
        PeerInfo {
            id: status.peer.to_string(),
            addresses: status.addresses,
            connected: status.connected,
            seen_at: neighbour.map(|neighbour| neighbour.address),
            rtt_ms: neighbour.map(|neighbour| neighbour.rtt.as_secs_f64() * 1000.0),
            bytes_sent: neighbour.map(|neighbour| neighbour.moved.sent),
            bytes_received: neighbour.map(|neighbour| neighbour.moved.received),
            slots: status.slots,
            agent: status.agent,
            nickname: status.nickname,
            team: status.team,
            convicted: status.convicted,
            standing: level(status.standing).to_owned(),
            credit: status.credit,
            strikes: status.strikes,
        }
    };
    hub.peer().peers().into_iter().map(info).collect()
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Newcomer => "newcomer",
        Level::Established => "established",
        Level::Veteran => "veteran",
    }
}

/// Every proof of a lie.
pub(super) fn convictions(hub: &Hub) -> Vec<ConvictionInfo> {
    let info = |conviction: potluck_peer::Conviction| ConvictionInfo {
        peer: conviction.peer.to_string(),
        job: conviction.job.to_string(),
        unit: conviction.index,
        said: conviction.said.to_string(),
        found: conviction.found.to_string(),
        record: conviction.record.to_string(),
        receipts_held: hub.peer().receipts_of(&conviction.peer).len(),
    };
    hub.peer().convictions().into_iter().map(info).collect()
}

/// A job.
pub(super) fn job(hub: &Hub, id: &JobId) -> Option<JobInfo> {
    let status = hub.peer().job(id)?;
    let Record::Job(job) = status.record.record() else { return None };
    let liars = hub.peer().convictions();
    let liars = liars.iter().filter(|conviction| conviction.job == *id);
    let counts = status.counts;
    let expired = job.expires <= hub.now();
    let all_here = !status.collect || counts.fetched == counts.accepted;
    Some(JobInfo {
        id: id.to_string(),
        label: job.label.clone(),
        submitter: status.record.signer().to_string(),
        created_ms: job.created.0,
        expires_ms: job.expires.0,
        units: job.units,
        copies: job.copies,
        quality: quality(job.quality).to_owned(),
        priority: job.priority,
        peers: job.peers,
        accepted: counts.accepted,
        finals: counts.finals,
        partial: counts.partial,
        disputed: counts.disputed,
        unrunnable: counts.unrunnable,
        fetched: counts.fetched,
        keepers: status.keepers,
        workers: status.workers,
        finished: status.closed || expired || (status.settled && all_here),
        closed: status.closed || expired,
        waiting_for: waiting_for(hub, &status, job),
        liars: liars.map(|conviction| conviction.peer.to_string()).collect(),
        assurance: None,
    })
}

/// A job with what its accepted results stand on.
pub(super) fn job_with_assurance(hub: &Hub, id: &JobId) -> Option<JobInfo> {
    let found = hub.peer().assurance(id)?;
    let assurance = AssuranceInfo {
        copies: found.copies,
        established: found.established,
        workers: found.workers,
        with_established: found.with_established,
        audited: found.audited,
        young: found.young,
        convicted: found.convicted,
        own: found.own,
    };
    Some(JobInfo { assurance: Some(assurance), ..job(hub, id)? })
}

fn quality(quality: Quality) -> &'static str {
    match quality {
        Quality::Bulk => "bulk",
        Quality::Standard => "standard",
        Quality::Critical => "critical",
    }
}

/// What a job is waiting for, in sentences.
fn waiting_for(hub: &Hub, status: &JobStatus, job: &Job) -> Vec<String> {
    let mut reasons = Vec::new();
    let counts = status.counts;
    if status.closed {
        return reasons;
    }
    if !status.settled && status.neighbours == 0 {
        reasons.push("no other peer is connected".to_owned());
        let unreachable = unreachable(hub).into_iter();
        reasons.extend(unreachable.map(|(join, why)| format!("{join} cannot be reached: {why}")));
    }
    if !status.settled && status.workers < usize::from(job.copies) {
        let copies = match job.copies {
            1 => "one worker".to_owned(),
            copies => format!("{copies} distinct workers"),
        };
        let workers = status.workers;
        reasons.push(format!("each unit needs {copies}, and this node knows of {workers}"));
    }
    if counts.disputed > 0 {
        let units = plural(counts.disputed, "unit is", "units are");
        reasons.push(format!("{units} contradicted and being run again"));
    }
    if status.settled && status.collect && counts.fetched < counts.accepted {
        let units = plural(counts.accepted - counts.fetched, "outcome is", "outcomes are");
        reasons.push(format!("{units} still to be fetched"));
    }
    reasons
}

fn plural(count: u32, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A unit.
pub(super) fn unit(hub: &Hub, id: &JobId, index: u32) -> Option<UnitInfo> {
    let UnitStatus { verdict, words, .. } = hub.peer().unit(id, index)?;
    let (state, result) = match verdict {
        Verdict::Open => ("open", None),
        Verdict::Partial(result) => ("partial", Some(result)),
        Verdict::Disputed => ("disputed", None),
        Verdict::Accepted(result) => ("accepted", Some(result)),
        Verdict::Unrunnable(_) => ("unrunnable", None),
    };
    Some(UnitInfo {
        index,
        state: state.to_owned(),
        result: result.map(|result| result.to_string()),
        receipts: words.into_iter().map(statement).collect(),
    })
}

fn statement(word: Word) -> StatementInfo {
    StatementInfo {
        peer: word.peer.to_string(),
        result: word.said.ok().map(|result| result.to_string()),
        no_result: word.said.err().map(|why| why.as_str().to_owned()),
        counts: word.counts,
    }
}

/// Where the outcome of a unit stands, before the disk is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standing {
    Pending,
    Accepted(ResultHash),
    Unrunnable(NoResult),
}

/// Where the outcome of a unit stands.
pub(super) fn standing(hub: &Hub, id: &JobId, index: u32) -> Standing {
    match hub.peer().verdict(id, index) {
        Some(Verdict::Accepted(result)) => Standing::Accepted(result),
        Some(Verdict::Unrunnable(why)) => Standing::Unrunnable(why),
        Some(Verdict::Open | Verdict::Partial(_) | Verdict::Disputed) | None => Standing::Pending,
    }
}
