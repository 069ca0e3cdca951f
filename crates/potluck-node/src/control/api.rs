//! What the local control interface says, as JSON over HTTP on the Unix socket `control.sock` in the
//! data folder.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/node` | [`NodeInfo`] |
//! | `GET /v1/peers` | list of [`PeerInfo`] |
//! | `GET /v1/convictions` | list of [`ConvictionInfo`] |
//! | `GET /v1/jobs` | list of [`JobInfo`] |
//! | `POST /v1/blobs`, the bytes | the blob's id as a JSON string, once it is on disk |
//! | `POST /v1/jobs`, a signed job record's bytes | [`JobInfo`], once the job is on disk |
//! | `GET /v1/jobs/ID` | [`JobInfo`] |
//! | `GET /v1/jobs/ID/watch` | a [`JobInfo`] a line, now and after every change, until it is finished |
//! | `GET /v1/jobs/ID/units?first=N&count=M` | list of [`UnitInfo`] |
//! | `GET /v1/jobs/ID/results?first=N&count=M` | frames as [`ResultFrame`] writes them |
//! | `GET /v1/jobs/ID/evidence` | an evidence file, see `docs/evidence.md`; `?inputs=false` leaves out module and inputs |
//! | `POST /v1/jobs/ID/close`, a signed close record's bytes | [`JobInfo`] |
//! | `GET /v1/given?by=day` | [`crate::GivenInfo`]; `by` may be `submitter` or left out |
//! | `GET /v1/given/export` | the record of giving with its signed records, see `docs/giving.md` |
//! | `POST /v1/pause?for_ms=N`, `/v1/resume`, `/v1/drain?exit=true` | [`NodeInfo`] as it is from then on; without `for_ms` a pause has no end |
//! | `GET /v1/log` | list of [`LogLine`], the newest 1,000, oldest first |
//! | `GET /v1/offers` | list of [`Offer`]: jobs that still want work |
//! | `POST /v1/stop` | an empty answer; then the node stops |
//!
//! Whatever is refused is answered with a status of 400 and up and a [`Refused`].

use std::collections::BTreeMap;
use std::net::SocketAddr;

use potluck_unit::{JobId, ResultHash};
use serde::{Deserialize, Serialize};

/// Why a request was refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refused {
    /// What went wrong and what to do, for a person.
    pub error: String,
    /// What went wrong, for a program.
    pub code: RefusedCode,
}

/// What went wrong, for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedCode {
    /// This node has never heard of the job. Status 404.
    UnknownJob,
    /// The request's bytes are not what they should be. Status 400.
    BadRequest,
    /// A blob that the job names is not here; post it first. Status 409.
    MissingBlob,
    /// Not the submitter's to ask. Status 403.
    Forbidden,
    /// The node failed. Status 500.
    Internal,
}

/// This node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its peer id, in hexadecimal, like every id here.
    pub id: String,
    /// The software and its version.
    pub agent: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether it takes part in an open grid.
    pub open: bool,
    /// How many units it runs at once.
    pub slots: u16,
    /// How many of them are busy.
    pub slots_busy: u16,
    /// Neighbours connected now.
    pub neighbours: usize,
    /// Peers known that lend slots and were heard of lately, this one included if it lends any.
    pub workers: usize,
    /// Units run since start.
    pub units_run: u64,
    /// Bytes sent over the network since start, as UDP payload.
    pub bytes_sent: u64,
    /// Bytes received over the network since start, likewise.
    pub bytes_received: u64,
    /// Bytes of the data folder: the database and all blobs, without compiled modules.
    pub bytes_on_disk: u64,
    /// Why no slot is busy, if none is.
    pub idle_reason: Option<String>,
    /// What this machine lends now, and what keeps it from more.
    pub lending: LendingInfo,
    /// `--join` addresses with the last error each, for those not connected.
    pub unreachable: Vec<(String, String)>,
}

/// What a machine lends now. No number is no cap.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LendingInfo {
    /// Units at once; 0 while units are held up.
    pub slots: u16,
    /// Of one core, for each slot.
    pub cpu_percent: u8,
    /// Memory of everything together.
    pub memory_bytes: Option<u64>,
    /// Disk below the data folder.
    pub disk_bytes: Option<u64>,
    /// How much of that is used.
    pub disk_used_bytes: u64,
    /// Bytes sent in a second.
    pub upload_per_s: Option<u64>,
    /// Bytes received in a second.
    pub download_per_s: Option<u64>,
    /// Which section of the config file `slots`, `cpu-percent`, `memory`, `upload` and `download` come
    /// from.
    pub from: BTreeMap<String, String>,
    /// Every rule that says no now, the most important one first.
    pub held_up: Vec<HeldUp>,
    /// Whether only what is begun is finished.
    pub draining: bool,
    /// Whether units were paused for so long that they were given back.
    pub released: bool,
    /// Bytes sent and received since the local day began.
    pub today_bytes: u64,
    /// Since the local month began.
    pub month_bytes: u64,
    /// Since the data folder was made.
    pub ever_bytes: u64,
    /// What is wrong with the config file; its older settings hold.
    pub config_error: Option<String>,
    /// Keys that were changed and hold after a restart.
    pub restart_needed: Vec<String>,
    /// What is on each slot that has anything.
    pub running: Vec<RunningInfo>,
}

/// A rule that says no.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldUp {
    /// Its key in the config file.
    pub rule: String,
    /// What it holds up: `units`, `network`, or `intake` of anything new.
    pub what: String,
    /// A sentence for a person.
    pub says: String,
    /// When it stops if nothing else changes, in milliseconds since the Unix epoch, where that is known.
    pub until_ms: Option<u64>,
}

/// What is on a slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningInfo {
    /// The slot, from 0.
    pub slot: u16,
    /// The job.
    pub job: String,
    /// What its submitter calls it.
    pub label: String,
    /// For whom.
    pub submitter: String,
    /// Since when the slot is at this job, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Units of it that ended there since.
    pub units_done: u64,
    /// Units there that have not ended.
    pub units_left: usize,
    /// How long those take, in milliseconds, as far as that is known.
    pub left_ms: Option<u64>,
    /// Whether it stands still.
    pub suspended: bool,
}

/// Something that happened to what is lent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogLine {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What, in words for a person.
    pub says: String,
}

/// A job that still wants work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offer {
    /// The job.
    pub job: JobInfo,
    /// Why this machine does not take it; none if it does.
    pub refused: Option<String>,
}

/// Another peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its peer id.
    pub id: String,
    /// Where it can be reached.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is a neighbour: connected now.
    pub connected: bool,
    /// Where a neighbour is, as seen from here.
    pub seen_at: Option<SocketAddr>,
    /// The round trip to a neighbour, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes sent to it over the connection that is there now, headers included.
    pub bytes_sent: Option<u64>,
    /// Bytes received from it, likewise.
    pub bytes_received: Option<u64>,
    /// How many slots it says it lends.
    pub slots: u16,
    /// Its software.
    pub agent: String,
    /// What its donor wants to be called; anybody may call itself anything.
    pub nickname: String,
    /// With whom its donor wants to be counted, likewise.
    pub team: String,
    /// Whether its word counts no longer: this node holds proof that it lied.
    pub convicted: bool,
    /// What this node has seen of its work: `newcomer`, `established` or `veteran`.
    pub standing: String,
    /// How much recent work of it this node saw accepted.
    pub credit: u32,
    /// How many lies of it this node has proved. Three end it.
    pub strikes: u8,
}

/// A job as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// The job's id.
    pub id: String,
    /// What the submitter calls it.
    pub label: String,
    /// The submitter's peer id.
    pub submitter: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// How many units there are.
    pub units: u32,
    /// How many peers must agree on each.
    pub copies: u8,
    /// How sure the submitter wants to be: `bulk`, `standard` or `critical`.
    pub quality: String,
    /// Which of a submitter's own jobs goes first, 0 to 9: the highest.
    pub priority: u8,
    /// How many workers the submitter knew of.
    pub peers: u32,
    /// Units whose result is accepted.
    pub accepted: u32,
    /// Accepted units whose time for audits has passed.
    pub finals: u32,
    /// Units on which too few peers have spoken yet, and who spoke agrees.
    pub partial: u32,
    /// Units on which peers contradict each other.
    pub disputed: u32,
    /// Units on which every machine that tried gave up.
    pub unrunnable: u32,
    /// Accepted units whose outcome is on this node's disk.
    pub fetched: u32,
    /// Peers that said they hold the job, its module and its inputs, not counting this one.
    pub keepers: usize,
    /// Peers known that may run it.
    pub workers: usize,
    /// Whether nothing is left to do: every unit accepted and fetched, or unrunnable; or closed.
    pub finished: bool,
    /// Whether the submitter closed it or it expired.
    pub closed: bool,
    /// What it is waiting for, a sentence each, in words for a person.
    pub waiting_for: Vec<String>,
    /// Peers that lied about this job, as far as this node could prove.
    pub liars: Vec<String>,
    /// What the accepted results stand on. Only in the answer to `GET /v1/jobs/ID`: it takes a look
    /// at every unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<AssuranceInfo>,
}

/// What the accepted results of a job stand on, as this node sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssuranceInfo {
    /// How many peers must agree on each unit.
    pub copies: u8,
    /// Workers that have standing with this node.
    pub established: usize,
    /// Workers known.
    pub workers: usize,
    /// Accepted units for which at least one of those with standing spoke.
    pub with_established: u32,
    /// Accepted units with more agreeing copies than they need.
    pub audited: u32,
    /// Whether this node knows the grid for too short a time to give anybody standing.
    pub young: bool,
    /// Peers proven to have lied that spoke on this job.
    pub convicted: usize,
    /// Units that this node ran itself.
    pub own: u32,
}

/// A unit as this node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnitInfo {
    /// Its row in the job.
    pub index: u32,
    /// `open`, `partial`, `disputed`, `accepted` or `unrunnable`.
    pub state: String,
    /// R of the accepted result, or of the only one so far.
    pub result: Option<String>,
    /// Every statement on it.
    pub receipts: Vec<StatementInfo>,
}

/// One peer's statement on a unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatementInfo {
    /// Who says it.
    pub peer: String,
    /// R, or none for a run without a result.
    pub result: Option<String>,
    /// Why there is no result.
    pub no_result: Option<String>,
    /// Whether it counts: not if this node proved its signer a liar.
    pub counts: bool,
}

/// Proof, by this node's own execution, that a peer signed a wrong receipt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConvictionInfo {
    /// Who lied.
    pub peer: String,
    /// In which job.
    pub job: String,
    /// On which unit.
    pub unit: u32,
    /// R as the liar signed it.
    pub said: String,
    /// R as this node found it.
    pub found: String,
    /// The record that holds the liar's receipt.
    pub record: String,
    /// All the receipts that this peer signed and this node holds, over all jobs.
    pub receipts_held: usize,
}

/// One unit of a results stream, in bytes:
/// `index (u32) ‖ state (u8) ‖ R (16) ‖ length (u32) ‖ body`, numbers little endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultFrame {
    /// The unit.
    pub index: u32,
    /// What follows.
    pub state: ResultState,
    /// R of the accepted result; zeros when there is none.
    pub result: ResultHash,
    /// For [`ResultState::Body`] the outcome's body, to be checked against `result`; for
    /// [`ResultState::Unrunnable`] the reason as text; otherwise empty.
    pub body: Vec<u8>,
}

/// Whether a unit's outcome is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ResultState {
    /// No result is accepted yet.
    Pending = 0,
    /// Accepted, and here it is.
    Body = 1,
    /// Every machine that tried gave up.
    Unrunnable = 2,
    /// Accepted, and not fetched yet.
    Missing = 3,
}

impl ResultFrame {
    /// Bytes before the body.
    pub const HEAD_BYTES: usize = 4 + 1 + 16 + 4;

    /// Appends this frame.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.index.to_le_bytes());
        bytes.push(self.state as u8);
        bytes.extend_from_slice(&self.result.0);
        let length = u32::try_from(self.body.len()).expect("outcome bodies are bounded at 64 MiB");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&self.body);
    }

    /// Takes one frame off the front of `bytes`; none if it is not all there or makes no sense.
    pub fn read(bytes: &[u8]) -> Option<(ResultFrame, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<{ Self::HEAD_BYTES }>()?;
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let state = match head[4] {
            0 => ResultState::Pending,
            1 => ResultState::Body,
            2 => ResultState::Unrunnable,
            3 => ResultState::Missing,
            _ => return None,
        };
        let mut result = ResultHash([0; 16]);
        result.0.copy_from_slice(&head[5..21]);
        let (body, rest) = rest.split_at_checked(number(21) as usize)?;
        Some((ResultFrame { index: number(0), state, result, body: body.to_vec() }, rest))
    }
}

/// The path of a job below `/v1/jobs`.
pub fn job_path(job: &JobId) -> String {
    format!("/v1/jobs/{job}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_one_after_another() {
        let frame = |index, state, body: &[u8]| ResultFrame {
            index,
            state,
            result: ResultHash([7; 16]),
            body: body.to_vec(),
        };
        let frames = [frame(0, ResultState::Body, b"abc"), frame(1, ResultState::Missing, b"")];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        let (first, rest) = ResultFrame::read(&bytes).unwrap();
        let (second, rest) = ResultFrame::read(rest).unwrap();
        assert_eq!(([first, second], rest), (frames, &[][..]));
        assert!(ResultFrame::read(&bytes[..ResultFrame::HEAD_BYTES + 2]).is_none());
    }
}
