//! Leashes: what holds children together, to a share of a processor or still.
//!
//! One thread looks at the leashes that throttle somebody, each when its account says, and sleeps
//! while there are none. Holding still does not wait for it: whoever asks for it sends the signals.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::process::{Attempt, Hold, Process};
use crate::throttle::{Account, LOOK_MIN, Share};

/// Holds all children that are started through it, now and later, as if they were one: compilers
/// and runners share one account of processor time and stand still together. Clones are the same
/// leash.
///
/// Given to [`crate::Sandbox::on`]. Deadlines stand still while a child does, so no unit is lost.
#[derive(Clone)]
pub struct Leash(Arc<Rope>);

struct Rope {
    /// Why its children stand still when it is held, and when they have used their share.
    holds: [Hold; 2],
    since: Instant,
    state: Mutex<State>,
}

struct State {
    /// Whether all is to stand still.
    held: bool,
    /// None for no throttle.
    account: Option<Account>,
    children: Vec<Child>,
    /// What children that are gone have used, and what was charged.
    past: Duration,
    /// How many children are at work as far as their parent knows.
    working: usize,
}

struct Child {
    process: Arc<Process>,
    compiles: bool,
}

impl Leash {
    /// A leash that holds nobody yet, with no throttle.
    pub fn new() -> Leash {
        Leash::with([Hold::Leashed, Hold::LeashThrottled])
    }

    /// The leash of one process alone.
    pub(crate) fn of_one(process: &Arc<Process>) -> Leash {
        let leash = Leash::with([Hold::Asked, Hold::Throttled]);
        leash.tie(process, false);
        leash
    }

    fn with(holds: [Hold; 2]) -> Leash {
        let state = State {
            held: false,
            account: None,
            children: Vec::new(),
            past: Duration::ZERO,
            working: 0,
        };
        Leash(Arc::new(Rope { holds, since: Instant::now(), state: Mutex::new(state) }))
    }

    /// Holds the children to a share of one processor together from now on, [`Share::FULL`] being
    /// no throttle.
    ///
    /// # Errors
    ///
    /// If the system refuses the thread that sees to it. Nothing has changed then.
    pub fn throttle(&self, share: Share) -> io::Result<()> {
        governor()?;
        {
            let mut state = self.0.lock();
            let (now, used) = (self.0.since.elapsed(), state.used());
            match &mut state.account {
                account if share == Share::FULL => *account = None,
                Some(account) => {
                    account.look(now, used);
                    account.share = share;
                }
                account @ None => *account = Some(Account::new(share, now, used)),
            }
        }
        self.look();
        Ok(())
    }

    /// Stops every child where it is. They stand still when this returns, but for one that is being
    /// reaped.
    pub fn suspend(&self) {
        self.0.lock().held = true;
        self.look();
    }

    /// Lets the children go on, as far as their share allows.
    pub fn resume(&self) {
        self.0.lock().held = false;
        self.look();
    }

    /// Whether it is suspended.
    pub(crate) fn is_held(&self) -> bool {
        self.0.lock().held
    }

    /// Kills every child there is now. Units that are running end as
    /// [`potluck_unit::NoResult::Stopped`], and so does compiling.
    pub fn kill(&self) {
        self.kill_those(|_| true);
    }

    /// Kills the compiler, if one is at work: nobody else compiles while it stands still.
    pub fn kill_compiler(&self) {
        self.kill_those(|child| child.compiles);
    }

    fn kill_those(&self, which: impl Fn(&Child) -> bool) {
        let doomed: Vec<Arc<Process>> = {
            let state = self.0.lock();
            let which = state.children.iter().filter(|child| which(child));
            which.map(|child| Arc::clone(&child.process)).collect()
        };
        doomed.iter().for_each(|process| process.strike());
    }

    /// Books processor time that was used for the children outside of them.
    pub fn charge(&self, used: Duration) {
        self.0.lock().past += used;
    }

    /// How long the children would have to stand still before their account is even again: for as
    /// long, whoever works for them outside of them should wait too.
    pub fn debt(&self) -> Duration {
        let mut state = self.0.lock();
        let (now, used) = (self.0.since.elapsed(), state.used());
        let Some(account) = &mut state.account else { return Duration::ZERO };
        account.look(now, used);
        account.debt()
    }

    /// Processor time that the children have used since the leash was made, those that are gone
    /// included, and what was charged.
    pub fn used(&self) -> Duration {
        self.0.lock().used()
    }

    /// The children's process ids, to show and to measure; not to signal, as they may be gone.
    pub fn pids(&self) -> Vec<u32> {
        let mut state = self.0.lock();
        // Forgets those that are gone.
        state.used();
        state.children.iter().map(|child| child.process.pid()).collect()
    }

    /// Puts a child on the leash. It stands still at once if the others do.
    pub(crate) fn tie(&self, process: &Arc<Process>, compiles: bool) {
        self.0.lock().children.push(Child { process: Arc::clone(process), compiles });
        self.look();
    }

    /// A child is at work until what this answers is dropped.
    pub(crate) fn work(&self) -> Work<'_> {
        self.0.lock().working += 1;
        self.look();
        Work(self)
    }

    /// Looks now, and lets the governor look when the account says.
    fn look(&self) {
        if self.0.look().is_some()
            && let Ok(governor) = governor()
        {
            governor.watch(&self.0);
        }
    }
}

impl Default for Leash {
    fn default() -> Leash {
        Leash::new()
    }
}

impl fmt::Debug for Leash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leash").finish_non_exhaustive()
    }
}

/// See [`Leash::work`].
pub(crate) struct Work<'a>(&'a Leash);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.working = state.working.saturating_sub(1);
    }
}

impl State {
    /// What all have used, whether they are there or gone. Forgets those that are gone.
    fn used(&mut self) -> Duration {
        let mut sum = Duration::ZERO;
        let past = &mut self.past;
        self.children.retain(|child| {
            // Asked first: what is used up to its end counts.
            let gone = child.process.is_gone();
            let used = child.process.used();
            *(if gone { &mut *past } else { &mut sum }) += used;
            !gone
        });
        self.past + sum
    }
}

impl Rope {
    /// Books, and stops the children or lets them go on. When to look again; never, if there is
    /// nothing that could change by itself.
    fn look(&self) -> Option<Duration> {
        let mut state = self.lock();
        let used = state.used();
        let now = self.since.elapsed();
        let verdict = state.account.as_mut().map(|account| account.look(now, used));
        let throttled = verdict.is_some_and(|verdict| verdict.held);
        let mut busy = false;
        for child in &state.children {
            for (why, held) in self.holds.into_iter().zip([state.held, throttled]) {
                busy |= child.process.try_hold(why, held) == Attempt::Busy;
            }
        }
        if busy {
            return Some(LOOK_MIN);
        }
        if state.held || state.children.is_empty() {
            return None;
        }
        let idle = state.working == 0 && !throttled;
        verdict.map(|verdict| if idle { IDLE_LOOK } else { verdict.again_in })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ropes that have to be looked at, and where their thread sleeps.
struct Governor {
    /// Their number is the caller's to bound: one for each slot.
    ropes: Mutex<Vec<Weak<Rope>>>,
    changed: Condvar,
}

/// The one of this process.
fn governor() -> io::Result<&'static Arc<Governor>> {
    static GOVERNOR: OnceLock<Result<Arc<Governor>, io::ErrorKind>> = OnceLock::new();
    let governor = GOVERNOR.get_or_init(|| Governor::start().map_err(|error| error.kind()));
    governor.as_ref().map_err(|kind| io::Error::from(*kind))
}

impl Governor {
    fn start() -> io::Result<Arc<Governor>> {
        let governor = Arc::new(Governor { ropes: Mutex::default(), changed: Condvar::new() });
        let of_thread = Arc::clone(&governor);
        let thread = std::thread::Builder::new().name("sandbox-governor".into());
        thread.spawn(move || of_thread.govern())?;
        Ok(governor)
    }

    fn watch(&self, rope: &Arc<Rope>) {
        let mut ropes = self.lock();
        if !ropes.iter().any(|known| known.as_ptr() == Arc::as_ptr(rope)) {
            ropes.push(Arc::downgrade(rope));
        }
        self.changed.notify_one();
    }

    fn govern(&self) {
        let mut ropes = self.lock();
        loop {
            let mut again_in = None;
            ropes.retain(|rope| {
                let wait = rope.upgrade().and_then(|rope| rope.look());
                again_in = again_in.into_iter().chain(wait).min();
                wait.is_some()
            });
            ropes = match again_in {
                Some(wait) => {
                    let woken = self.changed.wait_timeout(ropes, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(ropes).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Rope>>> {
        self.ropes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often children are looked at that should have nothing to do. One that works all the same is
/// held until it has paid for it.
const IDLE_LOOK: Duration = Duration::from_secs(1);
