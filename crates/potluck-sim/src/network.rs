//! The network: which machines are connected, and when what one says reaches the other.
//!
//! As in production a link keeps the order of messages and loses them only whole (a full queue), a
//! crash is noticed by the other side after a while, and two machines have at most one link.

use std::collections::BTreeMap;

use potluck_peer::Chance;
use potluck_unit::Time;

use crate::scenario::Faults;

/// All links, by the lower and the higher machine.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) faults: Faults,
    links: BTreeMap<(usize, usize), Link>,
    next: u64,
    /// Partitions: the first machine on the other side, and until when.
    parts: Vec<(usize, Time)>,
    pub(crate) said: u64,
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
    pub(crate) fn new(faults: Faults) -> Network {
        Network { faults, links: BTreeMap::new(), next: 0, parts: Vec::new(), said: 0 }
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

    /// When what `from` says now reaches `to`, with the number of the link: none if it is lost.
    pub(crate) fn say(
        &mut self,
        now: Time,
        from: usize,
        to: usize,
        chance: &mut Chance,
    ) -> Option<(Time, u64)> {
        self.said += 1;
        let lost = chance.happens(self.faults.loss_per_mille);
        let (least, most) = self.faults.delay_ms;
        let mut at = now.plus_ms(least + chance.below(most - least + 1));
        let link = self.links.get_mut(&pair(from, to)).filter(|link| !link.broken && !lost)?;
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
