//! The network: which machines are connected, and when what one says reaches the other.
//!
//! As in production a link keeps the order of messages and loses them only whole (a full queue), a
//! crash is noticed by the other side after a while, and two machines have at most one link. A
//! machine sends and receives so many bytes a second at most; what it can't yet waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use potluck_peer::Chance;
use potluck_unit::{Message, Time};

use crate::scenario::{Faults, MachineSpec};

/// All links, by the lower and the higher machine.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) faults: Faults,
    links: BTreeMap<(usize, usize), Link>,
    next: u64,
    /// Partitions: the first machine on the other side, and until when.
    parts: Vec<(usize, Time)>,
    /// What each machine can send and receive, and until when it is busy with that.
    /// Half is for messages, and half for what is fetched: neither holds up the other.
    pipes: Vec<[[Pipe; 2]; 2]>,
    pub(crate) said: u64,
    pub(crate) bytes: u64,
}

/// One direction of a machine's connection.
#[derive(Debug, Clone, Copy)]
struct Pipe {
    /// 0 for no limit.
    bytes_per_s: u64,
    /// In microseconds: a message may take less than a tick of the clock.
    free_us: u64,
}

/// What waits longer than this to be sent or received is dropped: a node's queues are bounded.
const QUEUE_MAX_MS: u64 = 10_000;

impl Pipe {
    /// When `bytes` that come at `at_us` are through: none if the queue before them is too long.
    fn through(&mut self, at_us: u64, bytes: u64) -> Option<u64> {
        if self.bytes_per_s == 0 {
            return Some(at_us);
        }
        let begin_us = self.free_us.max(at_us);
        if begin_us - at_us > QUEUE_MAX_MS * 1000 {
            return None;
        }
        self.free_us = begin_us + bytes * 1_000_000 / self.bytes_per_s;
        Some(self.free_us)
    }
}

#[derive(Debug)]
struct Link {
    number: u64,
    /// Whether each side still believes in it.
    joined: [bool; 2],
    /// Whether nothing gets through any more.
    broken: bool,
    /// When the last message towards each side arrives.
    last: [Time; 2],
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Network {
    pub(crate) fn new(faults: Faults, machines: &[MachineSpec]) -> Network {
        let pipe =
            |bytes_per_s: u64| [Pipe { bytes_per_s: bytes_per_s.div_ceil(2), free_us: 0 }; 2];
        Network {
            faults,
            links: BTreeMap::new(),
            next: 0,
            parts: Vec::new(),
            pipes: machines.iter().map(|m| [pipe(m.up_per_s), pipe(m.down_per_s)]).collect(),
            said: 0,
            bytes: 0,
        }
    }

    /// Whether two machines are linked, and both may use it.
    pub(crate) fn is_linked(&self, a: usize, b: usize) -> bool {
        self.links.get(&pair(a, b)).is_some_and(|link| !link.broken)
    }

    /// Whether two machines can reach each other.
    pub(crate) fn reaches(&self, now: Time, a: usize, b: usize) -> bool {
        let cut = |(first, until): &(usize, Time)| *until > now && (a < *first) != (b < *first);
        !self.parts.iter().any(cut)
    }

    /// Cuts the machines below `first` off from the others.
    pub(crate) fn part(&mut self, first: usize, until: Time) -> Vec<(usize, usize, u64)> {
        self.parts.push((first, until));
        let cut = self.links.iter_mut().filter(|((a, b), _)| (*a < first) != (*b < first));
        cut.map(|((a, b), link)| {
            link.broken = true;
            (*a, *b, link.number)
        })
        .collect()
    }

    /// Heals every partition.
    pub(crate) fn heal(&mut self) {
        self.parts.clear();
    }

    /// Links two machines. None if they are linked already.
    pub(crate) fn link(&mut self, a: usize, b: usize) -> Option<u64> {
        if self.links.contains_key(&pair(a, b)) {
            return None;
        }
        self.next += 1;
        let number = self.next;
        let link = Link { number, joined: [true; 2], broken: false, last: [Time(0); 2] };
        self.links.insert(pair(a, b), link);
        Some(number)
    }

    /// Breaks the link between two machines. Its number, so that each side can be told.
    pub(crate) fn break_link(&mut self, a: usize, b: usize) -> Option<u64> {
        let link = self.links.get_mut(&pair(a, b))?;
        link.broken = true;
        Some(link.number)
    }

    /// Whether a broken link is in the way of a new one between `a` and `b`.
    pub(crate) fn stale(&self, a: usize, b: usize) -> Option<u64> {
        self.links.get(&pair(a, b)).filter(|link| link.broken).map(|link| link.number)
    }

    /// `side` of the link with this number notices its end. False if it had before.
    pub(crate) fn leave(&mut self, side: usize, other: usize, number: u64) -> bool {
        let Some(link) = self.links.get_mut(&pair(side, other)) else { return false };
        if link.number != number {
            return false;
        }
        let was = std::mem::replace(&mut link.joined[usize::from(side > other)], false);
        if link.joined == [false; 2] {
            self.links.remove(&pair(side, other));
        }
        was
    }

    /// Breaks all links of a crashed machine, which forgets them at once. The others with their
    /// links' numbers.
    pub(crate) fn crash(&mut self, machine: usize) -> Vec<(usize, u64)> {
        let mut others = Vec::new();
        self.links.retain(|(a, b), link| {
            if *a != machine && *b != machine {
                return true;
            }
            let other = a + b - machine;
            link.broken = true;
            link.joined[usize::from(machine > other)] = false;
            if link.joined != [false; 2] {
                others.push((other, link.number));
            }
            link.joined != [false; 2]
        });
        others
    }

    /// When `bytes` from `from` have reached `to`, after this delay: none if they are dropped. How
    /// busy the receiver is is known only for what was sent before, which is near enough.
    pub(crate) fn carry(
        &mut self,
        now: Time,
        from: usize,
        to: usize,
        (bytes, delay_ms): (u64, u64),
        fetched: bool,
    ) -> Option<Time> {
        let half = usize::from(fetched);
        let sent_us = self.pipes[from][0][half].through(now.0 * 1000, bytes)?;
        let there_us = self.pipes[to][1][half].through(sent_us + delay_ms * 1000, bytes)?;
        Some(Time(there_us / 1000))
    }

    /// When what `from` says now reaches `to`, with the number of the link: none if it is lost.
    pub(crate) fn say(
        &mut self,
        now: Time,
        from: usize,
        to: usize,
        bytes: u64,
        chance: &mut Chance,
    ) -> Option<(Time, u64)> {
        self.said += 1;
        self.bytes += bytes;
        let lost = chance.happens(self.faults.loss_per_mille);
        let (least, most) = self.faults.delay_ms;
        let delay_ms = least + chance.below(most - least + 1);
        self.links.get(&pair(from, to)).filter(|link| !link.broken && !lost)?;
        let mut at = self.carry(now, from, to, (bytes, delay_ms), false)?;
        let link = self.links.get_mut(&pair(from, to))?;
        let last = &mut link.last[usize::from(to > from)];
        if !self.faults.reorder {
            at = at.max(*last);
            *last = at;
        }
        Some((at, link.number))
    }

    /// Whether the link with this number still carries anything to `to`.
    pub(crate) fn carries(&self, from: usize, to: usize, number: u64) -> bool {
        self.links.get(&pair(from, to)).is_some_and(|link| link.number == number && !link.broken)
    }
}

/// The bytes of a message's frame, without making them.
pub(crate) fn size(message: &Message) -> u64 {
    let varint = |number: usize| number.checked_ilog2().map_or(1, |bits| bits as usize / 7 + 1);
    let blob = |bytes: &Arc<[u8]>| varint(bytes.len()) + bytes.len();
    let blobs = |all: &[Arc<[u8]>]| varint(all.len()) + all.iter().map(blob).sum::<usize>();
    let body = match message {
        Message::Records(records) => blobs(records),
        Message::Have(ids) | Message::Want(ids) => varint(ids.len()) + 32 * ids.len(),
        // Seldom, or short.
        Message::Hello(_) | Message::Compare(_) | Message::Listing(_) | Message::Keeping(_) => {
            return message.to_bytes().len() as u64;
        }
    };
    (2 + body) as u64
}

#[cfg(test)]
mod tests {
    use potluck_unit::RecordId;

    use super::*;

    #[test]
    fn the_size_of_a_message_is_that_of_its_frame() {
        for count in [0, 1, 127, 128, 256] {
            let ids = vec![RecordId([7; 32]); count];
            let records = vec![Arc::from(vec![1; count * 65]); count];
            for message in
                [Message::Have(ids.clone()), Message::Want(ids), Message::Records(records)]
            {
                assert_eq!(size(&message), message.to_bytes().len() as u64);
            }
        }
    }

    #[test]
    fn what_waits_too_long_is_dropped() {
        let mut pipe = Pipe { bytes_per_s: 1000, free_us: 0 };
        assert_eq!(pipe.through(0, 10_000), Some(10_000_000));
        assert_eq!(pipe.through(0, 1), Some(10_001_000));
        assert_eq!(pipe.through(0, 1), None);
        assert_eq!(pipe.through(10_001_000, 1), Some(10_002_000));
    }
}
