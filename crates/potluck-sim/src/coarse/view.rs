//! What everybody has heard: claims and words by chunk, and what they amount to.

use potluck_peer::arithmetic::{LEVEL_MAX, Windows, drained};
use potluck_unit::{Job, Time};

use super::claims::Claimed;

/// By which right somebody ran a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Public,
    Drawn,
    /// By a draw to audit somebody: a seat beside whom it audits.
    Audit,
}

/// What one worker says of units of one chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    pub(super) worker: u32,
    pub(super) kind: Kind,
    pub(super) units: u64,
    /// Those of them that it lies about.
    pub(super) lies: u64,
    pub(super) spent_us: u64,
}

impl Word {
    pub(super) fn of(worker: u32, kind: Kind) -> Word {
        Word { worker, kind, units: 0, lies: 0, spent_us: 0 }
    }
}

/// An announcement to run units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) worker: u32,
    pub(super) units: u64,
    pub(super) secret: bool,
    /// Its place: who has the higher one gives way.
    pub(super) ticket: u64,
    /// When it was heard, or when its worker last said something of the chunk.
    pub(super) since: u64,
}

#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) seats: Vec<Seat>,
    pub(super) words: Vec<Word>,
    /// Who took which units, said or not: nobody takes any twice.
    pub(super) takers: Vec<(u32, u64)>,
    pub(super) accepted: u64,
    /// Units that somebody has spoken of by the public lottery.
    public: u64,
    /// Units that somebody with a seat has spoken of.
    covered: u64,
    /// Units about which there were two opinions at any time.
    pub(super) disputed: u64,
}

#[derive(Debug)]
pub(super) struct View {
    pub(super) chunks: Vec<Chunk>,
    pub(super) windows: Windows,
    units: u32,
    chunk_units: u32,
    copies: u32,
    /// Units that are not accepted.
    pub(super) open: u32,
    covered: u32,
    /// How far the windows of the public and the secret lottery have widened.
    pub(super) levels: [u8; 2],
}

impl View {
    pub(super) fn new(job: &Job) -> View {
        View {
            chunks: (0..job.chunks()).map(|_| Chunk::default()).collect(),
            windows: Windows::of(job),
            units: job.units,
            chunk_units: job.chunk_units(),
            copies: u32::from(job.copies),
            open: job.units,
            covered: 0,
            levels: [0, 0],
        }
    }

    pub(super) fn has_secrets(&self) -> bool {
        self.copies > 1
    }

    /// The chunk of a unit, and its bit there.
    pub(super) fn place(&self, unit: u32) -> (u32, u64) {
        (unit / self.chunk_units, 1 << (unit % self.chunk_units))
    }

    /// The units of a chunk in a mask.
    pub(super) fn units_of(&self, chunk: u32, mask: u64) -> impl Iterator<Item = u32> + use<> {
        let (first, each) = (chunk * self.chunk_units, self.chunk_units);
        (0..each).filter(move |place| mask >> place & 1 == 1).map(move |place| first + place)
    }

    /// All units of a chunk.
    fn whole(&self, chunk: u32) -> u64 {
        let units = (self.units - chunk * self.chunk_units).min(self.chunk_units);
        if units == 64 { u64::MAX } else { (1 << units) - 1 }
    }

    fn chunk(&self, chunk: u32) -> &Chunk {
        &self.chunks[chunk as usize]
    }

    /// Units of a chunk that this worker may still take by that lottery.
    pub(super) fn useful(&self, chunk: u32, worker: u32, secret: bool) -> u64 {
        let at = self.chunk(chunk);
        let left = self.whole(chunk) & !at.accepted;
        let left = if secret || self.is_open() { left } else { left & !at.public };
        if left == 0 {
            return 0;
        }
        let own = at.takers.iter().filter(|(taker, _)| *taker == worker);
        let own = own.fold(0, |units, (_, taken)| units | taken);
        left & !own
    }

    pub(super) fn is_done(&self, chunk: u32) -> bool {
        self.chunk(chunk).accepted == self.whole(chunk)
    }

    pub(super) fn is_accepted(&self, unit: u32) -> bool {
        let (chunk, bit) = self.place(unit);
        self.chunk(chunk).accepted & bit != 0
    }

    /// Whether somebody has told the truth about a unit.
    pub(super) fn is_told(&self, unit: u32) -> bool {
        let (chunk, bit) = self.place(unit);
        self.chunk(chunk).words.iter().any(|word| word.units & !word.lies & bit != 0)
    }

    /// Whether an accepted unit is accepted for a lie.
    pub(super) fn is_lie(&self, unit: u32) -> bool {
        let (chunk, bit) = self.place(unit);
        self.is_accepted(unit) && self.chunk(chunk).words.iter().any(|word| word.lies & bit != 0)
    }

    /// A word no longer counts.
    pub(super) fn unhear(&mut self, chunk: u32, liar: u32) {
        let at = &mut self.chunks[chunk as usize];
        at.words.retain(|word| word.worker != liar);
        let public = at.words.iter().filter(|word| word.kind == Kind::Public);
        at.public = public.fold(0, |units, word| units | word.units);
    }

    /// Units that are accepted for a lie.
    pub(super) fn wrong(&self) -> u32 {
        let wrong = (0..self.units).filter(|unit| self.is_lie(*unit)).count();
        u32::try_from(wrong).unwrap_or(u32::MAX)
    }

    pub(super) fn took(&mut self, worker: u32, chunk: u32, units: u64) {
        let takers = &mut self.chunks[chunk as usize].takers;
        match takers.iter_mut().find(|(taker, _)| *taker == worker) {
            Some((_, taken)) => *taken |= units,
            None => takers.push((worker, units)),
        }
    }

    pub(super) fn gave_back(&mut self, worker: u32, chunk: u32, units: u64) {
        let takers = self.chunks[chunk as usize].takers.iter_mut();
        takers.filter(|(taker, _)| *taker == worker).for_each(|(_, taken)| *taken &= !units);
    }

    pub(super) fn claimed(&mut self, now: u64, worker: u32, piece: &Claimed) {
        let Claimed { units, secret, ticket, .. } = *piece;
        let seat = Seat { worker, units, secret, ticket, since: now };
        self.chunks[piece.chunk as usize].seats.push(seat);
    }

    /// Somebody's word. Returns units that it is the first to contradict others about.
    pub(super) fn hear(&mut self, now: u64, chunk: u32, word: Word) -> u64 {
        let at = &mut self.chunks[chunk as usize];
        for seat in at.seats.iter_mut().filter(|seat| seat.worker == word.worker) {
            (seat.units, seat.since) = (seat.units & !word.units, now);
        }
        at.seats.retain(|seat| seat.units != 0);
        let truths = word.units & !word.lies;
        let against = at.words.iter().fold(0, |units, other| {
            units | (truths & other.lies) | (word.lies & other.units & !other.lies)
        });
        at.words.push(word);
        at.public |= if word.kind == Kind::Public { word.units } else { 0 };
        let fresh = against & !at.disputed;
        at.disputed |= against;
        let covered = at.covered;
        at.covered |= word.units;
        self.covered += (at.covered & !covered).count_ones();
        fresh
    }

    /// How many voices a unit has: by the public lottery at most one, and by a draw; and whether they
    /// contradict.
    fn voices(&self, chunk: u32, bit: u64) -> (u32, u32, bool) {
        let at = self.chunk(chunk);
        let (mut public, mut drawn, mut lies, mut truths) = (0, 0, 0, 0);
        for word in at.words.iter().filter(|word| word.units & bit != 0) {
            *(if word.lies & bit != 0 { &mut lies } else { &mut truths }) += 1;
            match word.kind {
                Kind::Public if !self.is_open() => public = 1,
                Kind::Public | Kind::Drawn | Kind::Audit => drawn += 1,
            }
        }
        (public, drawn, lies > 0 && truths > 0)
    }

    /// How many more voices a unit wants, and whether one may be by the public lottery; none where
    /// there is a dispute.
    pub(super) fn wanted(&self, chunk: u32, bit: u64) -> (u32, u32) {
        let (public, drawn, disputed) = self.voices(chunk, bit);
        let any = if disputed { 0 } else { self.copies.saturating_sub(public + drawn) };
        (any, any.min(1 - public))
    }

    /// Whether k others have spoken of each of these units.
    pub(super) fn is_late(&self, chunk: u32, word: Word) -> bool {
        let words = &self.chunk(chunk).words;
        let others = |bit: u64| {
            words
                .iter()
                .filter(|other| other.worker != word.worker && other.units & bit != 0)
                .count()
        };
        let mut bits = (0..64).map(|place| 1 << place).filter(|bit| word.units & bit != 0);
        bits.all(|bit| others(bit) >= self.copies as usize)
    }

    /// Judges the units of a chunk anew. Returns those newly accepted, and those no longer so.
    pub(super) fn judge(&mut self, chunk: u32) -> (u64, u64) {
        let mut accepted = 0;
        for unit in self.units_of(chunk, self.whole(chunk)) {
            let bit = self.place(unit).1;
            let (public, drawn, disputed) = self.voices(chunk, bit);
            if !disputed && public + drawn >= self.copies {
                accepted |= bit;
            }
        }
        let at = &mut self.chunks[chunk as usize];
        let (fresh, gone) = (accepted & !at.accepted, at.accepted & !accepted);
        at.accepted = accepted;
        self.open = self.open + gone.count_ones() - fresh.count_ones();
        (fresh, gone)
    }

    /// Whether everybody has a seat in the secret lottery.
    pub(super) fn is_open(&self) -> bool {
        self.windows.undrawn_level(Time(0)) <= self.levels[1]
    }

    /// How far windows have widened by now.
    pub(super) fn levels_at(&self, now: u64) -> [u8; 2] {
        let aged = self.windows.aged(Time(now));
        let of = |done: u32| drained(self.units, done).saturating_add(aged).min(LEVEL_MAX);
        [of(self.covered), of(self.units - self.open)]
    }
}
