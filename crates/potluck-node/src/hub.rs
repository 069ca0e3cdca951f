//! The loop of a node: waits for one thing, tells the peer, carries out what the peer wants done.
//!
//! Several things that are there at once make one turn: what the peer wants kept in that turn is
//! written in one transaction, and only then is anything said. So nothing a peer ever acknowledged
//! is lost by a `kill -9`, and a burst of records costs one flush of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use potluck_peer::{Action, Actions, Event, Need, News, Peer, Ran};
use potluck_unit::{
    BlobId, InputIndex, JobId, Message, PageRef, PeerId, Record, ResultHash, Signed, Time,
};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tracing::{debug, error, info, warn};

use crate::giving::Giving;
use crate::lending::Lending;
use crate::net::{Net, NetEvent, Wanted};
use crate::notes;
use crate::slots::{Assignment, Slots};
use crate::store::{Change, Needed, Store};
use crate::traffic::Traffic;

/// Things handled in one turn: bounds how long a record waits for its transaction.
const TURN_MAX: usize = 256;
/// Fetches under way at once.
const FETCHES_MAX: usize = 16;
/// How long after the disk failed it is tried again.
const DISK_RETRY_MS: u64 = 1000;

/// What reaches the loop from inside the node.
pub(crate) enum Input {
    /// Runs ended on a slot.
    Ran(Ran),
    /// What became of a fetch.
    Fetched(Need, bool),
    /// A body with this R and so many bytes, too large for a receipt, is on disk.
    Holds(ResultHash, u64),
    /// The local user wants something. Runs inside the loop, between two turns.
    Ask(Box<dyn FnOnce(&mut Hub) + Send>),
    /// End the loop.
    Stop,
}

/// The loop's state.
pub(crate) struct Hub {
    peer: Peer,
    store: Store,
    net: Net,
    traffic: Traffic,
    pub(crate) slots: Option<Slots>,
    /// For handing to fetches.
    pub(crate) inputs: mpsc::Sender<Input>,
    news: broadcast::Sender<JobId>,
    fetches: Arc<Semaphore>,
    now: Time,
    alarm: Option<Time>,
    /// `--join` addresses as the user wrote them, with what went wrong last.
    joins: Vec<JoinState>,
    actions: Actions,
    /// What a failing disk kept from being carried out. While there is any, the network is not
    /// listened to, so that it stays bounded.
    held: Vec<Action>,
    /// Whether a sweep is to come by itself.
    sweeps_later: bool,
    giving: Giving,
    pub(crate) lending: Lending,
    /// To end the node when it has drained.
    stop: watch::Sender<bool>,
    first: Vec<Event>,
}

/// An address that the user gave.
#[derive(Debug, Clone)]
pub(crate) struct JoinState {
    pub(crate) written: String,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) error: Option<String>,
}

/// What a hub is made of.
pub(crate) struct Parts {
    pub(crate) peer: Peer,
    pub(crate) store: Store,
    pub(crate) net: Net,
    pub(crate) traffic: Traffic,
    pub(crate) slots: Slots,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) news: broadcast::Sender<JobId>,
    pub(crate) joins: Vec<JoinState>,
    /// Set when the node is to stop.
    pub(crate) stop: watch::Sender<bool>,
    /// What the peer is told before it wakes.
    pub(crate) first: Vec<Event>,
}

impl Hub {
    /// A hub whose peer has replayed what it kept, as of `now`.
    pub(crate) fn new(parts: Parts, now: Time) -> Hub {
        Hub {
            giving: Giving::of(&parts.peer),
            peer: parts.peer,
            store: parts.store,
            net: parts.net,
            traffic: parts.traffic,
            slots: Some(parts.slots),
            inputs: parts.inputs,
            news: parts.news,
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            now,
            alarm: None,
            joins: parts.joins,
            actions: Actions::new(),
            held: Vec::new(),
            sweeps_later: false,
            lending: Lending::default(),
            stop: parts.stop,
            first: parts.first,
        }
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn net(&self) -> &Net {
        &self.net
    }

    pub(crate) fn joins(&self) -> &[JoinState] {
        &self.joins
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Tells the peer something on behalf of the local user and carries out what follows at once.
    pub(crate) fn tell(&mut self, event: Event) {
        self.handle(event);
        self.carry_out();
    }

    /// Runs until told to stop, or until the disk fails.
    pub(crate) async fn run(
        mut self,
        mut net_events: mpsc::Receiver<NetEvent>,
        mut inputs: mpsc::Receiver<Input>,
    ) {
        for event in std::mem::take(&mut self.first) {
            self.handle(event);
        }
        self.handle(Event::Woke);
        self.carry_out();
        // What the last run of this node had still to drop, and to note.
        self.sweep_later();
        if !self.settle_giving() {
            self.settle_giving_later();
        }
        loop {
            let alarm = self.sleep_until_alarm();
            tokio::select! {
                biased;
                Some(input) = inputs.recv() => {
                    if self.on_input(input) {
                        break;
                    }
                }
                Some(event) = net_events.recv(), if self.held.is_empty() => self.on_net(event),
                () = alarm => self.handle(Event::Woke),
            }
            let mut stop = false;
            for _ in 0..TURN_MAX {
                if let Ok(input) = inputs.try_recv() {
                    stop |= self.on_input(input);
                } else if let Some(event) = self.next_net(&mut net_events) {
                    self.on_net(event);
                } else {
                    break;
                }
            }
            self.carry_out();
            if stop {
                break;
            }
        }
        self.carry_out();
        self.settle_giving();
        self.close(inputs).await;
    }

    fn next_net(&self, events: &mut mpsc::Receiver<NetEvent>) -> Option<NetEvent> {
        if self.held.is_empty() { events.try_recv().ok() } else { None }
    }

    async fn close(&mut self, mut inputs: mpsc::Receiver<Input>) {
        // A slot that waits to hand over a report must not wait for ever.
        inputs.close();
        while inputs.try_recv().is_ok() {}
        if let Some(slots) = self.slots.take()
            && let Err(error) = tokio::task::spawn_blocking(move || slots.close()).await
        {
            warn!("the slots did not close: {error}");
        }
        self.net.close().await;
        self.traffic.close().await;
    }

    fn sleep_until_alarm(&self) -> impl Future<Output = ()> + use<> {
        let wait = self.alarm.map(|at| Duration::from_millis(at.ms_since(clock())));
        async move {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        // The clock of the machine may be set back; the peer's never is.
        self.now = self.now.max(clock());
        if matches!(event, Event::Woke) {
            self.alarm = None;
        }
        self.peer.handle(self.now, event, &mut self.actions);
    }

    /// Whether to stop.
    fn on_input(&mut self, input: Input) -> bool {
        match input {
            Input::Ran(ran) => self.handle(Event::Ran(ran)),
            Input::Holds(result, bytes) => self.handle(Event::Holds { result, bytes }),
            Input::Fetched(need, found) => self.handle(Event::Fetched { need, found }),
            Input::Ask(question) => {
                // The answer must not run ahead of what is on disk.
                self.carry_out();
                question(self);
            }
            Input::Stop => return true,
        }
        false
    }

    fn on_net(&mut self, event: NetEvent) {
        match event {
            NetEvent::Up { peer, address, outbound } => {
                info!("connected to {} at {address}", peer.short());
                self.note_join(address, None);
                self.handle(Event::Joined { peer, address, outbound });
            }
            NetEvent::Down { peer, reason } => {
                info!("disconnected from {}: {reason}", peer.short());
                self.handle(Event::Left { peer });
            }
            NetEvent::Frame { peer, bytes } => match Message::of_bytes(&bytes) {
                Ok(message) => self.handle(Event::Heard { from: peer, message }),
                Err(error) => {
                    warn!("{} sent a message that can't be read: {error}", peer.short());
                    self.net.hang_up(&peer);
                }
            },
            NetEvent::DialFailed { address, reason } => {
                debug!("cannot reach {address}: {reason}");
                self.note_join(address, Some(reason));
                self.handle(Event::DialFailed { address });
            }
        }
    }

    fn note_join(&mut self, address: SocketAddr, error: Option<String>) {
        for join in self.joins.iter_mut().filter(|join| join.address == Some(address)) {
            if let Some(error) = error.as_ref().filter(|_| join.error.is_none()) {
                warn!("cannot reach {}: {error}", join.written);
            }
            join.error.clone_from(&error);
        }
    }

    /// Carries out everything the peer wanted in this turn: the disk first, then the rest.
    fn carry_out(&mut self) {
        let mut actions = std::mem::take(&mut self.held);
        actions.extend(self.actions.drain());
        if actions.is_empty() {
            return;
        }
        let changes: Vec<Change> = actions.iter().flat_map(changes_of).collect();
        if !changes.is_empty()
            && let Err(error) = tokio::task::block_in_place(|| self.store.commit(&changes))
        {
            // Saying what is not on disk would acknowledge what a crash could lose.
            error!("{error}; nothing more is taken in until the disk takes it");
            self.held = actions;
            self.alarm = Some(self.now.plus_ms(DISK_RETRY_MS));
            self.make_room();
            return;
        }
        self.make_room();
        let mut says = Says::default();
        let me = self.peer.id();
        if actions.iter().filter(|action| self.giving.note(me, action)).count() > 0 {
            self.settle_giving_later();
        }
        for action in actions {
            self.carry_out_one(action, &mut says);
        }
        for (to, message) in says.messages {
            self.net.send(&to, message.to_bytes().into());
        }
        for peer in says.hang_ups {
            self.net.hang_up(&peer);
        }
        if !says.discards.is_empty() {
            self.discard(&says.discards);
        }
    }

    fn carry_out_one(&mut self, action: Action, says: &mut Says) {
        match action {
            Action::Say { to, message } => says.push(to, message),
            Action::Dial { address, expect } => self.net.dial(address, expect),
            Action::HangUp { peer } => says.hang_ups.push(peer),
            Action::Keep(_) | Action::Forget(_) | Action::Note(_) | Action::Credit(_) => {}
            Action::Lend(allowance) => {
                if let Some(slots) = &self.slots {
                    self.lending.enforce(self.now, allowance, slots, &self.net);
                }
            }
            Action::Clear(job) => {
                debug!("job {} has expired or was closed", job.short());
                self.sweep();
                self.sweep_later();
            }
            Action::Discard(result) => says.discards.push(result),
            Action::Fetch { need, from } => {
                let (net, store) = (self.net.clone(), self.store.clone());
                let (inputs, fetches) = (self.inputs.clone(), self.fetches.clone());
                tokio::spawn(async move {
                    let Ok(_permit) = fetches.acquire().await else { return };
                    let found = crate::fetch::fetch(net, store.clone(), need, from).await;
                    if let Need::Body { result, .. } = need
                        && found
                        && let Some(bytes) = store.body_bytes(&result)
                    {
                        let _ = inputs.send(Input::Holds(result, bytes)).await;
                    }
                    // The loop is gone only when the node stops.
                    let _ = inputs.send(Input::Fetched(need, found)).await;
                });
            }
            Action::Run { slot, job, units } => self.assign(slot, job, units),
            Action::Stop { slot } => {
                if let Some(slots) = &self.slots {
                    slots.stop(slot);
                }
            }
            Action::Tell(news) => self.publish(news),
            Action::WakeAt(at) => self.alarm = Some(at),
        }
    }

    /// Drops what no job needs any more from the disk. Inside the loop, so that nothing that is
    /// being kept meanwhile is taken for unneeded; jobs expire seldom.
    fn sweep(&self) {
        let swept =
            tokio::task::block_in_place(|| self.store.sweep(&self.needed(), Store::SWEEP_AGE));
        match swept {
            Ok(dropped) => debug!("{dropped} blobs and bodies dropped"),
            Err(error) => warn!("{error}; what expired jobs left stays on disk for now"),
        }
    }

    /// Drops what no job needs any more at once, if something was refused for want of room.
    fn make_room(&self) {
        let Some(bytes) = self.store.pressed() else { return };
        let made = tokio::task::block_in_place(|| self.store.make_room(bytes, &self.needed()));
        match made {
            Ok(true) => debug!("room is made for {bytes} bytes"),
            Ok(false) => warn!("the disk that is lent is full, and all that is on it is needed"),
            Err(error) => warn!("{error}; no room could be made on disk"),
        }
    }

    /// Everything that a job known here needs on the disk.
    fn needed(&self) -> Needed {
        let (mut blobs, results) = self.peer.needed();
        let read = |blob: &BlobId| self.store.read(&Wanted::Blob(*blob));
        let indices = blobs.iter().filter_map(|blob| InputIndex::of_blob(&read(blob)?).ok());
        let pages: Vec<PageRef> = indices.flat_map(|index| index.pages().to_vec()).collect();
        blobs.extend(pages.iter().map(|page| page.id));
        Needed { blobs, results }
    }

    /// Sweeps once more when what was too young for the last sweep no longer is.
    fn sweep_later(&mut self) {
        if std::mem::replace(&mut self.sweeps_later, true) {
            return;
        }
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Store::SWEEP_AGE).await;
            let sweep = Input::Ask(Box::new(|hub: &mut Hub| {
                hub.sweeps_later = false;
                hub.sweep();
            }));
            // The loop is gone only when the node stops.
            let _ = inputs.send(sweep).await;
        });
    }

    /// Puts on disk what this node has given by now. Whether the disk took it.
    pub(crate) fn settle_giving(&mut self) -> bool {
        tokio::task::block_in_place(|| self.giving.settle(&self.peer, &self.store, self.now))
    }

    /// Drops bodies that the peer keeps for nobody any more. The same bytes may be somebody's module
    /// or input; then they stay.
    fn discard(&self, results: &[ResultHash]) {
        tokio::task::block_in_place(|| {
            let needed = self.needed();
            let spared = needed.blobs.iter().map(|id| id.result_hash());
            let spared: BTreeSet<ResultHash> = spared.collect();
            for result in results.iter().filter(|result| !spared.contains(result)) {
                if let Err(error) = self.store.drop_body(result) {
                    warn!("{error}; a body that is kept for nobody stays on disk for now");
                }
            }
        });
    }

    fn assign(&self, slot: u16, id: JobId, units: Vec<u32>) {
        let (Some(status), Some(slots)) = (self.peer.job(&id), &self.slots) else { return };
        let Record::Job(job) = status.record.record() else { return };
        let job = Arc::new(job.clone());
        slots.assign(slot, Assignment { id, submitter: status.record.signer(), job, units });
    }

    fn publish(&mut self, news: News) {
        let job = match news {
            News::Job(job) | News::Keeping { job, .. } | News::Reopened { job, .. } => job,
            // Progress is published with the job, once a turn.
            News::Accepted { .. } => return,
            News::Drained { exit } => {
                self.lending.note(self.now, "what was begun is done and said".to_owned());
                if exit {
                    self.stop.send_replace(true);
                }
                return;
            }
            News::Convicted(conviction) => {
                let (peer, job) = (conviction.peer.short(), conviction.job.short());
                let line = format!("peer {peer} lied about unit {} of job {job}", conviction.index);
                self.lending.note(self.now, line);
                conviction.job
            }
            News::Unsteady { job, index } => {
                let short = job.short();
                warn!(
                    "unit {index} of job {short} came to different results in two runs here: either \
                     its module is not deterministic or this machine is at fault; check its memory"
                );
                job
            }
        };
        // Nobody may be listening.
        let _ = self.news.send(job);
    }
}

/// What is said in one turn, with records for one neighbour put together.
#[derive(Default)]
struct Says {
    messages: Vec<(PeerId, Message)>,
    /// Where in `messages` the last message to each neighbour is, with its bytes of records.
    last: BTreeMap<PeerId, (usize, usize)>,
    hang_ups: Vec<PeerId>,
    /// Bodies to be dropped: together, because what must stay is looked up for all.
    discards: Vec<ResultHash>,
}

impl Says {
    fn push(&mut self, to: PeerId, message: Message) {
        let bytes = match &message {
            Message::Records(records) => records.iter().map(|record| record.len() + 4).sum(),
            Message::Hello(_)
            | Message::Have(_)
            | Message::Want(_)
            | Message::Compare(_)
            | Message::Listing(_)
            | Message::Keeping(_) => Message::BYTES_MAX,
        };
        if let (Some((at, before)), Message::Records(more)) = (self.last.get_mut(&to), &message)
            && *before + bytes < Message::BYTES_MAX / 2
            && let Some((_, Message::Records(records))) = self.messages.get_mut(*at)
            && records.len() + more.len() <= Message::RECORDS_MAX
        {
            records.extend(more.iter().cloned());
            *before += bytes;
            return;
        }
        self.last.insert(to, (self.messages.len(), bytes));
        self.messages.push((to, message));
    }
}

fn changes_of(action: &Action) -> Vec<Change> {
    match action {
        Action::Keep(record) => {
            let mut changes = vec![Change::Keep { id: record.id(), bytes: record.bytes().clone() }];
            if let Record::Receipts(batch) = record.record() {
                changes.extend(batch.bodies.iter().map(|body| Change::Body {
                    result: potluck_unit::BlobId::of(body).result_hash(),
                    bytes: body.clone(),
                }));
            }
            changes
        }
        Action::Forget(record) => vec![Change::Forget { id: record.id() }],
        Action::Note(conviction) => vec![notes::of_conviction(conviction)],
        Action::Credit(credit) => vec![notes::of_credit(credit)],
        Action::Say { .. }
        | Action::Dial { .. }
        | Action::HangUp { .. }
        | Action::Clear(_)
        | Action::Discard(_)
        | Action::Fetch { .. }
        | Action::Run { .. }
        | Action::Stop { .. }
        | Action::Lend(_)
        | Action::Tell(_)
        | Action::WakeAt(_) => Vec::new(),
    }
}

/// Replays into `peer` what `store` kept before a restart.
pub(crate) fn replay(peer: &mut Peer, store: &Store, now: Time) -> Result<(), String> {
    let mut nothing = Actions::new();
    let notes = store.notes().map_err(|error| error.to_string())?;
    for event in notes.iter().filter_map(notes::event_of) {
        peer.handle(now, event, &mut nothing);
    }
    for bytes in store.records().map_err(|error| error.to_string())? {
        // Our own disk needs no signature check; what is unreadable was written by other software.
        match Signed::of_bytes_with(&bytes, |_, _, _| true) {
            Ok(record) => peer.handle(now, Event::Kept { record }, &mut nothing),
            Err(error) => warn!("a kept record can't be read and is left out: {error}"),
        }
        nothing.drain();
    }
    let (_, results) = peer.needed();
    let bodies = store.bodies().map_err(|error| error.to_string())?;
    for (result, bytes) in bodies.into_iter().filter(|(result, _)| results.contains(result)) {
        peer.handle(now, Event::Holds { result, bytes }, &mut nothing);
    }
    Ok(())
}

/// The machine's clock.
pub(crate) fn clock() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_for_one_neighbour_travel_together_and_in_order() {
        let mut says = Says::default();
        let record: Arc<[u8]> = vec![0; 1000].into();
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        for _ in 0..3 {
            says.push(a, Message::Records(vec![record.clone()]));
            says.push(b, Message::Records(vec![record.clone()]));
        }
        says.push(a, Message::Keeping(JobId([0; 32])));
        says.push(a, Message::Records(vec![record.clone()]));
        let records = |message: &Message| {
            if let Message::Records(records) = message { records.len() } else { 0 }
        };
        let shapes: Vec<(PeerId, usize)> =
            says.messages.iter().map(|(to, message)| (*to, records(message))).collect();
        assert_eq!(shapes, [(a, 3), (b, 3), (a, 0), (a, 1)]);
    }

    #[test]
    fn joined_records_stay_within_the_bounds_of_a_message() {
        let mut says = Says::default();
        let record: Arc<[u8]> = vec![0; 60_000].into();
        for _ in 0..100 {
            says.push(PeerId([1; 32]), Message::Records(vec![record.clone()]));
        }
        for (_, message) in says.messages {
            assert!(Message::of_bytes(&message.to_bytes()).is_ok());
        }
    }
}
