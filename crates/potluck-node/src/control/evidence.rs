//! Gives away all that the node holds about a job, as an evidence file.
//!
//! The file is written while it is sent and never held: only records are in memory, where the peer
//! has them anyway.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use http_body_util::channel::{Channel, Sender};
use potluck_peer::Event;
use potluck_unit::{BlobId, InputIndex, Job, JobId, Record, Signed};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::Line;
use super::api::RefusedCode;
use super::routes::{Failure, bad, stopping, unknown};
use crate::evidence::{Claim, Encoder, Kind, RECORDS_BYTES_MAX, without_bodies};
use crate::net::Wanted;
use crate::store::Store;

/// What to put in.
#[derive(Deserialize)]
pub(super) struct Wants {
    /// Module and inputs, as far as they are here.
    #[serde(default = "yes")]
    inputs: bool,
}

fn yes() -> bool {
    true
}

/// What goes into the file.
struct Findings {
    records: Vec<Signed>,
    claims: Vec<Claim>,
    store: Store,
}

/// Answers with the file.
pub(super) async fn evidence(
    State(line): State<Arc<Line>>,
    Path(id): Path<String>,
    Query(wants): Query<Wants>,
) -> Result<Response, Failure> {
    let id: JobId = id.parse().map_err(bad)?;
    if wants.inputs {
        inputs_come(&line, id).await.ok_or_else(stopping)?;
    }
    let found = line.ask(move |hub| {
        let peer = hub.peer();
        let units = peer.job_record(&id)?.units;
        let claims = (0..units).map(|unit| Claim::of(peer.verdict(&id, unit))).collect();
        Some(Findings { records: peer.records(&id)?, claims, store: hub.store().clone() })
    });
    let found = found.await.ok_or_else(stopping)?.ok_or_else(|| unknown(&id))?;
    let bytes: u64 = found.records.iter().map(|record| without_bodies(record).len() as u64).sum();
    if bytes > RECORDS_BYTES_MAX {
        let (gib, max) = (bytes >> 30, RECORDS_BYTES_MAX >> 30);
        let error = format!("the records of this job have {gib} GiB, and evidence holds {max} GiB");
        return Err(Failure(RefusedCode::BadRequest, error));
    }
    let (mut pieces, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        // Who asked may have gone. Without its end the file is known to be cut off.
        let _ = write(&found, wants.inputs, &mut pieces).await;
    });
    Ok(Body::new(body).into_response())
}

/// Has the node get what is needed to run units of the job, and waits for that, but not for long:
/// evidence is worth something without. None if the node stops.
async fn inputs_come(line: &Line, id: JobId) -> Option<()> {
    let mut news = line.news.subscribe();
    line.ask(move |hub| hub.tell(Event::Check { job: id })).await?;
    let come = async {
        while !line.ask(move |hub| hub.peer().has_inputs(&id)).await? {
            match news.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
        Some(())
    };
    tokio::time::timeout(INPUTS_TIMEOUT, come).await.unwrap_or(Some(()))
}

async fn write(found: &Findings, inputs: bool, pieces: &mut Sender<Bytes>) -> Option<()> {
    let mut encoder = Encoder::default();
    let mut piece = encoder.head();
    let mut kind = Kind::Job;
    for record in &found.records {
        piece.extend(encoder.part(kind, without_bodies(record)));
        kind = Kind::Record;
        if piece.len() >= PIECE_BYTES {
            send(pieces, std::mem::take(&mut piece)).await?;
        }
    }
    piece.extend(encoder.claims(&found.claims));
    send(pieces, piece).await?;
    if inputs
        && let Some(record) = found.records.first()
        && let Record::Job(job) = record.record()
    {
        write_inputs(found, job, &mut encoder, pieces).await?;
    }
    send(pieces, encoder.end()).await
}

/// Module, index and pages, as far as they are here.
async fn write_inputs(
    found: &Findings,
    job: &Job,
    encoder: &mut Encoder,
    pieces: &mut Sender<Bytes>,
) -> Option<()> {
    if let Some(module) = read(&found.store, job.module).await {
        send(pieces, encoder.part(Kind::Module, &module)).await?;
    }
    let Some(bytes) = read(&found.store, job.inputs).await else { return Some(()) };
    let Ok(index) = InputIndex::of_blob(&bytes) else { return Some(()) };
    send(pieces, encoder.part(Kind::Index, &bytes)).await?;
    for page in index.pages() {
        // Pages must not have gaps: the rest would be useless to a reader.
        let Some(bytes) = read(&found.store, page.id).await else { return Some(()) };
        send(pieces, encoder.part(Kind::Page, &bytes)).await?;
    }
    Some(())
}

async fn read(store: &Store, blob: BlobId) -> Option<Vec<u8>> {
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.read(&Wanted::Blob(blob))).await.ok()?
}

async fn send(pieces: &mut Sender<Bytes>, bytes: Vec<u8>) -> Option<()> {
    pieces.send_data(bytes.into()).await.ok()
}

/// Module and inputs that have not come by then are left out.
const INPUTS_TIMEOUT: Duration = Duration::from_secs(10);
/// Large enough that a million records are few pieces.
const PIECE_BYTES: usize = 256 << 10;
