//! The frames that parent and child exchange over two pipes, and nothing about what they mean.
//!
//! ```text
//! frame: tag (u8) ‖ payload length (u32, little endian) ‖ payload
//! ```
//!
//! Both sides speak it, but only one is trusted: whoever reads gives the largest payload it will
//! take for each tag and stops at the first byte that does not fit. Buffers are reused, so that a
//! small unit costs one write and one read on each side and no allocation.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::PollFlags;
use rustix::io::Errno;

/// Why a frame could not be sent or read. After any of them the pipe is in an unknown state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PipeError {
    /// The other side has closed its end.
    #[error("the pipe is closed")]
    Closed,
    /// The other side sent what no honest process sends.
    #[error("nonsense on the pipe: {0}")]
    Nonsense(&'static str),
    /// The reader's patience ended.
    #[error("no answer in time")]
    Late,
    /// The payload is larger than the memory at hand.
    #[error("no memory for the payload")]
    NoMemory,
    /// The system refused.
    #[error("the pipe failed: {0}")]
    System(Errno),
}

/// How to wait for a pipe that is not ready.
pub(crate) trait Patience {
    /// Returns when it is worth trying again, or with the reason to stop.
    fn wait(&mut self, pipe: BorrowedFd<'_>, until: PollFlags) -> Result<(), PipeError>;
}

/// The child's patience: its pipes block, and its parent kills it when it has waited enough.
pub(crate) struct Blocking;

impl Patience for Blocking {
    fn wait(&mut self, _: BorrowedFd<'_>, _: PollFlags) -> Result<(), PipeError> {
        Ok(())
    }
}

/// The first bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// What the frame is.
    pub(crate) tag: u8,
    /// How many bytes follow.
    pub(crate) length: usize,
}

/// The reading end, with what has arrived and was not yet asked for.
#[derive(Debug)]
pub(crate) struct Inbox {
    pipe: OwnedFd,
    arrived: Vec<u8>,
    taken: usize,
}

impl Inbox {
    /// Reads from `pipe`.
    pub(crate) fn new(pipe: OwnedFd) -> Inbox {
        Inbox { pipe, arrived: Vec::with_capacity(INBOX_BYTES), taken: 0 }
    }

    /// Whether nothing has arrived that was not asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.arrived.len()
    }

    /// Waits for the next frame and reads its header.
    pub(crate) fn header(&mut self, patience: &mut dyn Patience) -> Result<Header, PipeError> {
        let bytes = self.array::<HEADER_BYTES>(patience)?;
        let [tag, a, b, c, d] = bytes;
        Ok(Header { tag, length: u32::from_le_bytes([a, b, c, d]) as usize })
    }

    /// The next `N` bytes of a payload, for the few fixed fields at its start.
    pub(crate) fn array<const N: usize>(
        &mut self,
        patience: &mut dyn Patience,
    ) -> Result<[u8; N], PipeError> {
        while self.arrived.len() - self.taken < N {
            self.arrived.drain(..self.taken);
            self.taken = 0;
            receive(self.pipe.as_fd(), &mut self.arrived, patience)?;
        }
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.arrived[self.taken..self.taken + N]);
        self.taken += N;
        Ok(bytes)
    }

    /// Moves the next `length` bytes of a payload to `into`, which it empties first. The caller
    /// has checked `length` against its bound.
    pub(crate) fn take(
        &mut self,
        length: usize,
        into: &mut Vec<u8>,
        patience: &mut dyn Patience,
    ) -> Result<(), PipeError> {
        into.clear();
        into.try_reserve_exact(length).map_err(|_| PipeError::NoMemory)?;
        let here = length.min(self.arrived.len() - self.taken);
        into.extend_from_slice(&self.arrived[self.taken..self.taken + here]);
        self.taken += here;
        while into.len() < length {
            // All that had arrived is taken by now. What is left of a large payload goes where it
            // belongs at once; the tail, and whatever comes after it, passes through the inbox.
            if length - into.len() >= INBOX_BYTES {
                receive_up_to(self.pipe.as_fd(), into, length, patience)?;
            } else {
                self.arrived.clear();
                receive(self.pipe.as_fd(), &mut self.arrived, patience)?;
                self.taken = (length - into.len()).min(self.arrived.len());
                into.extend_from_slice(&self.arrived[..self.taken]);
            }
        }
        Ok(())
    }
}

/// One read into what room `into` has.
fn receive(
    pipe: BorrowedFd<'_>,
    into: &mut Vec<u8>,
    patience: &mut dyn Patience,
) -> Result<(), PipeError> {
    loop {
        patience.wait(pipe, PollFlags::IN)?;
        match rustix::io::read(pipe, spare_capacity(into)) {
            Ok(0) => return Err(PipeError::Closed),
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(PipeError::System(errno)),
        }
    }
}

/// One read that never leaves more than `length` bytes in `into`, although an allocator may have
/// given it more room than it was asked for.
fn receive_up_to(
    pipe: BorrowedFd<'_>,
    into: &mut Vec<u8>,
    length: usize,
    patience: &mut dyn Patience,
) -> Result<(), PipeError> {
    let start = into.len();
    let end = length.min(start + CHUNK_BYTES);
    into.resize(end, 0);
    loop {
        patience.wait(pipe, PollFlags::IN)?;
        match rustix::io::read(pipe, &mut into[start..end]) {
            Ok(0) => return Err(PipeError::Closed),
            Ok(read) => {
                into.truncate(start + read);
                return Ok(());
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(PipeError::System(errno)),
        }
    }
}

/// Sends one frame whose payload is `parts` in a row: one system call unless the pipe is full.
pub(crate) fn send<const N: usize>(
    pipe: BorrowedFd<'_>,
    tag: u8,
    parts: [&[u8]; N],
    patience: &mut dyn Patience,
) -> Result<(), PipeError> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(length).map_err(|_| PipeError::NoMemory)?.to_le_bytes();
    let header = [tag, length[0], length[1], length[2], length[3]];
    let mut slices = [IoSlice::new(&[]); PARTS_MAX];
    slices[0] = IoSlice::new(&header);
    for (slice, part) in slices[1..].iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    let mut rest = &mut slices[..=N];
    while !rest.is_empty() {
        match rustix::io::writev(pipe, rest) {
            Ok(sent) => IoSlice::advance_slices(&mut rest, sent),
            Err(Errno::AGAIN) => patience.wait(pipe, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE) => return Err(PipeError::Closed),
            Err(errno) => return Err(PipeError::System(errno)),
        }
    }
    Ok(())
}

/// Tag and length.
const HEADER_BYTES: usize = 5;
/// The header and the parts of the longest frame any caller sends.
const PARTS_MAX: usize = 6;
/// What a pipe holds by default: more than this never arrives in one read.
const INBOX_BYTES: usize = 64 << 10;
/// How much of a large payload is asked for at a time, so that a claimed length costs no memory
/// before the bytes are there.
const CHUNK_BYTES: usize = INBOX_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Inbox, OwnedFd) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (Inbox::new(read), write)
    }

    fn mark(size: usize) -> u8 {
        size.to_le_bytes()[0]
    }

    #[test]
    fn frames_of_every_size_arrive_whole_and_in_order() {
        let (mut inbox, write) = pipe();
        let sizes = [0, 1, INBOX_BYTES - 5, INBOX_BYTES, INBOX_BYTES + 1, 9 * CHUNK_BYTES + 7];
        let sender = std::thread::spawn(move || {
            for size in sizes {
                let payload = vec![mark(size); size];
                let (head, tail) = payload.split_at(size / 3);
                send(write.as_fd(), 7, [head, tail], &mut Blocking).unwrap();
            }
        });
        let mut payload = Vec::new();
        for size in sizes {
            let header = inbox.header(&mut Blocking).unwrap();
            assert_eq!(header, Header { tag: 7, length: size });
            inbox.take(header.length, &mut payload, &mut Blocking).unwrap();
            assert!(payload.len() == size && payload.iter().all(|byte| *byte == mark(size)));
        }
        sender.join().unwrap();
        assert!(inbox.is_empty());
        assert_eq!(inbox.header(&mut Blocking), Err(PipeError::Closed));
    }

    #[test]
    fn a_pipe_that_ends_inside_a_frame_is_closed() {
        let (mut inbox, write) = pipe();
        rustix::io::write(&write, &[1, 200, 0, 0, 0, 9, 9]).unwrap();
        drop(write);
        let header = inbox.header(&mut Blocking).unwrap();
        let mut payload = Vec::new();
        let end = inbox.take(header.length, &mut payload, &mut Blocking);
        assert_eq!(end, Err(PipeError::Closed));
    }

    #[test]
    fn bytes_nobody_asked_for_are_noticed() {
        let (mut inbox, write) = pipe();
        rustix::io::write(&write, &[1, 0, 0, 0, 0, 9]).unwrap();
        inbox.header(&mut Blocking).unwrap();
        assert!(!inbox.is_empty());
    }

    #[test]
    fn a_reader_that_has_gone_closes_the_pipe() {
        let (inbox, write) = pipe();
        drop(inbox);
        let sent = send(write.as_fd(), 1, [b"hello"], &mut Blocking);
        assert_eq!(sent, Err(PipeError::Closed));
    }
}
