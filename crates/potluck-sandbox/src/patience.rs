//! How long the parent waits for a child: until a deadline that stands still while the child is
//! suspended.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::pipe::{Patience, PipeError};
use crate::process::Process;

/// Waits for a child until it has been awake for long enough.
pub(crate) struct Until<'a> {
    process: &'a Process,
    awake_max: Duration,
}

impl<'a> Until<'a> {
    /// From now on, `patience` of time that the child is not suspended.
    pub(crate) fn new(process: &'a Process, patience: Duration) -> Until<'a> {
        Until { process, awake_max: process.awake().saturating_add(patience) }
    }
}

impl Patience for Until<'_> {
    fn wait(&mut self, pipe: BorrowedFd<'_>, until: PollFlags) -> Result<(), PipeError> {
        loop {
            let left = self.awake_max.saturating_sub(self.process.awake());
            if left.is_zero() {
                return Err(PipeError::Late);
            }
            // A suspended child may leave any small time that then does not pass.
            let timeout = Timespec::try_from(left.max(GLANCE)).ok();
            match rustix::event::poll(
                &mut [PollFd::from_borrowed_fd(pipe, until)],
                timeout.as_ref(),
            ) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(PipeError::System(errno)),
            }
        }
    }
}

/// The shortest wait, and so how much later than its deadline a child may end.
const GLANCE: Duration = Duration::from_millis(5);
