//! What this machine lends, and orders about it.

use axum::Json;
use axum::extract::{Query, State};
use potluck_peer::{Effect, Event, Order, Rules};
use potluck_unit::Time;
use serde::Deserialize;
use std::sync::Arc;

use super::Line;
use super::answers;
use super::api::{HeldUp, JobInfo, LendingInfo, LogLine, NodeInfo, Offer, RunningInfo};
use super::routes::{Failure, stopping};
use crate::hub::Hub;

type Answer<T> = Result<Json<T>, Failure>;

/// What is lent now.
pub(super) fn lending(hub: &Hub) -> LendingInfo {
    let (peer, lending) = (hub.peer(), hub.lending());
    let lent = peer.allowance();
    let rate = |per_s: u64| (per_s != Rules::UNLIMITED).then_some(per_s);
    let held_up = lent.reasons.iter().map(|reason| HeldUp {
        rule: reason.rule.key().to_owned(),
        what: match reason.rule.effect() {
            Effect::Compute => "units",
            Effect::Network => "network",
            Effect::Intake => "intake",
        }
        .to_owned(),
        says: reason.to_string(),
        until_ms: reason.until.map(|until| until.0),
    });
    let from = &lent.from;
    let sections = [
        ("slots", from.slots),
        ("cpu-percent", from.cpu_percent),
        ("memory", from.memory),
        ("upload", from.upload),
        ("download", from.download),
    ];
    let traffic = hub.traffic();
    LendingInfo {
        slots: lent.slots_now(),
        cpu_percent: lent.cpu_percent,
        memory_bytes: rate(lent.memory_bytes),
        disk_bytes: rate(lent.disk_bytes),
        disk_used_bytes: hub.disk_used(),
        upload_per_s: rate(lent.upload_per_s),
        download_per_s: rate(lent.download_per_s),
        from: sections.map(|(key, section)| (key.to_owned(), section.to_string())).into(),
        held_up: held_up.collect(),
        draining: lent.draining,
        released: lent.released,
        today_bytes: traffic.today().both(),
        month_bytes: traffic.month().both(),
        ever_bytes: traffic.ever().both(),
        config_error: lending.config_error.clone(),
        restart_needed: lending.restart_needed.clone(),
        running: running(hub),
    }
}

fn running(hub: &Hub) -> Vec<RunningInfo> {
    let info = |status: potluck_peer::SlotStatus| RunningInfo {
        slot: status.slot,
        job: status.job.to_string(),
        label: status.label,
        submitter: status.submitter.to_string(),
        since_ms: status.since.0,
        units_done: status.units_done,
        units_left: status.units_left,
        left_ms: status.left_us.map(|us| us / 1000),
        suspended: status.suspended,
    };
    hub.peer().running().into_iter().map(info).collect()
}

/// For how long to pause.
#[derive(Deserialize)]
pub(super) struct Pause {
    for_ms: Option<u64>,
}

/// Whether to stop when all is done.
#[derive(Deserialize)]
pub(super) struct Drain {
    #[serde(default)]
    exit: bool,
}

pub(super) async fn pause(
    State(line): State<Arc<Line>>,
    Query(pause): Query<Pause>,
) -> Answer<NodeInfo> {
    order(&line, move |now| Order::Pause { until: pause.for_ms.map(|ms| now.plus_ms(ms)) }).await
}

pub(super) async fn resume(State(line): State<Arc<Line>>) -> Answer<NodeInfo> {
    order(&line, |_| Order::Resume).await
}

pub(super) async fn drain(
    State(line): State<Arc<Line>>,
    Query(drain): Query<Drain>,
) -> Answer<NodeInfo> {
    order(&line, move |_| Order::Drain { exit: drain.exit }).await
}

async fn order(
    line: &Line,
    order: impl FnOnce(Time) -> Order + Send + 'static,
) -> Answer<NodeInfo> {
    let manner = line.manner;
    let told = line.ask(move |hub| {
        let order = order(hub.now());
        hub.note_order(order);
        hub.tell(Event::Order(order));
        answers::node(hub, manner)
    });
    told.await.map(Json).ok_or_else(stopping)
}

pub(super) async fn log(State(line): State<Arc<Line>>) -> Answer<Vec<LogLine>> {
    let lines = line.ask(|hub| {
        let line = |(at, says): &(Time, String)| LogLine { at_ms: at.0, says: says.clone() };
        hub.lending().log().map(line).collect()
    });
    lines.await.map(Json).ok_or_else(stopping)
}

/// Jobs that still want work, and whether this machine takes them.
pub(super) async fn offers(State(line): State<Arc<Line>>) -> Answer<Vec<Offer>> {
    let found = line.ask(|hub| {
        let offer = |id: &potluck_unit::JobId| {
            let job: JobInfo = answers::job(hub, id)?;
            let refused = hub.peer().choice(id)?.err().map(|refusal| refusal.to_string());
            (!job.closed && job.accepted + job.unrunnable < job.units)
                .then_some(Offer { job, refused })
        };
        hub.peer().jobs().iter().filter_map(offer).collect()
    });
    found.await.map(Json).ok_or_else(stopping)
}
