//! Cheats: what machines do that mean harm, or that are broken without knowing it.
//!
//! All of them run a production [`potluck_peer::Peer`], so that they are linked, hear everything and
//! are heard. What they add to it is of two kinds: what they say of units they were given ([`says`]),
//! and what they sign and send of their own accord once a second ([`scheme`]).
//!
//! | who | tries | must come of it |
//! | --- | --- | --- |
//! | liar | to be believed with a result it made up | it is contradicted and convicted by whoever ran the unit |
//! | sleeper | to be trusted first, and to lie then | the same: nobody's past makes a lie true |
//! | heist | to lie about many units of one job, having been honest in all others | the job's submitter learns of it by audits; the lies are undone |
//! | coalition | to own a quorum: many keys of one owner tell one lie, only where no outsider has a seat | no more wins than the owner's share of seats drawn by lottery |
//! | copycat | to be credited for what others ran | its digest is wrong: who ran the unit convicts it |
//! | staller | to hold seats and deliver nothing | its lease and others' patience run out |
//! | withholder | to be credited, and to lose the outputs | bodies nobody has are made anew |
//! | racer | to have spoken on every unit before anybody else, without a seat; in a pact, on few units, so that nobody is at one just then | its receipts do not count where it has no seat, and convict it where it lied |
//! | accuser | to have honest peers suspected, and work wasted on disputes | one run settles a dispute and convicts the accuser |
//! | framing committee | to outvote an honest peer | votes convict nobody |
//! | swarm | to be many: one machine, many keys, all lying alike at once | keys cost work, and newcomers' words do not decide |
//! | eclipser | to be all that a victim knows and hears of | the victim keeps links that it dialled itself |
//! | spammer | to fill disks, tables and queues | what is over a bound is refused, honest work goes on |
//! | bad memory cell | nothing: it means well, and now and then is wrong | never believed; forgiven while it happens seldom |

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use potluck_peer::{Chance, Draws, Peer, Report};
use potluck_unit::{
    BlobId, Claim, Close, Contact, Identity, Job, JobId, Key, Limits, PeerId, Piece, Proof,
    Quality, Receipt, ReceiptBatch, Record, Seat, Signed, Statement, Time, UnitId, Witness,
    WorkDigest,
};

use crate::guest::Guest;
use crate::machine::Machine;
use crate::scenario::{Conduct, MachineSpec};
use crate::work::Work;

/// How often a cheat does something of its own accord.
pub(crate) const SCHEME_EVERY_MS: u64 = 1000;
/// How often at most: a world with cheats must end.
const SCHEMES_MAX: u32 = 120;
/// Units forged in one go.
const FORGED_MAX: usize = 64;
/// Units that an accuser takes up in one go.
const ACCUSED_MAX: usize = 16;
/// Of so many units racers of a pact take one.
const RACED_EVERY: u32 = 8;
/// Jobs that one spammer submits, in all and in one go.
const SPAM_JOBS_MAX: u32 = 12;
const SPAM_JOBS: u32 = 2;
/// Others' jobs that one spammer floods with receipts, and how often in one go.
const SPAMMED_JOBS: usize = 4;
const SPAMMED_TIMES: u64 = 8;
/// Contacts in one message of an eclipser.
const CONTACTS: usize = 64;

/// What a machine says of a unit that it was given.
pub(crate) enum Says {
    /// What an honest run finds.
    Truth,
    /// This, which it made up, with its body.
    Made(Guest),
    /// This and no more.
    Only(Report),
}

/// What coalitions know among themselves, by pact.
pub(crate) type Plots = BTreeMap<u8, Plot>;

/// What one coalition knows.
#[derive(Debug, Default)]
pub(crate) struct Plot {
    /// Who is given which unit.
    taken: BTreeMap<(JobId, u32), BTreeSet<PeerId>>,
    /// On which units it lies, and on which it does not: all members alike.
    lies: BTreeMap<(JobId, u32), bool>,
}

impl Plot {
    /// A member was given units.
    pub(crate) fn take(&mut self, member: PeerId, job: JobId, units: &[u32]) {
        for index in units {
            self.taken.entry((job, *index)).or_default().insert(member);
        }
    }
}

/// What a machine has forged so far, and with what.
#[derive(Debug, Default)]
pub(crate) struct Forged {
    keys: Vec<Key>,
    times: u32,
    jobs: u32,
    units: BTreeSet<(JobId, u32)>,
}

impl Forged {
    pub(crate) fn of(spec: &MachineSpec, number: usize, seed: u64) -> Forged {
        let count = match spec.conduct {
            Conduct::Swarms { keys } | Conduct::Eclipses { keys, .. } => keys,
            Conduct::Honest
            | Conduct::Fails
            | Conduct::BadCell { .. }
            | Conduct::Lies { .. }
            | Conduct::Colludes { .. }
            | Conduct::Copies
            | Conduct::Stalls
            | Conduct::Withholds
            | Conduct::Races { .. }
            | Conduct::Accuses { .. }
            | Conduct::Spams => 0,
        };
        let key = |n: u16| {
            let mut hasher = blake3::Hasher::new_derive_key("potluck sim alias");
            hasher.update(&seed.to_le_bytes()).update(&(number as u64).to_le_bytes());
            Key::of_secret(hasher.update(&n.to_le_bytes()).finalize().as_bytes())
        };
        Forged { keys: (0..count).map(key).collect(), ..Forged::default() }
    }
}

/// Who lies alike makes up the same.
fn liar(pact: Option<u8>, number: usize) -> u64 {
    pact.map_or(1000 + number as u64, u64::from)
}

/// What a machine says of a unit that it ran, or should have run.
pub(crate) fn says(
    machine: &Machine,
    job: &JobId,
    index: u32,
    work: &Work,
    plots: &mut Plots,
    chance: &mut Chance,
) -> Says {
    let number = machine.number;
    let lie = |liar| Says::Made(Guest::lie(&UnitId::of(job, index), index, liar));
    match machine.spec.conduct {
        Conduct::BadCell { per_mille } if chance.happens(per_mille) => lie(2000 + number as u64),
        Conduct::Lies { per_mille, pact, after, job: only } => {
            let here = only.is_none() || only == work.number(job);
            if machine.runs > after && here && chance.happens(per_mille) {
                lie(liar(pact, number))
            } else {
                Says::Truth
            }
        }
        Conduct::Colludes { pact } => {
            let plot = plots.entry(pact).or_default();
            if colludes(machine, plot, job, index, work) {
                lie(liar(Some(pact), number))
            } else {
                Says::Truth
            }
        }
        Conduct::Copies => {
            let words = machine.peer.as_ref().and_then(|peer| peer.unit(job, index));
            let mut others = words.into_iter().flat_map(|unit| unit.words);
            others.find_map(|word| word.said.ok()).map_or(Says::Truth, |result| {
                let made_up = Witness([u8::try_from(number % 251).unwrap_or(0); 32]);
                Says::Only(Report { index, result: Ok((result, made_up)), body: None })
            })
        }
        Conduct::Honest
        | Conduct::Fails
        | Conduct::BadCell { .. }
        | Conduct::Stalls
        | Conduct::Withholds
        | Conduct::Races { .. }
        | Conduct::Accuses { .. }
        | Conduct::Swarms { .. }
        | Conduct::Eclipses { .. }
        | Conduct::Spams => Says::Truth,
    }
}

/// Whether a coalition lies about a unit: if no outsider has spoken, and enough members were given
/// it to make a quorum. Once decided, all members say the same, unless an outsider came first.
fn colludes(machine: &Machine, plot: &mut Plot, job: &JobId, index: u32, work: &Work) -> bool {
    let key = (*job, index);
    let members = plot.taken.get(&key).cloned().unwrap_or_default();
    let status = machine.peer.as_ref().and_then(|peer| peer.unit(job, index));
    let words = status.map_or_else(Vec::new, |unit| unit.words);
    let alone = words.iter().all(|word| members.contains(&word.peer));
    let copies = work.task(job).map_or(usize::MAX, |task| usize::from(task.spec.copies));
    let lies = *plot.lies.entry(key).or_insert(members.len() >= copies);
    lies && alone
}

/// Something a cheat does of its own accord.
#[derive(Debug)]
pub(crate) enum Deed {
    /// It lets its own peer and all its neighbours hear this.
    Spread(Vec<Signed>),
    /// It says these bytes to one machine, or to all its neighbours.
    Say(Option<usize>, Vec<Arc<[u8]>>),
    /// It dials a machine.
    Dial(usize),
}

/// What a cheat does now of its own accord. Nothing from most.
pub(crate) fn scheme(
    machine: &mut Machine,
    now: Time,
    ids: &[PeerId],
    draws: &dyn Draws,
    chance: &mut Chance,
) -> Vec<Deed> {
    machine.forged.times += 1;
    let (number, times) = (machine.number, machine.forged.times);
    if times > SCHEMES_MAX {
        return Vec::new();
    }
    let mut forged = std::mem::take(&mut machine.forged);
    let Some(peer) = &machine.peer else {
        machine.forged = forged;
        return Vec::new();
    };
    let forge = Forge { peer, now, draws };
    let deeds = match machine.spec.conduct {
        Conduct::Races { pact } => {
            let secret = number.is_multiple_of(2);
            let few = |index: u32| pact.is_none() || index.is_multiple_of(RACED_EVERY);
            let units = forge.fresh(&mut forged.units, FORGED_MAX, |index, _| few(index));
            let lies = units.iter().map(|(job, units)| (*job, units.as_slice()));
            let batches = lies.flat_map(|(job, units)| {
                forge.lies(&machine.key, job, units, liar(pact, number), secret)
            });
            vec![Deed::Spread(batches.collect())]
        }
        Conduct::Accuses { victim, pact } => {
            let victim = victim.and_then(|victim| ids.get(victim));
            let (me, mates) = (machine.id, liar(pact, number));
            let units = forge.fresh(&mut forged.units, ACCUSED_MAX, |_, words| {
                let right = |word: &&potluck_peer::Word| {
                    word.said.is_ok() && word.peer != me && victim.is_none_or(|v| *v == word.peer)
                };
                words.iter().any(|word| right(&word))
            });
            let lies = units.iter().map(|(job, units)| (*job, units.as_slice()));
            let batches =
                lies.flat_map(|(job, units)| forge.lies(&machine.key, job, units, mates, false));
            let slander = forge.slander(&machine.key, victim);
            vec![Deed::Spread(batches.chain(slander).collect())]
        }
        Conduct::Swarms { .. } => swarm(&forge, &mut forged, number),
        Conduct::Eclipses { victim, .. } => eclipse(&forge, &forged, victim, number),
        Conduct::Spams => spam(&forge, &mut forged, machine, ids.len(), chance),
        Conduct::Honest
        | Conduct::Fails
        | Conduct::BadCell { .. }
        | Conduct::Lies { .. }
        | Conduct::Colludes { .. }
        | Conduct::Copies
        | Conduct::Stalls
        | Conduct::Withholds => Vec::new(),
    };
    machine.forged = forged;
    deeds
}

/// Whether a machine of this conduct does things of its own accord.
pub(crate) fn schemes(conduct: Conduct) -> bool {
    match conduct {
        Conduct::Races { .. }
        | Conduct::Accuses { .. }
        | Conduct::Swarms { .. }
        | Conduct::Eclipses { .. }
        | Conduct::Spams => true,
        Conduct::Honest
        | Conduct::Fails
        | Conduct::BadCell { .. }
        | Conduct::Lies { .. }
        | Conduct::Colludes { .. }
        | Conduct::Copies
        | Conduct::Stalls
        | Conduct::Withholds => false,
    }
}

/// Where a machine that cheats makes records that no honest peer would.
#[derive(Clone, Copy)]
struct Forge<'a> {
    peer: &'a Peer,
    now: Time,
    draws: &'a dyn Draws,
}

impl Forge<'_> {
    /// Units not forged before whose words are such, of every job known, and notes them.
    fn fresh(
        &self,
        forged: &mut BTreeSet<(JobId, u32)>,
        most: usize,
        fits: impl Fn(u32, &[potluck_peer::Word]) -> bool,
    ) -> Vec<(JobId, Vec<u32>)> {
        let mut found = Vec::new();
        for job in self.peer.jobs() {
            let units = self.peer.job_record(&job).map_or(0, |job| job.units);
            let free = (0..units).filter(|index| !forged.contains(&(job, *index)));
            let fit = |index: &u32| {
                self.peer.unit(&job, *index).is_some_and(|unit| fits(*index, &unit.words))
            };
            let taken: Vec<u32> = free.filter(fit).take(most).collect();
            forged.extend(taken.iter().map(|index| (job, *index)));
            if !taken.is_empty() {
                found.push((job, taken));
            }
        }
        found
    }

    /// Lies about these units under as few signatures as may be, claiming a place in the public
    /// lottery, or one in the secret ones.
    fn lies(&self, key: &Key, job: JobId, units: &[u32], liar: u64, secret: bool) -> Vec<Signed> {
        let chunk_units = self.peer.job_record(&job).map_or(1, Job::chunk_units);
        let chunks: Vec<&[u32]> = if secret {
            units.chunk_by(|a, b| a / chunk_units == b / chunk_units).collect()
        } else {
            vec![units]
        };
        let signed = |units: &[u32]| {
            let seat = match units.first() {
                Some(first) if secret => {
                    let chunk = first / chunk_units;
                    let (proof, _) = self.draws.make(key, &job.draw_input(chunk));
                    Seat::Drawn { chunk, proof }
                }
                _ => Seat::Public,
            };
            let mut batch = ReceiptBatch::new(job, self.now, seat);
            for index in units {
                let unit = UnitId::of(&job, *index);
                let guest = Guest::lie(&unit, *index, liar);
                let digest = guest.witness.work_digest(&key.id(), &unit);
                let statement = Statement::Outcome { result: guest.result, digest };
                batch.receipts.push(Receipt { index: *index, statement });
                batch.bodies.push(guest.body.to_vec());
            }
            Signed::sign(key, Record::Receipts(batch))
        };
        chunks.into_iter().filter(|units| !units.is_empty()).map(signed).collect()
    }

    /// Says of those who ran units that they did not.
    fn slander(&self, key: &Key, victim: Option<&PeerId>) -> Vec<Signed> {
        let jobs = self.peer.jobs().into_iter();
        let records = jobs.filter_map(|job| self.peer.records(&job)).flatten();
        let theirs = records.filter(|record| {
            record.signer() != key.id() && victim.is_none_or(|victim| *victim == record.signer())
        });
        let proofs = theirs.filter_map(|record| {
            let Record::Receipts(batch) = record.record() else { return None };
            let Receipt { index, statement: Statement::Outcome { result, .. } } =
                *batch.receipts.first()?
            else {
                return None;
            };
            let proof = Proof::of(&record, index, result, WorkDigest([0; 16]))?;
            Some(Signed::sign(key, Record::Proof(proof)))
        });
        proofs.take(ACCUSED_MAX).collect()
    }

    fn contact(&self, key: &Key, addresses: Vec<SocketAddr>, slots: u16) -> Signed {
        let agent = "sim".to_owned();
        let (nickname, team, identity) = (String::new(), String::new(), Identity::NONE);
        let contact = Contact { made: self.now, addresses, slots, agent, nickname, team, identity };
        Signed::sign(key, Record::Contact(contact))
    }
}

/// First everybody hears of all its keys, then they lie about everything, a few keys about each unit:
/// who is convicted for one of them takes few others along.
fn swarm(forge: &Forge, forged: &mut Forged, number: usize) -> Vec<Deed> {
    let address = vec![Machine::address(number)];
    if forged.times == 1 {
        let contact = |key: &Key| forge.contact(key, address.clone(), 1);
        return vec![Deed::Spread(forged.keys.iter().map(contact).collect())];
    }
    let units = forge.fresh(&mut forged.units, FORGED_MAX, |_, _| true);
    let mut batches = Vec::new();
    for (job, units) in units {
        let copies = forge.peer.job_record(&job).map_or(1, |job| usize::from(job.copies.max(1)));
        let groups: Vec<&[Key]> = forged.keys.chunks(copies).collect();
        for (at, keys) in groups.iter().enumerate() {
            let theirs = |index: &&u32| **index as usize % groups.len() == at;
            let units: Vec<u32> = units.iter().filter(theirs).copied().collect();
            let lies = |key| forge.lies(key, job, &units, liar(None, number), false);
            batches.extend(keys.iter().flat_map(lies));
        }
    }
    vec![Deed::Spread(batches)]
}

/// Fills the victim's contacts and knocks at its door.
fn eclipse(forge: &Forge, forged: &Forged, victim: usize, number: usize) -> Vec<Deed> {
    let address = vec![Machine::address(number)];
    let contact =
        |key: &Key| forge.contact(key, address.clone(), Contact::SLOTS_MAX).bytes().clone();
    let mut deeds = vec![Deed::Dial(victim)];
    // Anew now and then: the newest are kept.
    if forged.times % 40 == 2 {
        let messages = forged.keys.chunks(CONTACTS);
        deeds.extend(
            messages.map(|keys| Deed::Say(Some(victim), keys.iter().map(contact).collect())),
        );
    }
    deeds
}

/// A little of everything that costs others something.
fn spam(
    forge: &Forge,
    forged: &mut Forged,
    machine: &Machine,
    machines: usize,
    chance: &mut Chance,
) -> Vec<Deed> {
    let (key, now) = (&machine.key, forge.now);
    let mut records = Vec::new();
    for id in forge.peer.jobs() {
        let Some(job) = forge.peer.job_record(&id) else { continue };
        let most = u32::try_from(Claim::PIECES_MAX).unwrap_or(u32::MAX);
        let piece = |chunk| Piece { chunk, units: u64::MAX, secret: false };
        let pieces = (0..job.chunks().min(most)).map(piece).collect();
        let claim = Claim { job: id, made: now, lease_ms: Claim::LEASE_MAX_MS, pieces };
        records.push(Signed::sign(key, Record::Claim(claim)));
        // Somebody else's job closed.
        records.push(Signed::sign(key, Record::Close(Close { job: id, results: None })));
    }
    // The same lies about others' jobs, again and again: about those that matter most, and the oldest.
    let foreign = forge.peer.jobs().into_iter().filter_map(|id| {
        let (job, status) = (forge.peer.job_record(&id)?, forge.peer.job(&id)?);
        let key = (std::cmp::Reverse(job.quality), job.created, id);
        (status.record.signer() != machine.id).then_some(key)
    });
    let mut foreign: Vec<_> = foreign.collect();
    foreign.sort_unstable();
    for (.., id) in foreign.into_iter().take(SPAMMED_JOBS) {
        let units = forge.peer.job_record(&id).map_or(1, |job| job.units.min(4));
        let units: Vec<u32> = (0..units).collect();
        for again in 0..SPAMMED_TIMES {
            let forge = Forge { now: now.plus_ms(again), ..*forge };
            records.extend(forge.lies(key, id, &units, liar(None, machine.number), false));
        }
    }
    let ports = (0..4).map(|_| u16::try_from(chance.below(60_000)).unwrap_or(0));
    let addresses = ports.map(|port| ([10, 9, 8, 7], port).into()).collect();
    records.push(forge.contact(key, addresses, Contact::SLOTS_MAX));
    for _ in 0..SPAM_JOBS {
        if forged.jobs < SPAM_JOBS_MAX {
            forged.jobs += 1;
            records.push(Signed::sign(key, Record::Job(spam_job(now, chance))));
        }
    }
    let rubbish: Vec<u8> = (0..200).map(|_| u8::try_from(chance.below(256)).unwrap_or(0)).collect();
    let mut deeds = vec![Deed::Spread(records)];
    if forged.times.is_multiple_of(10) {
        deeds.push(Deed::Say(None, vec![rubbish.into()]));
    }
    deeds.push(Deed::Dial(usize::try_from(chance.below(machines as u64)).unwrap_or(0)));
    deeds
}

/// A job whose module nobody has.
fn spam_job(now: Time, chance: &mut Chance) -> Job {
    Job {
        created: now,
        expires: now.plus_ms(Job::LIFE_MAX_MS),
        nonce: chance.next_u64(),
        module: BlobId([0xee; 32]),
        module_bytes: 1,
        inputs: BlobId([0xee; 32]),
        inputs_bytes: 1,
        units: 100,
        limits: Limits::DEFAULT,
        copies: 1,
        quality: Quality::Bulk,
        peers: 1,
        priority: Job::PRIORITY_MAX,
        label: String::new(),
        identity: Identity::NONE,
        extras: Vec::new(),
    }
}
