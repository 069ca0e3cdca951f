//! Mail: what machines send each other: dials, messages, and what is fetched.

use std::sync::Arc;

use potluck_peer::{Event, Need};
use potluck_unit::{Message, PeerId};

use crate::machine::Machine;
use crate::network;
use crate::scenario::Conduct;
use crate::work;
use crate::world::{Happening, World};

impl World {
    /// A dial comes to its end.
    pub(crate) fn dialled(
        &mut self,
        by: usize,
        life: u64,
        to: usize,
        expect: Option<PeerId>,
    ) -> Result<(), String> {
        if self.machines[by].life != life || self.machines[by].peer.is_none() {
            return Ok(());
        }
        let address = Machine::address(to);
        let answers = |machine: &Machine| {
            let right = expect.is_none_or(|peer| peer == machine.id);
            machine.peer.is_some() && !machine.spec.hidden && right
        };
        let up = self.machines.get(to).is_some_and(answers);
        if up && let Some(link) = self.network.stale(by, to) {
            for (side, other) in [(by, to), (to, by)] {
                self.happen(Happening::Lost { side, other, link })?;
            }
        }
        let up = up && self.machines[to].peer.is_some() && self.machines[by].peer.is_some();
        if !up || by == to || !self.network.reaches(self.now, by, to) {
            return self.tell(by, Event::DialFailed { address }, "dial failed", to, 0);
        }
        let Some(link) = self.network.link(by, to) else {
            return self.tell(by, Event::DialFailed { address }, "dialled twice", to, 0);
        };
        let joined = |world: &World, other: usize, outbound| Event::Joined {
            peer: world.machines[other].id,
            address: Machine::address(other),
            outbound,
        };
        let event = joined(self, to, true);
        self.tell(by, event, "joined", to, link)?;
        let event = joined(self, by, false);
        self.tell(to, event, "joined", by, link)
    }

    /// Something begins to be fetched.
    pub(crate) fn fetching(&mut self, machine: usize, need: Need, from: Vec<PeerId>) {
        let (life, ms) = (self.machines[machine].life, 2 * self.delay());
        let source = from.first().and_then(|peer| self.by_id.get(peer)).copied();
        let bytes = work::bytes(&need);
        let at = match source.filter(|source| *source != machine) {
            None => Some(self.now.plus_ms(ms)),
            Some(source) => self.network.carry(self.now, source, machine, (bytes, ms), true),
        };
        let from = if at.is_some() { from } else { Vec::new() };
        let need = Box::new(need);
        let at = at.unwrap_or(self.now.plus_ms(ms));
        self.happens_at(at, Happening::Fetched { machine, life, need, from });
    }

    /// What a fetch comes to.
    pub(crate) fn fetch(&mut self, machine: usize, need: &Need, from: &[PeerId]) -> bool {
        let lost = self.chance.happens(self.network.faults.loss_per_mille);
        let sources = from.iter().filter_map(|peer| self.by_id.get(peer).copied());
        let found = std::iter::once(machine).chain(sources).find(|source| {
            let source = *source;
            let near = source == machine || (!lost && self.serves(source, machine));
            near && holds(&self.machines[source], need)
        });
        if let Some(source) = found {
            match need {
                Need::Module { blob, .. } | Need::Inputs { blob, .. } => {
                    self.machines[machine].disk.blobs.insert(*blob);
                }
                Need::Body { result, .. } => {
                    let bytes = self.machines[source].disk.bodies.get(result).copied();
                    self.machines[machine].disk.bodies.insert(*result, bytes.unwrap_or(0));
                }
            }
        }
        found.is_some()
    }

    /// Whether a machine gives another what it has, over their link or one made for it.
    fn serves(&self, source: usize, to: usize) -> bool {
        let (giver, taker) = (&self.machines[source], &self.machines[to]);
        let willing = match giver.spec.conduct {
            Conduct::Withholds => false,
            Conduct::Eclipses { victim, .. } => victim != to,
            Conduct::Honest
            | Conduct::Fails
            | Conduct::BadCell { .. }
            | Conduct::Lies { .. }
            | Conduct::Colludes { .. }
            | Conduct::Copies
            | Conduct::Stalls
            | Conduct::Races { .. }
            | Conduct::Accuses { .. }
            | Conduct::Swarms { .. }
            | Conduct::Spams => true,
        };
        let dials = !giver.spec.hidden && self.network.reaches(self.now, source, to);
        let reached = self.network.is_linked(source, to) || dials;
        willing && reached && giver.peer.is_some() && taker.peer.is_some()
    }

    /// A peer says something to a neighbour.
    pub(crate) fn say(&mut self, from: usize, to: &PeerId, message: Message) -> Result<(), String> {
        let Some(to) = self.by_id.get(to).copied() else { return Ok(()) };
        if let Message::Records(records) = &message {
            let disk = &self.machines[from].disk;
            let own =
                |bytes: &[u8]| bytes[1] == RECEIPTS && bytes[2..34] == self.machines[from].id.0;
            let kept = |bytes: &[u8]| potluck_unit::id_of(bytes).is_some_and(|id| disk.holds(&id));
            if records.iter().any(|bytes| own(bytes) && !kept(bytes)) {
                return Err(format!("machine {from} says receipts that it does not keep"));
            }
        }
        // An eclipser introduces itself to its victim, and that is all.
        let mute = matches!(self.machines[from].spec.conduct, Conduct::Eclipses { victim, .. } if victim == to);
        if mute && !matches!(message, Message::Hello(_)) {
            return Ok(());
        }
        self.send(from, to, message);
        Ok(())
    }

    /// A cheat says records, or what passes for such, to one machine or to all it is linked to.
    pub(crate) fn shout(&mut self, from: usize, to: Option<usize>, records: &[Arc<[u8]>]) {
        for other in to.map_or(0..self.machines.len(), |to| to..to + 1) {
            if self.network.is_linked(from, other) {
                self.send(from, other, Message::Records(records.to_vec()));
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let bytes = network::size(&message);
        let twice = self.chance.happens(self.network.faults.twice_per_mille);
        let again = twice.then(|| message.clone());
        for message in again.into_iter().chain([message]) {
            if let Some((at, link)) = self.network.say(self.now, from, to, bytes, &mut self.chance)
            {
                self.happens_at(
                    at,
                    Happening::Deliver { from, to, link, message: Box::new(message) },
                );
            }
        }
    }

    pub(crate) fn delay(&mut self) -> u64 {
        let (least, most) = self.network.faults.delay_ms;
        least + self.chance.below(most - least + 1)
    }
}

/// The kind of receipts in a record's second byte.
const RECEIPTS: u8 = 3;

fn holds(machine: &Machine, need: &Need) -> bool {
    match need {
        Need::Module { blob, .. } | Need::Inputs { blob, .. } => machine.disk.blobs.contains(blob),
        Need::Body { result, .. } => machine.disk.bodies.contains_key(result),
    }
}

/// A message in a word and a number.
pub(crate) fn summary(message: &Message) -> (&'static str, u64) {
    let first = |bytes: &[u8; 32]| bytes[..8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    match message {
        Message::Hello(hello) => ("hello", hello.others.len() as u64),
        Message::Records(records) => {
            let id = records.first().and_then(|bytes| potluck_unit::id_of(bytes));
            ("records", id.map_or(0, |id| first(&id.0)))
        }
        Message::Have(ids) => ("have", ids.first().map_or(0, |id| first(&id.0))),
        Message::Want(ids) => ("want", ids.first().map_or(0, |id| first(&id.0))),
        Message::Compare(compare) => ("compare", compare.ranges.len() as u64),
        Message::Listing(listing) => ("listing", listing.ids.len() as u64),
        Message::Keeping(_) => ("keeping", 0),
    }
}
