//! The mind of Potluck: what one peer decides, told events and the time, answering with actions.
//!
//! There is no clock here, no socket, no disk, no chance of its own and no hash-map order: the same
//! seed, key and events give the same actions, in the node and in the simulator alike.
//!
//! One event goes in with the time, a list of actions comes out, and there is one alarm. After a
//! restart the node replays what was kept as ordinary events.

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm,
        reason = "tests count small things and look for one variant among many"
    )
)]

mod config;
mod choice;
mod budget;
mod event;
mod accusations;
mod action;
mod roster;
mod admission;
mod gossip;
mod board;
mod record_set;
mod fetch;
mod keepers;
mod retention;
mod seats;
mod tally;
mod judge;
mod standing;
mod leases;
mod schedule;
mod claims;
mod audits;
mod shares;
mod runs;
mod lending;
mod idle;
mod status;
mod timers;
mod chance;
pub mod arithmetic;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use potluck_unit::{
    Contact, DecodeError, Hello, Key, Message, PeerId, Record, Signed, Time, Topic,
};

pub use action::{Action, Actions, Need, News, Source};
pub use budget::{
    Allowance, Battery, Budget, Caps, Effect, Hours, HoursError, Measure, Order, Origins, Reading,
    Reason, Rule, Rules, Section, Set,
};
pub use chance::Chance;
pub use choice::{Choice, Pattern, Refusal};
pub use config::{Config, Draws, Read, Verify};
pub use event::{Event, Ran, Report};
pub use idle::{Idle, SlotStatus};
pub use standing::{Conviction, Credit, Level};
pub use status::{Assurance, JobStatus, PeerStatus, UnitStatus, Word};
pub use tally::{Counts, Verdict};

use admission::{Admission, Admitted};
use board::{Board, Held};
use gossip::Gossip;
use keepers::Keepers;
use lending::Lending;
use roster::{Noted, Roster};
use runs::Runs;
use shares::Shares;
use standing::Standing;
use timers::{Timer, Timers};

/// One peer's mind.
#[derive(Debug)]
pub struct Peer {
    key: Key,
    me: PeerId,
    config: Config,
    chance: Chance,
    timers: Timers,
    roster: Roster,
    admission: Admission,
    gossip: Gossip,
    board: Board,
    standing: Standing,
    runs: Runs,
    keepers: Keepers,
    shares: Shares,
    lending: Lending,
    /// Peers known to lend slots, this one included if it does.
    workers: usize,
    /// When they are counted again at the latest: some may not have been heard of for long.
    count_at: Time,
    contact_at: Time,
    /// Peers that accused somebody falsely.
    slanderers: BTreeSet<PeerId>,
    /// What this peer last said of itself, and when.
    contact: Option<(Time, Signed)>,
    compare_at: Time,
    compared: Option<potluck_unit::JobId>,
    plan_due: bool,
    /// Whether what was kept before a restart has all been replayed.
    awake: bool,
    /// Since when it is awake.
    woke_at: Time,
    /// When it looks again who is established.
    refresh_at: Time,
    /// When it was last told anything.
    told_at: Time,
}

/// How often the peer looks around while there is something to do.
const TICK_BUSY_MS: u64 = 1000;
/// How often it does when there is nothing.
const TICK_IDLE_MS: u64 = 10_000;
/// How often sets are compared with a neighbour while jobs are open.
const COMPARE_BUSY_MS: u64 = 5_000;
/// How often they are when none is.
const COMPARE_IDLE_MS: u64 = 30_000;
/// With so few peers known the workers are counted on every change.
const COUNT_AT_ONCE_MAX: usize = 256;
/// Jobs compared in one turn.
const COMPARE_JOBS_MAX: usize = 4;

impl Peer {
    /// A peer that has heard nothing yet. Hand it [`Event::Kept`], [`Event::Convicted`] and
    /// [`Event::Credited`] for what it kept before, then [`Event::Woke`] to start it: until then it asks for nothing.
    pub fn new(key: Key, config: Config) -> Peer {
        let me = key.id();
        // A peer that lends nothing keeps one slot to settle disputes about its own jobs.
        let slots = config.slots.max(1);
        Peer {
            me,
            key,
            chance: Chance::of_seed(config.seed),
            timers: Timers::default(),
            roster: Roster::new(me, &config.joins),
            admission: Admission::default(),
            gossip: Gossip::default(),
            board: Board::default(),
            standing: Standing::default(),
            runs: Runs::new(slots),
            keepers: Keepers::new(config.keep_max_bytes),
            shares: Shares::default(),
            lending: Lending::new(config.weights.clone()),
            workers: usize::from(config.slots > 0),
            count_at: Time(0),
            contact_at: Time(0),
            slanderers: BTreeSet::new(),
            contact: None,
            compare_at: Time(0),
            compared: None,
            plan_due: false,
            awake: false,
            woke_at: Time(0),
            refresh_at: Time(0),
            told_at: Time(0),
            config,
        }
    }

    /// This peer's id.
    pub fn id(&self) -> PeerId {
        self.me
    }

    /// Tells the peer one thing. What it wants done is added to `actions`; the number of actions is
    /// bounded by the bounds of what it was told and of the sets it holds.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Actions) {
        self.told_at = now;
        match event {
            Event::Joined { peer, address, outbound } => {
                self.on_joined(now, peer, address, outbound, actions);
            }
            Event::Left { peer } => self.on_left(now, &peer, actions),
            Event::DialFailed { address } => self.roster.on_dial_failed(now, address),
            Event::Heard { from, message } => self.on_message(now, from, message, actions),
            Event::Kept { record } => self.on_kept(now, &record),
            Event::Convicted(conviction) => {
                self.standing.convict(conviction);
                self.judge_all(now, actions);
            }
            Event::Credited(credit) => self.standing.on_credited(&credit),
            Event::Submitted { record } => self.on_submitted(now, &record, actions),
            Event::Collect { job } => self.on_collect(&job, actions),
            Event::Check { job } => self.on_check(now, &job, actions),
            Event::Fetched { need, found } => self.on_fetched(now, need, found, actions),
            Event::Holds { result, bytes } => self.keepers.on_holds(self.awake, result, bytes),
            Event::Ran(ran) => self.on_ran(now, ran, actions),
            Event::Rules(rules) => self.on_rules(now, *rules, actions),
            Event::Reading(reading) => self.on_reading(now, reading, actions),
            Event::Order(order) => self.on_order(now, order, actions),
            Event::Woke => {
                self.timers.rang();
                self.timers.at_latest(Timer::Tick, now.plus_ms(TICK_IDLE_MS));
                if !std::mem::replace(&mut self.awake, true) {
                    self.woke_at = now;
                    self.settle_in(now, actions);
                    self.tick(now, actions);
                }
            }
        }
        if !self.awake {
            return;
        }
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Flush => self.flush_all(now, actions),
                Timer::Push => self.push_all(actions),
                Timer::Announce => self.announce(actions),
                Timer::Ask => self.ask(now, actions),
                Timer::Tick => self.tick(now, actions),
                Timer::Plan => self.plan_due = true,
                Timer::Lend => self.on_lending_due(now, actions),
            }
        }
        if self.plan_due {
            self.share_out(now);
        }
        self.plan(now, actions);
        self.flush_idle(now, actions);
        self.tell_drained(actions);
        for job in self.board.take_changed() {
            actions.tell(News::Job(job));
        }
        if let Some(at) = self.timers.news() {
            actions.push(Action::WakeAt(at));
        }
    }

    fn on_joined(
        &mut self,
        now: Time,
        peer: PeerId,
        address: SocketAddr,
        outbound: bool,
        actions: &mut Actions,
    ) {
        if !self.lending.now.connects() {
            return actions.push(Action::HangUp { peer });
        }
        let others = self.roster.sample(Message::OTHERS_MAX, &mut self.chance);
        let others = others.into_iter().map(|record| record.bytes().clone()).collect();
        let contact = self.own_contact(now).bytes().clone();
        let hello = Hello { contact, observed: Some(address), others };
        actions.say(peer, Message::Hello(hello));
        if !self.roster.on_joined(now, peer, address, outbound) {
            if self.roster.may_listen(now, peer) {
                self.look_again_at_latest(now.plus_ms(TICK_BUSY_MS));
            } else {
                actions.push(Action::HangUp { peer });
            }
            return;
        }
        self.count_workers_soon(now, actions);
        if outbound {
            // One side is enough: comparing levels both.
            self.compare_with(now, peer, Topic::Board, actions);
            let open = self.board.jobs().filter(|(_, entry)| !entry.closed && !entry.is_settled());
            for id in open.map(|(id, _)| *id).take(COMPARE_JOBS_MAX) {
                self.compare_with(now, peer, Topic::Job(id), actions);
            }
        }
        let kept = self.board.jobs().filter(|(_, entry)| entry.is_ready());
        for (id, _) in kept.filter(|(_, entry)| entry.submitter() == peer) {
            actions.say(peer, Message::Keeping(*id));
        }
        self.tell_accusations(peer, actions);
        self.look_again_at_latest(now.plus_ms(TICK_BUSY_MS));
    }

    fn on_left(&mut self, now: Time, peer: &PeerId, actions: &mut Actions) {
        self.roster.on_left(now, peer);
        self.gossip.on_left(peer);
        for id in self.board.job_ids() {
            if let Some(entry) = self.board.get_mut(&id) {
                // Where not all are neighbours, who disconnects has most likely gone elsewhere.
                if !entry.plan.settles() {
                    entry.seats.on_left(now, peer);
                }
                entry.plan.look_again();
            }
        }
        self.count_workers_soon(now, actions);
        self.look_again_at_latest(now.plus_ms(TICK_BUSY_MS));
    }

    fn on_message(&mut self, now: Time, from: PeerId, message: Message, actions: &mut Actions) {
        match message {
            Message::Hello(hello) => {
                let contacts = std::iter::once(&hello.contact).chain(&hello.others);
                contacts.for_each(|bytes| self.on_bytes(now, from, bytes, actions));
            }
            Message::Records(records) => {
                records.iter().for_each(|bytes| self.on_bytes(now, from, bytes, actions));
            }
            Message::Have(ids) => self.on_have(now, from, &ids),
            Message::Want(ids) => self.on_want(from, &ids, actions),
            Message::Compare(compare) => self.on_compare(now, from, &compare, actions),
            Message::Listing(listing) => self.on_listing(from, &listing, actions),
            Message::Keeping(job) => self.on_keeping(from, job, actions),
        }
    }

    /// A record arrived as bytes. It is checked only if it is not known.
    fn on_bytes(&mut self, now: Time, from: PeerId, bytes: &Arc<[u8]>, actions: &mut Actions) {
        if let Some(read) = &self.config.read
            && let Ok(record) = read(bytes)
        {
            if !self.is_seen(&record.id()) {
                self.on_record(now, from, &record, actions);
            }
            return;
        }
        let Some(id) = potluck_unit::id_of(bytes) else { return self.on_misdeed(from, actions) };
        if self.is_seen(&id) {
            return;
        }
        let read = match &self.config.verify {
            None => Signed::of_bytes(bytes),
            Some(verify) => Signed::of_bytes_with(bytes, |peer, signed, signature| {
                verify(peer, signed, signature)
            }),
        };
        match read {
            Ok(record) => self.on_record(now, from, &record, actions),
            // Newer software may say things we don't understand; that is no misdeed.
            Err(DecodeError::UnknownVersion { .. } | DecodeError::UnknownKind { .. }) => {
                self.gossip.note_seen(id);
            }
            Err(
                DecodeError::TooLong { .. }
                | DecodeError::Malformed
                | DecodeError::OutOfBounds { .. }
                | DecodeError::BadSignature,
            ) => self.on_misdeed(from, actions),
        }
    }

    /// A neighbour passed on what it must have found to be wrong.
    fn on_misdeed(&self, from: PeerId, actions: &mut Actions) {
        if self.roster.is_neighbour(&from) {
            actions.push(Action::HangUp { peer: from });
        }
    }

    fn on_record(&mut self, now: Time, from: PeerId, record: &Signed, actions: &mut Actions) {
        let known_job = |job| self.board.get(job).is_some_and(|entry| !entry.is_cleared());
        match record.record() {
            // What is about a job we have not heard of yet may come again, after the job.
            Record::Claim(claim) if !known_job(&claim.job) => return,
            Record::Receipts(batch) if !known_job(&batch.job) => return,
            Record::Close(close) if !known_job(&close.job) => return,
            Record::Proof(proof) if !known_job(&proof.job()) => return,
            Record::Job(_)
            | Record::Claim(_)
            | Record::Receipts(_)
            | Record::Close(_)
            | Record::Contact(_)
            | Record::Proof(_) => {}
        }
        match self.admits(now, record) {
            Admitted::Yes => {}
            Admitted::No => return self.gossip.note_seen(record.id()),
            Admitted::NotYet => return self.gossip.refuse(now, record.id()),
            Admitted::Never => {
                self.gossip.note_seen(record.id());
                return self.on_misdeed(from, actions);
            }
        }
        let fresh = match record.record() {
            Record::Job(_) => self.on_job(now, record, Held::No(now), actions),
            Record::Claim(claim) => {
                self.gossip.pass(record);
                self.on_claim(now, record.signer(), claim)
            }
            Record::Receipts(batch) if !self.board.is_within(batch) => {
                self.gossip.note_seen(record.id());
                return self.on_misdeed(from, actions);
            }
            Record::Receipts(batch) => match self.draw_of(&record.signer(), batch) {
                Ok(draw) => self.on_receipts(now, record, draw, actions),
                Err(()) => {
                    self.gossip.note_seen(record.id());
                    return self.on_misdeed(from, actions);
                }
            },
            Record::Close(_) => self.on_close(record, actions),
            Record::Contact(_) => {
                self.gossip.pass(record);
                self.on_contact(now, record, true, actions)
            }
            Record::Proof(proof) => self.on_accusation(record, proof),
        };
        if self.board.has(&record.id()) {
            self.gossip.note_here(&record.id());
        } else if !self.gossip.is_refused(&record.id()) {
            self.gossip.note_seen(record.id());
        }
        if fresh && !self.is_old(now, record, &from) {
            self.spread(now, record, Some(from), actions);
        }
        if let Some(job) = record.job_id().filter(|_| fresh) {
            // Others may be done with much of it already.
            self.compare_with(now, from, Topic::Job(job), actions);
            self.compare_at = self.compare_at.min(now.plus_ms(COMPARE_BUSY_MS));
            self.fetch_inputs(now, actions);
            self.look_again_at_latest(now.plus_ms(TICK_BUSY_MS));
        }
    }

    /// Whether a record comes late, with much else that this peer missed and others have.
    fn is_old(&self, now: Time, record: &Signed, from: &PeerId) -> bool {
        match record.record() {
            Record::Receipts(batch) => self.gossip.is_filled_by(now, &Topic::Job(batch.job), from),
            Record::Job(_)
            | Record::Claim(_)
            | Record::Close(_)
            | Record::Contact(_)
            | Record::Proof(_) => false,
        }
    }

    /// Somebody says where it is. True if that is new.
    fn on_contact(
        &mut self,
        now: Time,
        record: &Signed,
        live: bool,
        actions: &mut Actions,
    ) -> bool {
        let Noted::New { moved, useless } = self.roster.note(now, record, live) else {
            return false;
        };
        if moved {
            actions.push(Action::Keep(record.clone()));
        }
        if let Some(useless) = useless {
            actions.push(Action::Forget(useless));
        }
        self.count_workers_soon(now, actions);
        if self.roster.is_lonely() {
            self.look_again_at_latest(now.plus_ms(TICK_BUSY_MS));
        }
        true
    }

    /// Something from before a restart: already verified, already on disk, and nobody is told.
    fn on_kept(&mut self, now: Time, record: &Signed) {
        // What was kept in a private grid: an open one would send away whoever passes it on.
        if matches!(self.admits(now, record), Admitted::No | Admitted::Never) {
            return;
        }
        let mut nothing = Actions::new();
        match record.record() {
            Record::Job(_) => {
                self.on_job(now, record, Held::No(now), &mut nothing);
            }
            Record::Receipts(batch) => {
                if let Ok(draw) = self.draw_of(&record.signer(), batch) {
                    self.on_receipts(now, record, draw, &mut nothing);
                }
            }
            Record::Close(_) => {
                self.on_close(record, &mut nothing);
            }
            Record::Contact(_) => {
                self.on_contact(now, record, false, &mut nothing);
            }
            Record::Claim(_) | Record::Proof(_) => {}
        }
    }

    fn on_submitted(&mut self, now: Time, record: &Signed, actions: &mut Actions) {
        let fresh = match record.record() {
            Record::Job(_) => self.on_job(now, record, Held::Yes, actions),
            Record::Close(_) => self.on_close(record, actions),
            Record::Claim(_) | Record::Receipts(_) | Record::Contact(_) | Record::Proof(_) => false,
        };
        if fresh {
            self.spread(now, record, None, actions);
            self.look_again_at_latest(now.plus_ms(TICK_BUSY_MS));
        }
    }

    /// What this peer says of itself. The same until it is time to tell everybody anew: whoever it
    /// connects to would pass on what is newer.
    fn own_contact(&mut self, now: Time) -> Signed {
        if let Some((made, contact)) = &self.contact
            && now.ms_since(*made) < self.roster.contact_every_ms()
        {
            return contact.clone();
        }
        let addresses = &self.config.addresses;
        let contact = Contact {
            made: now,
            addresses: addresses.iter().take(Contact::ADDRESSES_MAX).copied().collect(),
            slots: self.slots_said().min(Contact::SLOTS_MAX),
            agent: self.config.agent.chars().take(Contact::AGENT_BYTES_MAX).collect(),
            nickname: self.config.nickname.clone(),
            team: self.config.team.clone(),
            identity: self.config.identity,
        };
        let contact = Signed::sign(&self.key, Record::Contact(contact));
        self.contact = Some((now, contact.clone()));
        contact
    }

    /// Counts the workers now if that is quick, or else when this peer looks around next.
    fn count_workers_soon(&mut self, now: Time, actions: &mut Actions) {
        if self.roster.known().len() <= COUNT_AT_ONCE_MAX {
            self.count_workers(now, actions);
            self.weigh_strangers(now, actions);
        } else {
            self.count_at = now;
            self.look_again_at_latest(now.plus_ms(TICK_BUSY_MS));
        }
    }

    fn count_workers(&mut self, now: Time, actions: &mut Actions) {
        self.count_at = now.plus_ms(TICK_IDLE_MS);
        let workers = self.roster.workers(now) + usize::from(self.lends());
        if workers == self.workers {
            return;
        }
        self.workers = workers;
        // Who is left to try decides what is unrunnable.
        let gave_up = |entry: &board::Entry| entry.tally.counts().unrunnable > 0;
        if self.board.jobs().any(|(_, entry)| gave_up(entry)) {
            self.judge_all(now, actions);
        }
        for id in self.board.job_ids() {
            actions.tell(News::Job(id));
        }
    }

    fn look_again_at_latest(&mut self, at: Time) {
        self.timers.at_latest(Timer::Tick, at);
    }

    /// Looks around: what is due by the clock rather than by an event.
    fn tick(&mut self, now: Time, actions: &mut Actions) {
        self.expire(now, actions);
        self.gossip.pardon(now);
        for peer in self.roster.partings(now, &mut self.chance) {
            actions.push(Action::HangUp { peer });
        }
        if self.lending.now.connects() {
            for (address, expect) in self.roster.dials(now, &mut self.chance) {
                actions.push(Action::Dial { address, expect });
            }
        }
        if self.contact_at <= now {
            self.contact_at = now.plus_ms(self.roster.contact_every_ms());
            let contact = self.own_contact(now);
            self.gossip.pass(&contact);
            self.spread(now, &contact, None, actions);
        }
        self.compare_filled(now, actions);
        let busy = self.board.is_busy();
        if self.compare_at <= now {
            let pause = if busy { COMPARE_BUSY_MS } else { COMPARE_IDLE_MS };
            self.compare_at = now.plus_ms(pause);
            self.compare_with_one(now, actions);
        }
        if self.count_at <= now {
            self.count_workers(now, actions);
        }
        self.weigh_strangers(now, actions);
        self.ripen(now);
        self.fetch_inputs(now, actions);
        self.look_after_bodies(now, actions);
        for id in self.board.job_ids() {
            if let Some(entry) = self.board.get_mut(&id) {
                entry.retry_missed(now);
                entry.seats.forget(now);
                // Leases and patience have run out meanwhile.
                entry.plan.look_again();
            }
            self.fetch_bodies(&id, actions);
        }
        self.renew_claims(now, actions);
        self.plan_due = true;
        let soon = busy || self.roster.is_lonely();
        self.look_again_at_latest(now.plus_ms(if soon { TICK_BUSY_MS } else { TICK_IDLE_MS }));
    }

    /// Compares the board, and a few open jobs in turn, with one neighbour at random.
    fn compare_with_one(&mut self, now: Time, actions: &mut Actions) {
        let mut neighbours: Vec<PeerId> = self.roster.neighbours().collect();
        self.chance.shuffle(&mut neighbours);
        let Some(peer) = neighbours.first().copied() else { return };
        self.compare_with(now, peer, Topic::Board, actions);
        let open = |(_, entry): &(&potluck_unit::JobId, &board::Entry)| {
            !entry.closed && !entry.is_settled()
        };
        let ids: Vec<_> = self.board.jobs().filter(open).map(|(id, _)| *id).collect();
        let after = |id: &&potluck_unit::JobId| self.compared.is_none_or(|last| **id > last);
        let mut turn: Vec<_> = ids.iter().filter(after).copied().collect();
        turn.extend(ids.iter().filter(|id| !after(id)).copied());
        for id in turn.into_iter().take(COMPARE_JOBS_MAX) {
            self.compared = Some(id);
            self.compare_with(now, peer, Topic::Job(id), actions);
        }
    }
}
