//! Leases: who has announced to run which units, and for how long that holds.

use std::collections::BTreeMap;

use potluck_unit::{Claim, Job, PeerId, Time};

/// Who has announced to run which units of one job, by chunk.
#[derive(Debug, Default)]
pub(crate) struct Seats(pub(crate) BTreeMap<u32, Vec<Seat>>);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) peer: PeerId,
    pub(crate) units: u64,
    /// Whether it was claimed by a secret lot.
    pub(crate) secret: bool,
    /// The date of its last claim.
    made: Time,
    /// When it claimed these units first, or last said something of this chunk.
    pub(crate) since: Time,
    until: Time,
}

impl Seats {
    /// A claim arrived. True if it says anything new. What a peer claims again holds for longer, what
    /// it claims besides holds a seat of its own: how long that has been silent counts from now.
    pub(crate) fn on_claim(&mut self, now: Time, peer: PeerId, claim: &Claim, chunks: u32) -> bool {
        let until = now.plus_ms(claim.lease_ms.min(LEASE_COUNTS_MAX_MS).into());
        let mut fresh = false;
        for piece in claim.pieces.iter().filter(|piece| piece.chunk < chunks) {
            let seats = self.0.entry(piece.chunk).or_default();
            let newest = seats.iter().filter(|seat| seat.peer == peer).map(|seat| seat.made).max();
            seats.retain(|seat| seat.until > now);
            if newest.is_some_and(|newest| claim.made < newest) {
                continue;
            }
            let mut units = piece.units;
            for seat in seats.iter_mut().filter(|seat| seat.peer == peer) {
                let known = seat.units & piece.units;
                units &= !known;
                if known == 0 || claim.made == seat.made {
                    continue;
                }
                seat.made = claim.made;
                fresh = true;
                if claim.lease_ms == 0 {
                    seat.units &= !known;
                } else {
                    seat.until = until;
                    seat.secret |= piece.secret;
                }
            }
            if units == 0 || claim.lease_ms == 0 {
                continue;
            }
            let each = seats.iter().filter(|seat| seat.peer == peer).count();
            let last = seats.iter_mut().rfind(|seat| seat.peer == peer);
            if let Some(seat) = last.filter(|_| each == SEATS_EACH_MAX) {
                seat.units |= units;
                seat.secret |= piece.secret;
                (seat.made, seat.until) = (claim.made, until);
                fresh = true;
            } else if seats.len() < SEATS_MAX {
                let (secret, made) = (piece.secret, claim.made);
                seats.push(Seat { peer, units, secret, made, since: now, until });
                fresh = true;
            }
        }
        fresh
    }

    /// A neighbour disconnected: its leases shrink.
    pub(crate) fn on_left(&mut self, now: Time, peer: &PeerId) {
        let until = now.plus_ms(LEFT_LEASE_MS);
        for seat in self.0.values_mut().flatten().filter(|seat| seat.peer == *peer) {
            seat.until = seat.until.min(until);
        }
    }

    /// Forgets claims whose lease has ended.
    pub(crate) fn forget(&mut self, now: Time) {
        self.0.retain(|_, seats| {
            seats.retain(|seat| seat.until > now);
            !seats.is_empty()
        });
    }

    /// A worker said something of a chunk: it is at it.
    pub(crate) fn on_word(&mut self, now: Time, chunk: u32, peer: &PeerId) {
        let seats = self.0.get_mut(&chunk).into_iter().flatten();
        seats.filter(|seat| seat.peer == *peer).for_each(|seat| seat.since = now);
    }

    /// Every seat on `chunk` but this peer's own whose lease lasts.
    pub(crate) fn live(&self, now: Time, chunk: u32, me: &PeerId) -> impl Iterator<Item = &Seat> {
        let seats = self.0.get(&chunk).map_or(&[][..], Vec::as_slice);
        seats.iter().filter(move |seat| seat.until > now && seat.peer != *me)
    }
}

/// Seats of one peer on one chunk; what it claims beyond goes with the last.
pub(crate) const SEATS_EACH_MAX: usize = 4;
/// Seats remembered on one chunk: each of its units may be somebody else's.
pub(crate) const SEATS_MAX: usize = 2 * Job::COPIES_MAX as usize + Job::CHUNK_UNITS_MAX as usize;
/// The most one claim is worth; whoever needs longer renews it.
pub(crate) const LEASE_COUNTS_MAX_MS: u32 = 2 * LEASE_UNKNOWN_MS;
/// What is left of the leases of a neighbour that disconnected: time to reconnect, no more.
pub(crate) const LEFT_LEASE_MS: u64 = 3_000;
/// The lease while nothing is known of how long a unit takes; renewed as long as it is needed.
pub(crate) const LEASE_UNKNOWN_MS: u32 = 30_000;
