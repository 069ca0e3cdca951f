//! Blobs by request: one bidirectional stream each, checked against the id while it is read.
//!
//! A request is a tag (1: blob, 2: body) and the id's bytes. The answer is a status (0: here it
//! comes, 1: not here, 2: busy) and after 0 a `u64 length (LE) ‖ bytes`. Who asks under a cap on what
//! may arrive goes on with grants, each a `u32 (LE)`: so many bytes more may come. When the request
//! ends, so does the need for grants; most end after the id.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use potluck_unit::{BlobId, PeerId, ResultHash};
use quinn::{Connection, ReadExactError, RecvStream, SendStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::links::Activity;
use super::pace::{Asked, Pace};
use super::{NetLimits, Shared, Source, Wanted, code, dial, limits, reason};

/// No source had it. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchError {
    /// What was wanted.
    pub(crate) wanted: Wanted,
    /// What became of each source, in the order they were asked.
    pub(crate) faults: Vec<(PeerId, FetchFault)>,
}

/// Why one source did not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FetchFault {
    /// It could not be reached.
    Unreachable(String),
    /// It does not have it.
    Missing,
    /// It has too much to do.
    Busy,
    /// It offered more bytes than may be taken.
    TooLong {
        /// How many it offered.
        bytes: u64,
        /// How many may be taken.
        bytes_max: u64,
    },
    /// It sent other bytes than those asked for: a lie, or a broken disk.
    WrongBytes,
    /// It began and did not end.
    Broken(String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nobody has sent {}", self.wanted)?;
        if self.faults.is_empty() {
            return write!(f, ": nobody is known to have it");
        }
        for (place, (peer, fault)) in self.faults.iter().enumerate() {
            write!(f, "{} peer {}: {fault}", if place == 0 { ":" } else { ";" }, peer.short())?;
        }
        Ok(())
    }
}

impl std::error::Error for FetchError {}

impl fmt::Display for FetchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchFault::Unreachable(reason) => write!(f, "can't be reached ({reason})"),
            FetchFault::Missing => write!(f, "does not have it"),
            FetchFault::Busy => write!(f, "is busy"),
            FetchFault::TooLong { bytes, bytes_max } => {
                write!(f, "offers {bytes} bytes where at most {bytes_max} are wanted")
            }
            FetchFault::WrongBytes => write!(f, "sent other bytes than those asked for"),
            FetchFault::Broken(reason) => write!(f, "broke off ({reason})"),
        }
    }
}

/// Asks one source after the other.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    wanted: Wanted,
    sources: &[Source],
    bytes_max: u64,
) -> Result<Vec<u8>, FetchError> {
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| source.peer != shared.me) {
        match fetch_from(shared, wanted, source, bytes_max).await {
            Ok(bytes) => return Ok(bytes),
            Err(fault) => {
                tracing::info!(%wanted, peer = %source.peer.short(), %fault, "a fetch failed");
                faults.push((source.peer, fault));
            }
        }
    }
    Err(FetchError { wanted, faults })
}

async fn fetch_from(
    shared: &Arc<Shared>,
    wanted: Wanted,
    source: &Source,
    bytes_max: u64,
) -> Result<Vec<u8>, FetchFault> {
    let was_there = shared.links().blob_link(&source.peer).is_some();
    let reached = dial::for_blobs(shared, source).await;
    let (connection, busy) = reached.map_err(FetchFault::Unreachable)?;
    let answer = request(shared, &connection, wanted, bytes_max).await;
    drop(busy);
    // A connection from before may have been closed by the other side while it was idle.
    let lost = matches!(answer, Err(FetchFault::Broken(_))) && connection.close_reason().is_some();
    if !was_there || !lost || source.addresses.is_empty() {
        return answer;
    }
    let reached = dial::for_blobs(shared, source).await;
    let (connection, _busy) = reached.map_err(FetchFault::Unreachable)?;
    request(shared, &connection, wanted, bytes_max).await
}

/// Asks for one blob and reads it.
async fn request(
    shared: &Shared,
    connection: &Connection,
    wanted: Wanted,
    bytes_max: u64,
) -> Result<Vec<u8>, FetchFault> {
    connection.set_receive_window(limits::FETCH_WINDOW_BYTES.into());
    let mut place = None;
    let answer = loop {
        // The other side may wait for its turn before its first byte.
        let patience = shared.limits.progress_timeout + shared.limits.turn_timeout;
        let begun = timeout(patience, begin(shared, connection, wanted)).await;
        let answer = begun.map_err(|_elapsed| silent())??;
        if answer.length > bytes_max {
            return Err(FetchFault::TooLong { bytes: answer.length, bytes_max });
        }
        if answer.length <= Pace::SMALL_BYTES_MAX || place.is_some() {
            break answer;
        }
        place = shared.pace.try_fetch();
        if place.is_some() {
            break answer;
        }
        // Nobody waits for as long as others may take: let go, and ask again when there is room.
        drop(answer);
        place = Some(shared.pace.fetch().await);
    };
    let Answer { length, outbox, mut inbox } = answer;
    let asked = shared.pace.asked();
    tokio::select! {
        read = read_blob_bytes(shared, &asked, &mut inbox, length) => {
            let (id, bytes) = read?;
            if wanted.is(&id) { Ok(bytes) } else { Err(FetchFault::WrongBytes) }
        }
        never = ask_on(shared, &asked, outbox, length) => match never {},
    }
}

/// Reads the bytes of a blob, and what their id is.
async fn read_blob_bytes(
    shared: &Shared,
    asked: &Asked<'_>,
    inbox: &mut RecvStream,
    length: u64,
) -> Result<(BlobId, Vec<u8>), FetchFault> {
    let whole = shared.limits.transfer_timeout(length, shared.meter.download_rate());
    let whole = Instant::now() + whole;
    let length = usize::try_from(length).map_err(|_| silent())?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let most = (length - bytes.len()).min(STEP_BYTES);
        let deadline = whole.min(Instant::now() + shared.limits.progress_timeout);
        let read = timeout_at(deadline, inbox.read_chunk(most, true)).await;
        let chunk = match read.map_err(|_elapsed| silent())? {
            Ok(Some(chunk)) => chunk.bytes,
            Ok(None) => return Err(FetchFault::Broken("it ended its stream".to_owned())),
            Err(error) => return Err(FetchFault::Broken(reason::of_read(&error))),
        };
        asked.came(chunk.len() as u64);
        shared.counters.blob_bytes_received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        hasher.update(&chunk);
        bytes.extend_from_slice(&chunk);
    }
    Ok((BlobId(*hasher.finalize().as_bytes()), bytes))
}

/// Grants the other side its bytes as the cap on what arrives allows. Once there is no cap, ends the
/// request and waits for ever.
async fn ask_on(
    shared: &Shared,
    asked: &Asked<'_>,
    outbox: Option<SendStream>,
    length: u64,
) -> Infallible {
    if let Some(mut outbox) = outbox {
        let mut left = length;
        while left > 0 {
            asked.below(shared.pace.asked_max()).await;
            let Some(bytes) = shared.pace.ask_for(left.min(u32::MAX.into())).await else { break };
            asked.add(bytes);
            left -= bytes;
            let grant = u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
            if outbox.write_all(&grant).await.is_err() {
                // It does not read grants, or the connection is lost, which the reader notices.
                break;
            }
        }
        let _ = outbox.finish();
        std::future::pending::<()>().await;
    }
    std::future::pending().await
}

fn silent() -> FetchFault {
    FetchFault::Broken("it fell silent".to_owned())
}

/// How an answer begins.
struct Answer {
    /// Bytes that follow.
    length: u64,
    /// Where grants go, if there is a cap.
    outbox: Option<SendStream>,
    inbox: RecvStream,
}

/// Sends a request and reads the answer's head: how many bytes follow.
async fn begin(
    shared: &Shared,
    connection: &Connection,
    wanted: Wanted,
) -> Result<Answer, FetchFault> {
    let broken = |reason: String| FetchFault::Broken(reason);
    let opened = connection.open_bi().await;
    let (mut outbox, mut inbox) = opened.map_err(|error| broken(reason::of_connection(&error)))?;
    let (tag, id) = match &wanted {
        Wanted::Blob(id) => (BLOB, id.as_bytes().as_slice()),
        Wanted::Body(result) => (BODY, result.as_bytes().as_slice()),
    };
    let asked = outbox.write_all(&[&[tag], id].concat()).await;
    asked.map_err(|error| broken(reason::of_write(&error)))?;
    let capped = shared.meter.download_capped();
    if capped {
        let _ = outbox.set_priority(1);
    } else {
        let _ = outbox.finish();
    }
    let mut status = [0];
    let read = inbox.read_exact(&mut status).await;
    read.map_err(|error| broken(reason::of_read_exact(&error)))?;
    match status {
        [HERE] => {}
        [MISSING] => return Err(FetchFault::Missing),
        [BUSY] => return Err(FetchFault::Busy),
        [other] => return Err(broken(format!("it answers {other}, which is not known here"))),
    }
    let mut length = [0; 8];
    let read = inbox.read_exact(&mut length).await;
    read.map_err(|error| broken(reason::of_read_exact(&error)))?;
    let outbox = capped.then_some(outbox);
    Ok(Answer { length: u64::from_le_bytes(length), outbox, inbox })
}

/// What bounds all answers of a node together.
#[derive(Debug)]
pub(crate) struct Answers {
    reads: Semaphore,
    bytes: Semaphore,
}

impl Answers {
    pub(crate) fn new(limits: &NetLimits) -> Answers {
        let bytes = Semaphore::new(limits.answers_bytes_max as usize);
        Answers { reads: Semaphore::new(limits.reads_max), bytes }
    }
}

/// Answers the requests that come on a connection. When the connection is lost it waits for ever:
/// whoever runs it has its own way to notice, and drops it.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    peer: PeerId,
    connection: &Connection,
    activity: &Arc<Activity>,
) -> Infallible {
    let places = Arc::new(Semaphore::new(shared.limits.answers_per_connection_max));
    while let Ok((outbox, inbox)) = connection.accept_bi().await {
        let (shared, places, busy) = (shared.clone(), places.clone(), activity.begin());
        // No more of these than the streams that the other side may open.
        tokio::spawn(async move {
            let answered = answer_one(&shared, peer, &places, outbox, inbox).await;
            if let Err(reason) = answered {
                tracing::debug!(reason, "a request was not answered");
            }
            drop(busy);
        });
    }
    std::future::pending().await
}

async fn answer_one(
    shared: &Arc<Shared>,
    peer: PeerId,
    places: &Semaphore,
    mut outbox: SendStream,
    mut inbox: RecvStream,
) -> Result<(), String> {
    let asked = timeout(shared.limits.progress_timeout, read_request(&mut inbox)).await;
    let wanted = asked.map_err(|_elapsed| "it did not say what it wants".to_owned())??;
    let turn = Instant::now() + shared.limits.turn_timeout;
    let found = timeout_at(turn, async {
        let place = places.acquire().await.ok();
        let blob = read_blob(shared, wanted).await;
        let bytes = blob.as_ref().map_or(0, |(bytes, _weight)| bytes.len() as u64);
        let large = bytes > Pace::SMALL_BYTES_MAX;
        let entered = if large { Some(shared.pace.answer().await) } else { None };
        (blob, place, entered)
    });
    let found = found.await;
    let length = match &found {
        Ok((Some((bytes, _weight)), ..)) => bytes.len() as u64,
        Ok((None, ..)) | Err(_) => 0,
    };
    let sending = async {
        match &found {
            Ok((Some((bytes, _weight)), ..)) => {
                send_blob(shared, &peer, (&mut outbox, &mut inbox), bytes).await
            }
            Ok((None, ..)) => say(&mut outbox, &[MISSING]).await,
            Err(_elapsed) => say(&mut outbox, &[BUSY]).await,
        }
    };
    let most = shared.limits.transfer_timeout(length, shared.meter.upload_rate());
    let sent = timeout(most, sending).await;
    sent.map_err(|_elapsed| "it reads too slowly".to_owned())?
}

/// Reads a blob from disk, when it is its turn, and weighs it.
async fn read_blob(shared: &Arc<Shared>, wanted: Wanted) -> Option<(Vec<u8>, SemaphorePermit<'_>)> {
    let _turn = shared.answers.reads.acquire().await.ok()?;
    let blobs = shared.blobs.clone();
    let bytes = tokio::task::spawn_blocking(move || blobs.read(&wanted)).await.ok()??;
    let max = shared.limits.answers_bytes_max;
    let weight = u32::try_from(bytes.len()).unwrap_or(max).min(max);
    let permit = shared.answers.bytes.acquire_many(weight).await.ok()?;
    Some((bytes, permit))
}

async fn send_blob(
    shared: &Shared,
    peer: &PeerId,
    (outbox, inbox): (&mut SendStream, &mut RecvStream),
    bytes: &[u8],
) -> Result<(), String> {
    let silent = |_elapsed| "it has stopped reading".to_owned();
    let pause: Duration = shared.limits.progress_timeout;
    let head = [&[HERE], (bytes.len() as u64).to_le_bytes().as_slice()].concat();
    let sent = timeout(pause, outbox.write_all(&head)).await.map_err(silent)?;
    sent.map_err(|error| reason::of_write(&error))?;
    let (mut at, mut granted) = (0, 0_usize);
    while at < bytes.len() {
        if at == granted {
            let more = timeout(pause, read_grant(inbox)).await.map_err(silent)??;
            granted = granted.saturating_add(more).min(bytes.len());
            continue;
        }
        let until = at + shared.pace.hand_over(peer, granted - at).await;
        while at < until {
            let written = timeout(pause, outbox.write(&bytes[at..until])).await.map_err(silent)?;
            let written = written.map_err(|error| reason::of_write(&error))?;
            shared.counters.blob_bytes_sent.fetch_add(written as u64, Ordering::Relaxed);
            at += written;
        }
    }
    say(outbox, &[]).await
}

/// How many bytes more the other side will take: all of them, when it has ended its request.
async fn read_grant(inbox: &mut RecvStream) -> Result<usize, String> {
    let mut grant = [0; 4];
    match inbox.read_exact(&mut grant).await {
        Ok(()) => Ok(u32::from_le_bytes(grant) as usize),
        Err(ReadExactError::FinishedEarly(_)) => Ok(usize::MAX),
        Err(error) => Err(reason::of_read_exact(&error)),
    }
}

/// Writes the last bytes and waits until all have arrived: only then may the connection be idle.
async fn say(outbox: &mut SendStream, bytes: &[u8]) -> Result<(), String> {
    outbox.write_all(bytes).await.map_err(|error| reason::of_write(&error))?;
    let _ = outbox.finish();
    let _ = outbox.stopped().await;
    Ok(())
}

async fn read_request(inbox: &mut RecvStream) -> Result<Wanted, String> {
    let unread = |error| reason::of_read_exact(&error);
    let mut tag = [0];
    inbox.read_exact(&mut tag).await.map_err(unread)?;
    match tag {
        [BLOB] => {
            let mut id = [0; BlobId::BYTES];
            inbox.read_exact(&mut id).await.map_err(unread)?;
            Ok(Wanted::Blob(BlobId(id)))
        }
        [BODY] => {
            let mut id = [0; ResultHash::BYTES];
            inbox.read_exact(&mut id).await.map_err(unread)?;
            Ok(Wanted::Body(ResultHash(id)))
        }
        [other] => {
            let _ = inbox.stop(code::DONE);
            Err(format!("it wants a kind of thing ({other}) that is not known here"))
        }
    }
}

/// How much is read at once.
const STEP_BYTES: usize = 256 << 10;

const BLOB: u8 = 1;
const BODY: u8 = 2;

const HERE: u8 = 0;
const MISSING: u8 = 1;
const BUSY: u8 = 2;
