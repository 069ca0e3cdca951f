//! One neighbour: frames out of its queue, frames in to the node, until one of the two ends.
//!
//! A gossip stream is the byte `GOSSIP`, then frames of `u32 length (LE) ‖ bytes`. One in each
//! direction; the dialler opens first, and the acceptor's stream tells the dialler that it is in.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use potluck_unit::{Message, PeerId};
use quinn::{Connection, ReadExactError, RecvStream, SendStream};
use tokio::time::timeout;

use super::links::{Link, Queue, Queued};
use super::{Duplicate, GOSSIP, NetEvent, Shared, code, now, reason};

/// Announces the neighbour and serves it until its connection ends. `outbox` is there if this side
/// has dialled; else this is where it opens.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    peer: PeerId,
    connection: &Connection,
    outbox: Option<SendStream>,
    mut inbox: RecvStream,
) -> Result<(), Duplicate> {
    let limits = &shared.limits;
    let (queue, queued) = Queue::new(limits.frames_queued_max, limits.bytes_queued_max);
    let outbound = outbox.is_some();
    let link = Link { connection: connection.clone(), outbound, since: now(), queue };
    shared.admit(peer, link).await?;
    let reason = tokio::select! {
        reason = read_frames(shared, peer, &mut inbox) => {
            connection.close(code::MISBEHAVED, reason.as_bytes());
            reason
        }
        written = write_frames(shared, connection, outbox, queued) => {
            match written {
                Ok(()) => {
                    connection.close(code::LEAVING, b"this node is stopping");
                    "this node is stopping".to_owned()
                }
                Err(reason) => {
                    connection.close(code::MISBEHAVED, reason.as_bytes());
                    reason
                }
            }
        }
    };
    shared.dismiss(peer, connection, reason).await;
    Ok(())
}

/// Opens the stream that makes this connection a neighbour's.
pub(crate) async fn open(connection: &Connection) -> Result<SendStream, String> {
    let mut stream = connection.open_uni().await.map_err(|error| reason::of_connection(&error))?;
    // Before blobs, which are on streams of priority 0.
    let _ = stream.set_priority(1);
    stream.write_all(&[GOSSIP]).await.map_err(|error| reason::of_write(&error))?;
    Ok(stream)
}

/// The stream by which the other side makes this connection a neighbour's. Others are not read.
pub(crate) async fn opened(connection: &Connection) -> Result<RecvStream, String> {
    loop {
        let mut stream =
            connection.accept_uni().await.map_err(|error| reason::of_connection(&error))?;
        let mut kind = [0];
        match stream.read_exact(&mut kind).await {
            Ok(()) if kind == [GOSSIP] => return Ok(stream),
            // A kind that a later version may know: politely not read.
            Ok(()) | Err(ReadExactError::FinishedEarly(_)) => {
                let _ = stream.stop(code::DONE);
            }
            Err(ReadExactError::ReadError(error)) => return Err(reason::of_read(&error)),
        }
    }
}

/// Hands frames to the node until there are no more; returns why.
async fn read_frames(shared: &Shared, peer: PeerId, inbox: &mut RecvStream) -> String {
    loop {
        let mut length = [0; 4];
        match inbox.read_exact(&mut length).await {
            Ok(()) => {}
            // Between two frames: how a node that stops says goodbye.
            Err(ReadExactError::FinishedEarly(0)) => return "it has left".to_owned(),
            Err(error) => return reason::of_read_exact(&error),
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > Message::BYTES_MAX {
            let max = Message::BYTES_MAX;
            return format!("a frame of {length} bytes is longer than the {max} allowed");
        }
        let bytes = match read_frame(inbox, length).await {
            Ok(bytes) => bytes,
            Err(reason) => return reason,
        };
        shared.counters.frames_received.fetch_add(1, Ordering::Relaxed);
        shared.counters.frame_bytes_received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // When the node is slow, this waits, and with it this neighbour alone.
        if shared.events.send(NetEvent::Frame { peer, bytes }).await.is_err() {
            return "this node is stopping".to_owned();
        }
    }
}

/// Reads a frame, in steps, so that memory is only taken for bytes that have come.
async fn read_frame(inbox: &mut RecvStream, length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let read = bytes.len();
        bytes.resize(length.min(read + STEP_BYTES), 0);
        let step = inbox.read_exact(&mut bytes[read..]).await;
        step.map_err(|error| reason::of_read_exact(&error))?;
    }
    Ok(bytes)
}

/// Writes what is queued until the queue is gone and all of it has arrived, or an error.
async fn write_frames(
    shared: &Shared,
    connection: &Connection,
    outbox: Option<SendStream>,
    mut queued: Queued,
) -> Result<(), String> {
    let frozen = || "it has stopped reading".to_owned();
    let mut outbox = match outbox {
        Some(outbox) => outbox,
        None => timeout(shared.limits.greeting_timeout, open(connection))
            .await
            .map_err(|_elapsed| frozen())??,
    };
    while let Some(frame) = queued.next().await {
        let written = timeout(shared.limits.frame_timeout, write_frame(&mut outbox, &frame));
        written.await.map_err(|_elapsed| frozen())??;
        queued.done(frame.len());
        shared.counters.frames_sent.fetch_add(1, Ordering::Relaxed);
        shared.counters.frame_bytes_sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
    }
    let _ = outbox.finish();
    let _ = outbox.stopped().await;
    Ok(())
}

async fn write_frame(outbox: &mut SendStream, frame: &[u8]) -> Result<(), String> {
    let length = u32::try_from(frame.len()).map_err(|_| "a frame is too long".to_owned())?;
    let header = outbox.write_all(&length.to_le_bytes()).await;
    header.map_err(|error| reason::of_write(&error))?;
    outbox.write_all(frame).await.map_err(|error| reason::of_write(&error))
}

/// How much memory is taken at once for a frame that is still to come.
const STEP_BYTES: usize = 64 << 10;
