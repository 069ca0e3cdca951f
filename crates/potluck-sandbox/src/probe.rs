//! Asks a real child what its lock is made of. The child takes a runner's lock, all of it, meets
//! no foreign byte, and says what came of each step.

use std::process::Stdio;
use std::time::Duration;

use crate::Program;
use crate::layers::{self, LAYERS_MAX_BYTES, Layer};
use crate::message::{FAILED_MAX_BYTES, TAG_FAILED, TAG_LAYERS};
use crate::patience::Until;
use crate::pipe::{Inbox, PipeError};
use crate::process::{Process, Started};

/// Why a lock could not be looked at. For people; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(String);

/// The layers of the lock on `program`'s children, each once and in order.
pub(crate) fn layers(program: &Program) -> Result<Vec<Layer>, ProbeError> {
    let parameters = ["probe".into(), PROBE_BYTES.to_string()];
    let Started { process, to_child: _to_child, from_child } =
        Process::start(program, &parameters, Stdio::null()).map_err(|error| {
            let path = program.path.display();
            ProbeError(format!("could not start {path}: {error}"))
        })?;
    let mut inbox = Inbox::new(from_child);
    let mut patience = Until::new(&process, ANSWER_MAX);
    let mut answer = || {
        let header = inbox.header(&mut patience)?;
        let mut payload = Vec::new();
        match header.tag {
            TAG_LAYERS if header.length <= LAYERS_MAX_BYTES => {
                inbox.take(header.length, &mut payload, &mut patience)?;
                let found = layers::of_bytes(&payload);
                Ok(Ok(found.ok_or(PipeError::Nonsense("not the layers of a lock"))?))
            }
            TAG_FAILED if header.length <= FAILED_MAX_BYTES => {
                inbox.take(header.length, &mut payload, &mut patience)?;
                Ok(Err(String::from_utf8_lossy(&payload).into_owned()))
            }
            _ => Err(PipeError::Nonsense("neither layers nor a failure")),
        }
    };
    answer()
        .map_err(|error| format!("a sandbox child did not say how it is locked: {error}"))
        .flatten()
        .map_err(ProbeError)
}

/// Any module's memory would do.
const PROBE_BYTES: u64 = 64 << 20;
/// It takes milliseconds, but a child that only runs when the machine is idle may have to wait.
const ANSWER_MAX: Duration = Duration::from_secs(60);
