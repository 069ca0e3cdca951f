//! The parent's side of a runner child: hands it units one by one and believes nothing it says
//! beyond what fits the limits.
//!
//! A child is *spent* after anything out of the ordinary, and after [`RUNS_MAX`] units: whoever
//! owns the runner drops it and starts another. What a run can do to the next one in the same
//! child is what a broken engine lets it do, so units of different submitters get different
//! children: that is the caller's to see to.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use potluck_unit::{Limits, NoResult, OutFile, Outcome, RunReport, UnitId};

use crate::artefact::Artefact;
use crate::cpu;
use crate::inputs::InputFile;
use crate::leash::Leash;
use crate::message::{
    self, ARGS_MAX_BYTES, DONE_BYTES, Done, Ending, FAILED_MAX_BYTES, STDERR_MAX_BYTES,
    STDIN_MAX_BYTES, TAG_DONE, TAG_FAILED, TAG_FILE, TAG_OUTPUT, TAG_READY, TAG_UNIT,
    TAG_UNIT_ALOUD, UNIT_BYTES,
};
use crate::patience::Until;
use crate::pipe::{self, Beside, Header, Inbox, Outbox, Patience, PipeError};
use crate::process::{End, Process, Started};
use crate::shared::{self, Shared};
use crate::throttle::Share;
use crate::{Program, StartError};

/// How many units one child runs. Starting another costs what a hundred small units do; what may
/// have leaked in the old one is gone with it.
pub const RUNS_MAX: u32 = 10_000;

/// One unit, as the guest will see it.
#[derive(Debug, Clone, Copy)]
pub struct Unit<'a> {
    /// Seeds the guest's randomness.
    pub id: UnitId,
    /// The arguments after the program's name, which is always `task.wasm`.
    pub args: &'a [String],
    /// Standard input.
    pub stdin: &'a [u8],
}

/// What came of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The outcome, or why there is none.
    pub report: RunReport,
    /// The first [`STDERR_MAX_BYTES`] of standard error, for people. Part of no outcome.
    pub stderr: Vec<u8>,
    /// Processor time the child took since the unit before, if the system says.
    pub cpu: Option<Duration>,
}

/// A runner child. Dropping it kills and reaps the child.
pub struct Runner {
    process: Arc<Process>,
    /// Its own leash, and the one that it is on with others.
    own: Leash,
    shared_leash: Leash,
    to_child: OwnedFd,
    /// Where large payloads go, if the system has such a thing.
    shared: Option<Arc<Shared>>,
    inbox: Inbox,
    limits: Limits,
    runs: u32,
    is_spent: bool,
    cpu: cpu::Meter,
    /// The arguments of the unit at hand, encoded; kept for its capacity.
    tail: Vec<u8>,
}

impl Runner {
    pub(crate) fn start(
        program: &Program,
        artefact: &Artefact,
        limits: &Limits,
        files: &[InputFile],
        leash: &Leash,
    ) -> Result<Runner, StartError> {
        let failed = |error: io::Error| {
            StartError::NoResult(NoResult::ChildDied, format!("could not start a runner: {error}"))
        };
        let parameters = [
            "run".into(),
            limits.memory_max_bytes.to_string(),
            limits.output_max_bytes.to_string(),
            limits.out_max_bytes.to_string(),
            files.iter().map(InputFile::size).sum::<u64>().to_string(),
        ];
        let shared = Shared::new(payload_max_bytes(limits)).map(Arc::new);
        let handed = [Some(artefact.file().as_fd()), shared.as_deref().map(Shared::file)];
        let handed: Vec<_> = handed.into_iter().flatten().collect();
        let third = shared::hand_over(&handed).map_err(failed)?;
        let Started { process, to_child, from_child } =
            Process::start(program, &parameters, third).map_err(failed)?;
        let beside = shared.clone().map(|shared| shared as Arc<dyn Beside>);
        let process = Arc::new(process);
        leash.tie(&process, false);
        let mut runner = Runner {
            cpu: cpu::Meter::new(process.pid()),
            own: Leash::of_one(&process),
            shared_leash: leash.clone(),
            process,
            to_child,
            shared,
            inbox: Inbox::new(from_child).with(beside),
            limits: *limits,
            runs: 0,
            is_spent: false,
            tail: Vec::new(),
        };
        let ready = {
            let _work = leash.work();
            runner.ready(files)
        };
        match ready {
            Ok(None) => Ok(runner),
            Ok(Some(reason)) => {
                artefact.discard();
                Err(StartError::NoResult(NoResult::Engine, reason))
            }
            Err(error) => {
                let reason = match runner.process.ended() {
                    Some(End::Asked) => NoResult::Stopped,
                    Some(End::Dismissed) | None => NoResult::ChildDied,
                };
                let text = format!("the runner did not get ready: {error}");
                Err(StartError::NoResult(reason, text))
            }
        }
    }

    /// Runs one unit to its end, or to the deadline.
    ///
    /// Always returns: whatever goes wrong with the child is a [`NoResult`], and leaves the runner
    /// spent.
    pub fn run(&mut self, unit: &Unit<'_>) -> Run {
        self.run_to_end(unit, None)
    }

    /// The same, and tells `output` what the guest writes to standard output as it comes, in all as
    /// much as the job's limit at most. What a guest has said is not taken back, however it ends.
    pub fn run_aloud(&mut self, unit: &Unit<'_>, output: Output<'_>) -> Run {
        self.run_to_end(unit, Some(output))
    }

    fn run_to_end(&mut self, unit: &Unit<'_>, output: Option<Output<'_>>) -> Run {
        let done = if self.is_spent() {
            Err(PipeError::Closed)
        } else {
            self.runs += 1;
            let (own, shared) = (self.own.clone(), self.shared_leash.clone());
            let _works = (own.work(), shared.work());
            self.exchange(unit, output)
        };
        match done {
            Ok((report, stderr)) => {
                // The child goes on, but after a trap nobody vouches for what is in it.
                self.is_spent |=
                    !matches!(report, RunReport::Done { outcome: Outcome::Result { .. }, .. });
                Run { report, stderr, cpu: self.cpu.lap() }
            }
            Err(error) => {
                let cpu = self.cpu.lap();
                self.is_spent = true;
                self.process.end(End::Dismissed);
                let reason = self.reason(error);
                if reason == NoResult::ChildDied {
                    tracing::warn!(pid = self.process.pid(), %error, "runner child is lost");
                }
                Run { report: RunReport::NoResult(reason), stderr: Vec::new(), cpu }
            }
        }
    }

    /// Whether this runner has run its last unit.
    pub fn is_spent(&self) -> bool {
        self.is_spent || self.runs >= RUNS_MAX || self.process.ended().is_some()
    }

    /// A way to stop, suspend or kill the child from elsewhere.
    pub fn handle(&self) -> RunnerHandle {
        RunnerHandle { process: Arc::clone(&self.process), own: self.own.clone() }
    }

    /// Waits for the child's first words, and hands it the input files; its last words if something
    /// is wrong.
    fn ready(&mut self, files: &[InputFile]) -> Result<Option<String>, PipeError> {
        let mut patience = Until::new(&self.process, READY_MAX);
        let header = self.inbox.header(&mut patience)?;
        match header.tag {
            TAG_READY if header.length == 0 => {
                // Through the pipe alone: shared memory holds one payload, and nobody says when the
                // child has read it.
                for InputFile { path, bytes } in files {
                    let length = u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes();
                    let parts = [&length[..], path.as_bytes(), bytes];
                    pipe::send(self.to_child.as_fd(), TAG_FILE, parts, &mut patience)?;
                }
                Ok(None)
            }
            TAG_FAILED if header.length <= FAILED_MAX_BYTES => {
                let mut reason = Vec::new();
                self.inbox.take(header.length, &mut reason, &mut patience)?;
                Ok(Some(String::from_utf8_lossy(&reason).into_owned()))
            }
            _ => Err(PipeError::Nonsense("neither ready nor failed")),
        }
    }

    fn exchange(
        &mut self,
        unit: &Unit<'_>,
        output: Option<Output<'_>>,
    ) -> Result<(RunReport, Vec<u8>), PipeError> {
        let args_bytes: usize = unit.args.iter().map(|argument| argument.len() + 1).sum();
        let stdin_length = u32::try_from(unit.stdin.len()).unwrap_or(u32::MAX);
        if unit.stdin.len() > STDIN_MAX_BYTES || args_bytes > ARGS_MAX_BYTES {
            return Ok((RunReport::NoResult(NoResult::Engine), b"unit too large".to_vec()));
        }
        if !self.inbox.is_empty() {
            return Err(PipeError::Nonsense("words nobody asked for"));
        }
        self.tail.clear();
        for argument in unit.args {
            message::push_argument(&mut self.tail, argument.as_bytes());
        }
        let head = message::unit_head(&unit.id, stdin_length);
        let deadline = Duration::from_millis(self.limits.deadline_ms);
        let mut patience = Until::new(&self.process, deadline);
        let parts = [&head[..], unit.stdin, &self.tail];
        let beside = self.shared.as_deref().map(|shared| shared as &dyn Beside);
        let outbox = Outbox::new(self.to_child.as_fd(), beside);
        let tag = if output.is_some() { TAG_UNIT_ALOUD } else { TAG_UNIT };
        pipe::send(outbox, tag, parts, &mut patience)?;
        let header = match output {
            Some(output) => listen(&mut self.inbox, &self.limits, output, &mut patience)?,
            None => self.inbox.header(&mut patience)?,
        };
        receive(&mut self.inbox, header, &self.limits, &mut patience)
    }

    /// Why there is no result, when the pipe says this.
    fn reason(&self, error: PipeError) -> NoResult {
        match (self.process.ended(), error) {
            (Some(End::Asked), _) => NoResult::Stopped,
            (_, PipeError::Late) => NoResult::Deadline,
            (_, PipeError::NoMemory) => NoResult::HostMemory,
            (_, PipeError::Closed | PipeError::Nonsense(_) | PipeError::System(_)) => {
                NoResult::ChildDied
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Handles may outlive the runner; the child must not.
        self.process.end(End::Dismissed);
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.process.pid();
        f.debug_struct("Runner")
            .field("pid", &pid)
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}

/// The longest request or reply there can be under these limits.
fn payload_max_bytes(limits: &Limits) -> usize {
    let request = UNIT_BYTES + STDIN_MAX_BYTES + 4 * ARGS_MAX_BYTES;
    let files_max = match limits.out_max_bytes {
        0 => 0,
        max => max + FILES_HEADS_MAX_BYTES + 4,
    };
    let output_max = usize::try_from(limits.output_max_bytes + files_max).unwrap_or(usize::MAX);
    request.max(output_max.saturating_add(DONE_BYTES + STDERR_MAX_BYTES))
}

/// Who hears standard output as it comes.
pub type Output<'a> = &'a mut dyn FnMut(&[u8]);

/// Passes output on until something else comes, and answers with the header of that.
pub(crate) fn listen(
    inbox: &mut Inbox,
    limits: &Limits,
    output: Output<'_>,
    patience: &mut dyn Patience,
) -> Result<Header, PipeError> {
    let mut left = limits.output_max_bytes;
    let mut bytes = Vec::new();
    loop {
        let header = inbox.header(patience)?;
        if header.tag != TAG_OUTPUT {
            return Ok(header);
        }
        // Nothing is said in no bytes, so what a child can say at all is bounded.
        let length = header.length as u64;
        left = left.checked_sub(length).ok_or(PipeError::Nonsense("output over the limit"))?;
        if length == 0 {
            return Err(PipeError::Nonsense("output of no bytes"));
        }
        inbox.take(header.length, &mut bytes, patience)?;
        output(&bytes);
    }
}

/// Reads one reply, after its header, and holds it against the limits.
pub(crate) fn receive(
    inbox: &mut Inbox,
    header: Header,
    limits: &Limits,
    patience: &mut dyn Patience,
) -> Result<(RunReport, Vec<u8>), PipeError> {
    let rest = header.length.checked_sub(DONE_BYTES).filter(|_| header.tag == TAG_DONE);
    let rest = rest.ok_or(PipeError::Nonsense("not a reply"))?;
    let done = Done::of_bytes(&inbox.array(patience)?).ok_or(PipeError::Nonsense("no ending"))?;
    let mut rest = rest;
    let mut part = |length: u32, max: u64| match rest.checked_sub(length as usize) {
        Some(_) if u64::from(length) > max => Err(PipeError::Nonsense("output over the limit")),
        Some(less) => {
            rest = less;
            Ok(length as usize)
        }
        None => Err(PipeError::Nonsense("more output than reply")),
    };
    let stdout_length = part(done.stdout_length, limits.output_max_bytes)?;
    let mut stdout = Vec::new();
    inbox.take(stdout_length, &mut stdout, patience)?;
    let mut files = Vec::new();
    if let Ending::Result { has_files: true, .. } = done.ending {
        part(4, u64::MAX)?;
        let length = u32::from_le_bytes(inbox.array(patience)?);
        let length = part(length, limits.out_max_bytes + FILES_HEADS_MAX_BYTES)?;
        files = take_files(inbox, length, limits, patience)?;
    }
    if rest > STDERR_MAX_BYTES {
        return Err(PipeError::Nonsense("standard error over the limit"));
    }
    let mut stderr = Vec::new();
    inbox.take(rest, &mut stderr, patience)?;
    if !inbox.is_empty() {
        return Err(PipeError::Nonsense("words after the reply"));
    }
    let report = match done.ending {
        Ending::Result { exit_code, witness, .. } => {
            RunReport::Done { outcome: Outcome::Result { exit_code, stdout, files }, witness }
        }
        Ending::Fault { fault, witness } => {
            RunReport::Done { outcome: Outcome::Fault(fault), witness }
        }
        Ending::NoResult(reason) => RunReport::NoResult(reason),
    };
    Ok((report, stderr))
}

/// Takes the files of a reply, and believes only what a guest could have left within its quota.
fn take_files(
    inbox: &mut Inbox,
    length: usize,
    limits: &Limits,
    patience: &mut dyn Patience,
) -> Result<Vec<OutFile>, PipeError> {
    let mut bytes = Vec::new();
    inbox.take(length, &mut bytes, patience)?;
    let files = potluck_unit::read_files(&bytes).ok_or(PipeError::Nonsense("no such files"))?;
    if files.iter().map(OutFile::cost).sum::<u64>() > limits.out_max_bytes {
        return Err(PipeError::Nonsense("files over the limit"));
    }
    Ok(files)
}

/// A hold on a runner's child that can be kept elsewhere, and outlive it without harm.
#[derive(Debug, Clone)]
pub struct RunnerHandle {
    process: Arc<Process>,
    own: Leash,
}

impl RunnerHandle {
    /// Kills the child. A unit that is running ends as [`NoResult::Stopped`].
    pub fn kill(&self) {
        self.process.end(End::Asked);
    }

    /// Stops the child where it is, and its deadline with it.
    pub fn suspend(&self) {
        self.own.suspend();
    }

    /// Lets a suspended child go on, as far as its share allows.
    pub fn resume(&self) {
        self.own.resume();
    }

    /// Holds the child to a share of one processor from now on, [`Share::FULL`] being no throttle.
    /// Its deadlines stand still while it does, so no unit is lost by it.
    ///
    /// # Errors
    ///
    /// If the system refuses the thread that sees to it. Nothing has changed then.
    pub fn throttle(&self, share: Share) -> io::Result<()> {
        self.own.throttle(share)
    }

    /// The child's process id, to show and to measure; not to signal, as it may be gone.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// What the bytes of files hold beside what the quota counts.
const FILES_HEADS_MAX_BYTES: u64 = 64 << 10;
/// Getting ready takes milliseconds, but a child that only runs when the machine is idle may have
/// to wait for its turn.
const READY_MAX: Duration = Duration::from_secs(60);
