//! A clock that counts looks at it instead of time.
//!
//! It starts at the same instant for every unit and moves by a microsecond with every look, so that
//! a program that waits for time to pass gets there; sleeping moves it to the end of the sleep at
//! once.

use wasmtime::{Caller, Linker};

use super::memory::{Array, GuestMemory, split};
use super::{Answer, Errno, Guest, MODULE, number};

type Call<'a> = Caller<'a, Guest>;

/// Virtual time since the unit's start, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    elapsed_ns: u64,
}

impl Clock {
    /// The time of day, without looking: what files are dated with.
    pub(super) fn now_ns(self) -> u64 {
        self.elapsed_ns.saturating_add(EPOCH_NS)
    }

    /// What clock `id` shows, and then the look's microsecond.
    fn look(&mut self, id: u32) -> Result<u64, Errno> {
        let now = self.at(id)?;
        self.elapsed_ns = self.elapsed_ns.saturating_add(LOOK_NS);
        Ok(now)
    }

    fn at(self, id: u32) -> Result<u64, Errno> {
        let origin = match id {
            REALTIME => EPOCH_NS,
            MONOTONIC | PROCESS_CPU | THREAD_CPU => BOOT_NS,
            _ => return Err(Errno::Invalid),
        };
        Ok(self.elapsed_ns.saturating_add(origin))
    }

    /// How long until clock `id` shows `timeout`, or until `timeout` has passed.
    fn until(self, id: u32, timeout: u64, is_absolute: bool) -> Result<u64, Errno> {
        let now = self.at(id)?;
        Ok(if is_absolute { timeout.saturating_sub(now) } else { timeout })
    }
}

pub(super) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "clock_res_get", |mut caller: Call<'_>, id: u32, to: u32| {
        number(split(&mut caller).and_then(|(mut memory, guest)| {
            guest.clock.at(id)?;
            memory.write_u64(to, LOOK_NS)
        }))
    })?;
    linker.func_wrap(
        MODULE,
        "clock_time_get",
        |mut caller: Call<'_>, id: u32, _precision: u64, to: u32| {
            number(split(&mut caller).and_then(|(mut memory, guest)| {
                let now = guest.clock.look(id)?;
                memory.write_u64(to, now)
            }))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "poll_oneoff",
        |mut caller: Call<'_>, from: u32, to: u32, count: u32, ready: u32| {
            number(split(&mut caller).and_then(|(memory, guest)| {
                poll(memory, guest, Array { at: from, count }, to, ready)
            }))
        },
    )?;
    Ok(())
}

/// What a guest waits for.
struct Subscription {
    user_data: [u8; 8],
    kind: u8,
    /// How long it still takes; 0 is ready.
    wait_ns: Result<u64, Errno>,
    /// How much can be read at once.
    bytes: u64,
}

impl Subscription {
    fn of(record: &[u8; SUBSCRIPTION_BYTES], guest: &Guest) -> Result<Subscription, Errno> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let mut user_data = [0; 8];
        user_data.copy_from_slice(&record[..8]);
        let kind = record[8];
        let (wait_ns, bytes) = match kind {
            KIND_CLOCK => (guest.clock.until(u32_at(16), u64_at(24), record[40] & 1 == 1), 0),
            // Streams and files are ready at once: there is nobody to wait for.
            KIND_READ => {
                let rest = guest.rest(u32_at(16)).map(|rest| rest.len() as u64);
                (rest.map(|_| 0), rest.unwrap_or(0))
            }
            KIND_WRITE => (guest.descriptors.get(u32_at(16)).map(|_| 0), 0),
            _ => return Err(Errno::Invalid),
        };
        Ok(Subscription { user_data, kind, wait_ns, bytes })
    }
}

/// Answers with everything that is ready first, after moving the clock to that moment.
fn poll(
    mut memory: GuestMemory<'_>,
    guest: &mut Guest,
    subscriptions: Array,
    to: u32,
    ready: u32,
) -> Answer {
    if subscriptions.count == 0 || subscriptions.count > SUBSCRIPTIONS_MAX {
        return Err(Errno::Invalid);
    }
    let waiting: Vec<Subscription> = (0..subscriptions.count)
        .map(|index| Subscription::of(&memory.record(subscriptions, index)?, guest))
        .collect::<Result<_, _>>()?;
    let first = waiting.iter().map(|wait| wait.wait_ns.unwrap_or(0)).min().unwrap_or(0);
    guest.clock.elapsed_ns = guest.clock.elapsed_ns.saturating_add(first.max(LOOK_NS));
    let mut events = 0;
    for wait in waiting.iter().filter(|wait| wait.wait_ns.unwrap_or(0) <= first) {
        let mut event = [0; EVENT_BYTES as usize];
        event[..8].copy_from_slice(&wait.user_data);
        let errno = wait.wait_ns.err().map_or(0, |errno| errno as u16);
        event[8..10].copy_from_slice(&errno.to_le_bytes());
        event[10] = wait.kind;
        event[16..24].copy_from_slice(&wait.bytes.to_le_bytes());
        memory.write(to.checked_add(events * EVENT_BYTES).ok_or(Errno::Fault)?, &event)?;
        events += 1;
    }
    memory.write_u32(ready, events)
}

const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
const PROCESS_CPU: u32 = 2;
const THREAD_CPU: u32 = 3;
/// 2026-01-01 00:00:00 UTC: a plausible date, so that certificates and calendars work.
pub(super) const EPOCH_NS: u64 = 1_767_225_600_000_000_000;
/// One second: some runtimes take a monotonic clock at 0 for a broken one.
const BOOT_NS: u64 = 1_000_000_000;
/// A microsecond for each look: also the clock's resolution.
const LOOK_NS: u64 = 1000;
const KIND_CLOCK: u8 = 0;
const KIND_READ: u8 = 1;
const KIND_WRITE: u8 = 2;
const SUBSCRIPTION_BYTES: usize = 48;
const EVENT_BYTES: u32 = 32;
/// Runtimes wait for a handful of things at once.
const SUBSCRIPTIONS_MAX: u32 = 1024;
