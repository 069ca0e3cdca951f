//! What a peer wants done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use potluck_unit::{BlobId, JobId, Message, PeerId, ResultHash, Signed, Time};

use crate::standing::{Conviction, Credit};

/// One thing to do. Actions are carried out in order, with one exception that is a promise: every
/// [`Action::Keep`] of a turn is on disk before any [`Action::Say`] of that turn leaves.
#[derive(Debug, Clone)]
pub enum Action {
    /// Tell a neighbour. May be dropped when the neighbour is slow; gossip repairs itself.
    Say {
        /// Whom.
        to: PeerId,
        /// What.
        message: Message,
    },
    /// Connect to an address.
    Dial {
        /// Where to.
        address: SocketAddr,
        /// Who must answer there, if that is known.
        expect: Option<PeerId>,
    },
    /// Disconnect a neighbour.
    HangUp {
        /// Whom.
        peer: PeerId,
    },
    /// Write a record to disk.
    Keep(Signed),
    /// Drop a record from disk.
    Forget(Signed),
    /// Write a conviction to disk.
    Note(Conviction),
    /// Write this standing to disk, in place of what was kept for the same peer.
    Credit(Credit),
    /// Drop what is on disk for a job: its blobs and the bodies of its outcomes.
    Clear(JobId),
    /// Drop the body with this R from disk, unless a job needs the same bytes as module or input.
    Discard(ResultHash),
    /// Get something onto the disk, from here if it is there already. Ends in one
    /// [`crate::Event::Fetched`].
    Fetch {
        /// What.
        need: Need,
        /// Whom to ask, best first.
        from: Vec<Source>,
    },
    /// Run these units, in order, after what the slot was given before.
    Run {
        /// The slot.
        slot: u16,
        /// The job.
        job: JobId,
        /// Rows of the job, at least one.
        units: Vec<u32>,
    },
    /// Kill what runs on a slot and drop what waits there. Ends in one [`crate::Event::Ran`] with
    /// `done` for each assignment.
    Stop {
        /// The slot.
        slot: u16,
    },
    /// What may be used changed: to be enforced at once, on what runs too. Told for the first time
    /// with the first rules.
    Lend(crate::budget::Allowance),
    /// Something the local user may want to know.
    Tell(News),
    /// Ring the one alarm at this time; replaces the time before.
    WakeAt(Time),
}

/// What can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The module of a job.
    Module {
        /// The job.
        job: JobId,
        /// The blob.
        blob: BlobId,
        /// Its size in bytes.
        bytes: u32,
    },
    /// The whole input table of a job.
    Inputs {
        /// The job.
        job: JobId,
        /// The index blob.
        blob: BlobId,
        /// The index blob's size in bytes.
        bytes: u32,
    },
    /// The body of an accepted outcome.
    Body {
        /// The job.
        job: JobId,
        /// The unit.
        index: u32,
        /// R.
        result: ResultHash,
    },
}

/// Somebody to fetch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Who.
    pub peer: PeerId,
    /// Where, if it is not a neighbour.
    pub addresses: Vec<SocketAddr>,
}

/// News for the local user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A job is new here, or its progress changed.
    Job(JobId),
    /// A unit's result is accepted.
    Accepted {
        /// The job.
        job: JobId,
        /// The unit.
        index: u32,
        /// R.
        result: ResultHash,
    },
    /// A unit whose result was accepted is open again: who it relied on was convicted.
    Reopened {
        /// The job.
        job: JobId,
        /// The unit.
        index: u32,
    },
    /// A peer is proven to have lied.
    Convicted(Conviction),
    /// A unit came to different results when it was run twice here. Either the module is not
    /// deterministic or this machine is at fault: nothing it finds of this job is held against anyone.
    Unsteady {
        /// The job.
        job: JobId,
        /// The unit.
        index: u32,
    },
    /// Nothing is left to do after [`crate::Order::Drain`]: nothing runs, and all receipts are said.
    Drained {
        /// Whether the node is to stop.
        exit: bool,
    },
    /// Another peer holds a job with its module and inputs on disk.
    Keeping {
        /// The job.
        job: JobId,
        /// Who.
        peer: PeerId,
    },
}

/// The actions of one turn.
#[derive(Debug, Default)]
pub struct Actions {
    list: Vec<Action>,
    /// The message of records to each peer that may still grow: where it is, and its bytes.
    open: BTreeMap<PeerId, (usize, usize)>,
}

impl Actions {
    /// No actions.
    pub fn new() -> Actions {
        Actions::default()
    }

    /// Adds one.
    pub(crate) fn push(&mut self, action: Action) {
        self.list.push(action);
    }

    /// Says a record to `to`, together with others of this turn.
    pub(crate) fn say_record(&mut self, to: PeerId, record: Arc<[u8]>) {
        let room = SAY_BYTES_MAX.saturating_sub(record.len());
        let open = self.open.get_mut(&to).filter(|(_, bytes)| *bytes <= room);
        if let Some((at, bytes)) = open
            && let Some(Action::Say { message: Message::Records(records), .. }) =
                self.list.get_mut(*at)
            && records.len() < Message::RECORDS_MAX
        {
            *bytes += record.len();
            records.push(record);
            return;
        }
        self.open.insert(to, (self.list.len(), record.len()));
        self.say(to, Message::Records(vec![record]));
    }

    /// Says records to `to`, in as few messages as their bounds allow.
    pub(crate) fn say_records(&mut self, to: PeerId, records: impl IntoIterator<Item = Arc<[u8]>>) {
        records.into_iter().for_each(|record| self.say_record(to, record));
    }

    /// Says `message` to `to`.
    pub(crate) fn say(&mut self, to: PeerId, message: Message) {
        self.push(Action::Say { to, message });
    }

    /// Tells the local user.
    pub(crate) fn tell(&mut self, news: News) {
        self.push(Action::Tell(news));
    }

    /// Takes all of them, leaving none.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action> {
        self.open.clear();
        self.list.drain(..)
    }
}

/// Bytes of records put into one message.
const SAY_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_turn_share_messages_within_their_bounds() {
        let (one, two) = (PeerId([1; 32]), PeerId([2; 32]));
        let sizes = |bytes: usize, count: usize| -> Vec<(PeerId, usize)> {
            let mut actions = Actions::new();
            let record: Arc<[u8]> = vec![0; bytes].into();
            for _ in 0..count {
                actions.say_record(one, record.clone());
                actions.say(one, Message::Have(vec![]));
                actions.say_record(two, record.clone());
            }
            let said = actions.drain().filter_map(|action| match action {
                Action::Say { to, message: Message::Records(records) } => Some((to, records.len())),
                _ => None,
            });
            said.collect()
        };
        assert_eq!(sizes(1000, 2), [(one, 2), (two, 2)]);
        let most = Message::RECORDS_MAX;
        assert_eq!(sizes(1000, most + 1), [(one, most), (two, most), (one, 1), (two, 1)]);
        assert_eq!(sizes(SAY_BYTES_MAX / 2, 2), [(one, 2), (two, 2)]);
        assert_eq!(sizes(SAY_BYTES_MAX / 2 + 1, 2).len(), 4);
    }
}
