//! The requests of the control interface.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::channel::Channel;
use potluck_peer::Event;
use potluck_unit::{BlobId, InputIndex, Job, JobId, Record, ResultHash, Row, Signed};
use serde::Deserialize;
use tokio::sync::broadcast;

use super::Line;
use super::answers::{self, Standing};
use super::api::{
    ConvictionInfo, JobInfo, NodeInfo, PeerInfo, Refused, RefusedCode, ResultFrame, ResultState,
    UnitInfo,
};
use super::evidence::evidence;
use crate::net::Wanted;
use crate::store::Store;

/// The largest blob a user posts: a module, or a page with one row of the largest size.
const BLOB_BYTES_MAX: usize = if Row::BYTES_MAX > Job::MODULE_BYTES_MAX as usize {
    Row::BYTES_MAX
} else {
    Job::MODULE_BYTES_MAX as usize
} + (1 << 20);
/// Units in one answer.
const UNITS_MAX: u32 = 4096;
/// Bytes of bodies in one answer, the last one on top; who needs more asks again from there.
const RESULTS_BYTES_MAX: usize = 16 << 20;
/// A watcher is told of changes at most this often.
const WATCH_EVERY: Duration = Duration::from_millis(100);

type Answer<T> = Result<Json<T>, Failure>;

/// A refusal with its status.
pub(super) struct Failure(pub(super) RefusedCode, pub(super) String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(code, error) = self;
        let status = match code {
            RefusedCode::UnknownJob => StatusCode::NOT_FOUND,
            RefusedCode::BadRequest => StatusCode::BAD_REQUEST,
            RefusedCode::MissingBlob => StatusCode::CONFLICT,
            RefusedCode::Forbidden => StatusCode::FORBIDDEN,
            RefusedCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(Refused { error, code })).into_response()
    }
}

pub(super) fn stopping() -> Failure {
    Failure(RefusedCode::Internal, "the node is stopping".to_owned())
}

pub(super) fn bad(error: impl std::fmt::Display) -> Failure {
    Failure(RefusedCode::BadRequest, error.to_string())
}

pub(super) fn unknown(id: &JobId) -> Failure {
    Failure(RefusedCode::UnknownJob, format!("job {id} is not known to this node"))
}

/// Every request.
pub(super) fn router(line: Line) -> Router {
    Router::new()
        .route("/v1/node", get(node))
        .route("/v1/peers", get(peers))
        .route("/v1/convictions", get(convictions))
        .route("/v1/blobs", post(blobs).layer(DefaultBodyLimit::max(BLOB_BYTES_MAX)))
        .route("/v1/jobs", get(jobs).post(submit))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/watch", get(watch))
        .route("/v1/jobs/{id}/units", get(units))
        .route("/v1/jobs/{id}/results", get(results))
        .route("/v1/jobs/{id}/evidence", get(evidence))
        .route("/v1/jobs/{id}/close", post(close))
        .route("/v1/given", get(super::giving::given))
        .route("/v1/given/export", get(super::giving::export))
        .route("/v1/pause", post(super::lending::pause))
        .route("/v1/resume", post(super::lending::resume))
        .route("/v1/drain", post(super::lending::drain))
        .route("/v1/log", get(super::lending::log))
        .route("/v1/offers", get(super::lending::offers))
        .route("/v1/stop", post(stop))
        .with_state(Arc::new(line))
}

type Lines = State<Arc<Line>>;

async fn node(State(line): Lines) -> Answer<NodeInfo> {
    let manner = line.manner;
    line.ask(move |hub| answers::node(hub, manner)).await.map(Json).ok_or_else(stopping)
}

async fn peers(State(line): Lines) -> Answer<Vec<PeerInfo>> {
    line.ask(|hub| answers::peers(hub)).await.map(Json).ok_or_else(stopping)
}

async fn convictions(State(line): Lines) -> Answer<Vec<ConvictionInfo>> {
    line.ask(|hub| answers::convictions(hub)).await.map(Json).ok_or_else(stopping)
}

async fn blobs(State(line): Lines, bytes: Bytes) -> Answer<String> {
    let store = line.ask(|hub| hub.store().clone()).await.ok_or_else(stopping)?;
    let put = tokio::task::spawn_blocking(move || store.put_blob(&bytes)).await;
    match put {
        Ok(Ok(id)) => Ok(Json(id.to_string())),
        Ok(Err(error)) => Err(Failure(RefusedCode::Internal, error.to_string())),
        Err(error) => Err(Failure(RefusedCode::Internal, error.to_string())),
    }
}

async fn jobs(State(line): Lines) -> Answer<Vec<JobInfo>> {
    let all = |hub: &mut crate::hub::Hub| {
        let jobs = hub.peer().jobs();
        jobs.iter().filter_map(|id| answers::job(hub, id)).collect()
    };
    line.ask(all).await.map(Json).ok_or_else(stopping)
}

async fn job(State(line): Lines, Path(id): Path<String>) -> Answer<JobInfo> {
    let id: JobId = id.parse().map_err(bad)?;
    let asked = line.ask(move |hub| answers::job_with_assurance(hub, &id));
    let found = asked.await.ok_or_else(stopping)?;
    found.map(Json).ok_or_else(|| unknown(&id))
}

async fn submit(State(line): Lines, bytes: Bytes) -> Answer<JobInfo> {
    let record = Signed::of_bytes(&bytes).map_err(bad)?;
    let Some(id) = record.job_id() else { return Err(bad("this record is no job")) };
    let store = line.ask(|hub| hub.store().clone()).await.ok_or_else(stopping)?;
    let named = record.clone();
    let missing = tokio::task::spawn_blocking(move || missing_blob(&store, named.record())).await;
    if let Some(blob) = missing.map_err(bad)? {
        let error = format!("blob {blob} is not here: post it before the job that names it");
        return Err(Failure(RefusedCode::MissingBlob, error));
    }
    let told = line.ask(move |hub| {
        if hub.peer().id() != record.signer() {
            return Err(forbidden());
        }
        hub.tell(Event::Submitted { record });
        answers::job(hub, &id).ok_or_else(|| {
            bad("the job was refused: it has expired, or 1,024 jobs are open already")
        })
    });
    told.await.ok_or_else(stopping)?.map(Json)
}

fn forbidden() -> Failure {
    Failure(
        RefusedCode::Forbidden,
        "this record is signed by another key than this node's".to_owned(),
    )
}

/// The first blob that a job names and that is not on disk.
fn missing_blob(store: &Store, record: &Record) -> Option<BlobId> {
    let Record::Job(job) = record else { return None };
    let named = [job.module, job.inputs];
    if let Some(blob) = named.into_iter().find(|blob| !store.has(&Wanted::Blob(*blob))) {
        return Some(blob);
    }
    let index = store.read(&Wanted::Blob(job.inputs));
    let Some(index) = index.and_then(|bytes| InputIndex::of_blob(&bytes).ok()) else {
        return Some(job.inputs);
    };
    index.pages().iter().map(|page| page.id).find(|page| !store.has(&Wanted::Blob(*page)))
}

async fn close(State(line): Lines, Path(id): Path<String>, bytes: Bytes) -> Answer<JobInfo> {
    let id: JobId = id.parse().map_err(bad)?;
    let record = Signed::of_bytes(&bytes).map_err(bad)?;
    if !matches!(record.record(), Record::Close(close) if close.job == id) {
        return Err(bad("this record does not close that job"));
    }
    let told = line.ask(move |hub| {
        let submitter = hub.peer().job(&id).map(|status| status.record.signer());
        if submitter.is_some_and(|submitter| submitter != record.signer()) {
            return Err(Failure(
                RefusedCode::Forbidden,
                "only the job's submitter can close it".to_owned(),
            ));
        }
        hub.tell(Event::Submitted { record });
        answers::job(hub, &id).ok_or_else(|| unknown(&id))
    });
    told.await.ok_or_else(stopping)?.map(Json)
}

async fn stop(State(line): Lines) -> StatusCode {
    line.stop.send_replace(true);
    StatusCode::ACCEPTED
}

/// Which units.
#[derive(Deserialize)]
struct Span {
    #[serde(default)]
    first: u32,
    count: Option<u32>,
}

impl Span {
    fn range(&self) -> std::ops::Range<u32> {
        let count = self.count.unwrap_or(UNITS_MAX).min(UNITS_MAX);
        self.first..self.first.saturating_add(count)
    }
}

async fn units(
    State(line): Lines,
    Path(id): Path<String>,
    Query(span): Query<Span>,
) -> Answer<Vec<UnitInfo>> {
    let id: JobId = id.parse().map_err(bad)?;
    let found = line.ask(move |hub| {
        hub.peer().job(&id)?;
        Some(span.range().map_while(|index| answers::unit(hub, &id, index)).collect())
    });
    found.await.ok_or_else(stopping)?.map(Json).ok_or_else(|| unknown(&id))
}

async fn results(
    State(line): Lines,
    Path(id): Path<String>,
    Query(span): Query<Span>,
) -> Result<Vec<u8>, Failure> {
    let id: JobId = id.parse().map_err(bad)?;
    let found = line.ask(move |hub| {
        let units = hub.peer().job_record(&id)?.units;
        hub.tell(Event::Collect { job: id });
        let range = span.range();
        let range = range.start.min(units)..range.end.min(units);
        let units = range.map(|index| (index, answers::standing(hub, &id, index)));
        Some((hub.store().clone(), units.collect::<Vec<_>>()))
    });
    let (store, units) = found.await.ok_or_else(stopping)?.ok_or_else(|| unknown(&id))?;
    tokio::task::spawn_blocking(move || frames(&store, &units)).await.map_err(bad)
}

/// Frames of these units, as many as fit an answer.
fn frames(store: &Store, units: &[(u32, Standing)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, standing) in units {
        if bytes.len() > RESULTS_BYTES_MAX {
            break;
        }
        frame(store, *index, *standing).write(&mut bytes);
    }
    bytes
}

fn frame(store: &Store, index: u32, standing: Standing) -> ResultFrame {
    let none = ResultHash([0; 16]);
    let (state, result, body) = match standing {
        Standing::Pending => (ResultState::Pending, none, Vec::new()),
        Standing::Unrunnable(why) => (ResultState::Unrunnable, none, why.as_str().into()),
        Standing::Accepted(result) => match store.read(&Wanted::Body(result)) {
            Some(body) => (ResultState::Body, result, body),
            None => (ResultState::Missing, result, Vec::new()),
        },
    };
    ResultFrame { index, state, result, body }
}

/// A line of JSON for the job as it is, and after every change until it is finished.
async fn watch(State(line): Lines, Path(id): Path<String>) -> Result<Response, Failure> {
    let id: JobId = id.parse().map_err(bad)?;
    let mut news = line.news.subscribe();
    let first = line.ask(move |hub| {
        hub.tell(Event::Collect { job: id });
        answers::job(hub, &id)
    });
    let first = first.await.ok_or_else(stopping)?.ok_or_else(|| unknown(&id))?;
    let (mut lines, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        let mut last = first;
        loop {
            let mut text = serde_json::to_vec(&last).unwrap_or_default();
            text.push(b'\n');
            if lines.send_data(text.into()).await.is_err() || last.finished {
                return;
            }
            tokio::time::sleep(WATCH_EVERY).await;
            last = match next_change(&line, &mut news, id, &last).await {
                Some(info) => info,
                None => return,
            };
        }
    });
    Ok(Body::new(body).into_response())
}

/// Waits until the job is other than it was; none when the node stops or the watcher has gone.
async fn next_change(
    line: &Line,
    news: &mut broadcast::Receiver<JobId>,
    id: JobId,
    last: &JobInfo,
) -> Option<JobInfo> {
    loop {
        let info = line.ask(move |hub| answers::job(hub, &id)).await??;
        if info != *last {
            return Some(info);
        }
        loop {
            match news.recv().await {
                Ok(job) if job != id => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
