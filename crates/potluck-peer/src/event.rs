//! What a peer is told.

use std::net::SocketAddr;
use std::sync::Arc;

use potluck_unit::{JobId, Message, NoResult, PeerId, ResultHash, Signed, Witness};

use crate::action::Need;

/// One thing that happened. See each variant for what the peer may assume.
#[derive(Debug, Clone)]
pub enum Event {
    /// A neighbour is connected. It is told once per neighbour, before anything is heard from it.
    Joined {
        /// Who.
        peer: PeerId,
        /// Where, as seen from here.
        address: SocketAddr,
        /// Whether this side dialled.
        outbound: bool,
    },
    /// A neighbour is gone.
    Left {
        /// Who.
        peer: PeerId,
    },
    /// A dial that the peer asked for came to nothing.
    DialFailed {
        /// Where to.
        address: SocketAddr,
    },
    /// A neighbour said something. Already decoded and within its bounds, and not to be believed.
    Heard {
        /// Who.
        from: PeerId,
        /// What.
        message: Message,
    },
    /// A record that this peer kept before it was restarted. Not verified again.
    Kept {
        /// The record.
        record: Signed,
    },
    /// A conviction that this peer noted before it was restarted.
    Convicted(crate::standing::Conviction),
    /// A standing that this peer kept before it was restarted.
    Credited(crate::standing::Credit),
    /// The local user signed a job or a closing. Its module and inputs are already on disk.
    Submitted {
        /// The record.
        record: Signed,
    },
    /// The local user wants the outcomes of a job here, whoever submitted it.
    Collect {
        /// The job.
        job: JobId,
    },
    /// The local user wants to check a job, and so its module and inputs here.
    Check {
        /// The job.
        job: JobId,
    },
    /// What became of a [`crate::Action::Fetch`].
    Fetched {
        /// What was asked for.
        need: Need,
        /// Whether it is on disk now.
        found: bool,
    },
    /// A body that is too large for a receipt is on disk. Told before the run or the fetch that
    /// brought it, and of all that are there after a restart, before the alarm rings first.
    Holds {
        /// R.
        result: ResultHash,
        /// How long it is.
        bytes: u64,
    },
    /// Runs ended on a slot.
    Ran(Ran),
    /// What the donor set, at start or anew. A peer that is never told goes by
    /// [`crate::Rules::unlimited`].
    Rules(Box<crate::budget::Rules>),
    /// What the node measured. Told before the alarm rings first, and then as often as anything
    /// should be acted on.
    Reading(crate::budget::Reading),
    /// What the user wants of the machine. After a restart it is told again.
    Order(crate::budget::Order),
    /// The alarm rang.
    Woke,
}

/// Runs that ended on one slot, in the order they ran.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The slot.
    pub slot: u16,
    /// The job.
    pub job: JobId,
    /// How each run ended.
    pub reports: Vec<Report>,
    /// How long they took together, in microseconds of wall-clock time, not counting time suspended.
    pub spent_us: u64,
    /// Whether the oldest assignment of this slot ends with these.
    pub done: bool,
}

/// How one run ended, as far as the peer needs to know it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The unit's row in the job.
    pub index: u32,
    /// R and M, or why there is no result.
    pub result: Result<(ResultHash, Witness), NoResult>,
    /// The outcome's body if it is small enough to travel inside a batch of receipts.
    pub body: Option<Arc<[u8]>>,
}
