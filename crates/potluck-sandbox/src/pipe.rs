//! The frames that parent and child exchange over two pipes, and nothing about what they mean.
//!
//! ```text
//! frame: tag (u8) ‖ payload length (u32, little endian) ‖ payload
//! ```
//!
//! Where there is memory that both sides share, a payload of more than 64 KiB lies at its start
//! instead, and the tag has its highest bit set: a pipe would carry it in many pieces, with a
//! change of process for each. At most one frame is on its way at a time.
//!
//! Both sides speak it, but only one is trusted: whoever reads gives the largest payload it will
//! take for each tag and stops at the first byte that does not fit. Buffers are reused, so that a
//! small unit costs one write and one read on each side and no allocation.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

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

/// Memory beside a pipe, for large payloads.
pub(crate) trait Beside: std::fmt::Debug + Send + Sync {
    /// The largest payload it holds.
    fn bytes(&self) -> usize;

    /// A frame is about to be sent that needs so much of it: none, if it goes through the pipe.
    fn expect(&self, bytes: usize);

    /// Puts `parts` in a row at the start. If it fails, the pipe has to carry them.
    fn put(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno>;

    /// Copies `length` bytes from `at` on to the end of `into`.
    fn get(&self, at: usize, length: usize, into: &mut Vec<u8>) -> Result<(), Errno>;
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
    beside: Option<Arc<dyn Beside>>,
    /// What is left of the payload at hand, if it lies beside the pipe.
    lying: Option<Range<usize>>,
}

impl Inbox {
    /// Reads from `pipe`.
    pub(crate) fn new(pipe: OwnedFd) -> Inbox {
        let arrived = Vec::with_capacity(INBOX_BYTES);
        Inbox { pipe, arrived, taken: 0, beside: None, lying: None }
    }

    /// Finds large payloads in `beside`.
    pub(crate) fn with(self, beside: Option<Arc<dyn Beside>>) -> Inbox {
        Inbox { beside, ..self }
    }

    /// Whether nothing has arrived that was not asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.arrived.len() && self.lying.as_ref().is_none_or(Range::is_empty)
    }

    /// Waits for the next frame and reads its header.
    pub(crate) fn header(&mut self, patience: &mut dyn Patience) -> Result<Header, PipeError> {
        self.lying = None;
        let [tag, a, b, c, d] = self.array::<HEADER_BYTES>(patience)?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if tag & LIES_BESIDE != 0 {
            if self.beside.as_ref().is_none_or(|beside| length > beside.bytes()) {
                return Err(PipeError::Nonsense("a payload that is nowhere"));
            }
            self.lying = Some(0..length);
        }
        Ok(Header { tag: tag & !LIES_BESIDE, length })
    }

    /// The next `N` bytes of a payload, for the few fixed fields at its start.
    pub(crate) fn array<const N: usize>(
        &mut self,
        patience: &mut dyn Patience,
    ) -> Result<[u8; N], PipeError> {
        let mut bytes = [0; N];
        if self.lying.is_some() {
            let mut copy = Vec::with_capacity(N);
            self.lift(N, &mut copy)?;
            bytes.copy_from_slice(&copy);
            return Ok(bytes);
        }
        while self.arrived.len() - self.taken < N {
            self.arrived.drain(..self.taken);
            self.taken = 0;
            receive(self.pipe.as_fd(), &mut self.arrived, patience)?;
        }
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
        if self.lying.is_some() {
            return self.lift(length, into);
        }
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

    /// Copies the next `length` bytes of a payload that lies beside the pipe.
    fn lift(&mut self, length: usize, into: &mut Vec<u8>) -> Result<(), PipeError> {
        let (Some(beside), Some(lying)) = (&self.beside, &mut self.lying) else {
            return Err(PipeError::Nonsense("a payload that is nowhere"));
        };
        if length > lying.len() {
            return Err(PipeError::Nonsense("a payload that ends early"));
        }
        beside.get(lying.start, length, into).map_err(PipeError::System)?;
        lying.start += length;
        Ok(())
    }
}

/// Where to send frames: into a pipe, with memory beside it or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outbox<'a> {
    pipe: BorrowedFd<'a>,
    beside: Option<&'a dyn Beside>,
}

impl<'a> Outbox<'a> {
    /// Sends into `pipe`, and puts large payloads in `beside`.
    pub(crate) fn new(pipe: BorrowedFd<'a>, beside: Option<&'a dyn Beside>) -> Outbox<'a> {
        Outbox { pipe, beside }
    }

    /// Puts the payload beside the pipe, if it belongs there.
    fn put(&self, length: usize, parts: &[IoSlice<'_>]) -> bool {
        let Some(beside) = self.beside else { return false };
        let lies = length > PIPED_MAX_BYTES && length <= beside.bytes();
        beside.expect(if lies { length } else { 0 });
        lies && beside.put(parts).is_ok()
    }
}

impl<'a> From<BorrowedFd<'a>> for Outbox<'a> {
    fn from(pipe: BorrowedFd<'a>) -> Outbox<'a> {
        Outbox::new(pipe, None)
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
pub(crate) fn send<'a, const N: usize>(
    to: impl Into<Outbox<'a>>,
    tag: u8,
    parts: [&[u8]; N],
    patience: &mut dyn Patience,
) -> Result<(), PipeError> {
    let to = to.into();
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let bytes = u32::try_from(length).map_err(|_| PipeError::NoMemory)?.to_le_bytes();
    let mut header = [tag, bytes[0], bytes[1], bytes[2], bytes[3]];
    let mut slices = [IoSlice::new(&[]); PARTS_MAX];
    for (slice, part) in slices[1..].iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    let lies = to.put(length, &slices[1..=N]);
    header[0] |= if lies { LIES_BESIDE } else { 0 };
    slices[0] = IoSlice::new(&header);
    let mut rest = if lies { &mut slices[..1] } else { &mut slices[..=N] };
    while !rest.is_empty() {
        match rustix::io::writev(to.pipe, rest) {
            Ok(sent) => IoSlice::advance_slices(&mut rest, sent),
            Err(Errno::AGAIN) => patience.wait(to.pipe, PollFlags::OUT)?,
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
/// The bit of a tag that says where the payload is. No tag has it of its own.
const LIES_BESIDE: u8 = 0x80;
/// Up to this a pipe takes a payload in one piece, which is as cheap as anything.
const PIPED_MAX_BYTES: usize = 64 << 10;
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

    /// Memory that anybody may write to at any time.
    #[derive(Debug, Default)]
    struct Board(std::sync::Mutex<Vec<u8>>);

    const BOARD_BYTES: usize = 4 * PIPED_MAX_BYTES;

    impl Beside for Board {
        fn bytes(&self) -> usize {
            BOARD_BYTES
        }

        fn expect(&self, _: usize) {}

        fn put(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
            let mut board = self.0.lock().unwrap();
            board.clear();
            parts.iter().for_each(|part| board.extend_from_slice(part));
            Ok(())
        }

        fn get(&self, at: usize, length: usize, into: &mut Vec<u8>) -> Result<(), Errno> {
            into.extend_from_slice(&self.0.lock().unwrap()[at..at + length]);
            Ok(())
        }
    }

    #[test]
    fn a_payload_lies_beside_the_pipe_when_it_is_large_and_fits() {
        let board = Arc::new(Board::default());
        let (inbox, write) = pipe();
        let mut inbox = inbox.with(Some(Arc::clone(&board) as Arc<dyn Beside>));
        let sizes = [
            (0, false),
            (PIPED_MAX_BYTES, false),
            (PIPED_MAX_BYTES + 1, true),
            (BOARD_BYTES, true),
            (BOARD_BYTES + 1, false),
            (7, false),
        ];
        // One frame at a time: the next when the last has been read.
        let (go, ready) = std::sync::mpsc::channel();
        let sender = std::thread::spawn({
            let board = Arc::clone(&board);
            move || {
                for (size, _) in sizes {
                    ready.recv().unwrap();
                    let payload = vec![mark(size); size];
                    let (head, tail) = payload.split_at(size / 3);
                    let outbox = Outbox::new(write.as_fd(), Some(&*board));
                    send(outbox, 7, [head, tail], &mut Blocking).unwrap();
                }
            }
        });
        let mut payload = Vec::new();
        for (size, lies) in sizes {
            go.send(()).unwrap();
            let header = inbox.header(&mut Blocking).unwrap();
            assert_eq!(header, Header { tag: 7, length: size });
            assert_eq!(inbox.lying.is_some(), lies, "{size}");
            let first: Option<[u8; 3]> =
                (size > 3).then(|| inbox.array(&mut Blocking)).transpose().unwrap();
            let rest = size - first.map_or(0, |first| first.len());
            inbox.take(rest, &mut payload, &mut Blocking).unwrap();
            assert!(payload.iter().chain(first.iter().flatten()).all(|byte| *byte == mark(size)));
            assert_eq!(payload.len(), rest);
        }
        sender.join().unwrap();
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_payload_beside_the_pipe_is_within_its_bounds() {
        let frame = |length: usize| {
            let length = u32::try_from(length).unwrap().to_le_bytes();
            [&[LIES_BESIDE | 7][..], &length].concat()
        };
        let board = || Arc::new(Board(std::sync::Mutex::new(vec![1; BOARD_BYTES])));
        // Nowhere to look, and one byte more than there is.
        let (mut inbox, write) = pipe();
        rustix::io::write(&write, &frame(9)).unwrap();
        assert!(matches!(inbox.header(&mut Blocking), Err(PipeError::Nonsense(_))));
        let (inbox, write) = pipe();
        let mut inbox = inbox.with(Some(board()));
        rustix::io::write(&write, &frame(BOARD_BYTES + 1)).unwrap();
        assert!(matches!(inbox.header(&mut Blocking), Err(PipeError::Nonsense(_))));
        // More is asked for than the frame has.
        let (inbox, write) = pipe();
        let mut inbox = inbox.with(Some(board()));
        rustix::io::write(&write, &frame(9)).unwrap();
        assert_eq!(inbox.header(&mut Blocking), Ok(Header { tag: 7, length: 9 }));
        assert_eq!(inbox.array(&mut Blocking), Ok([1; 8]));
        assert!(!inbox.is_empty());
        assert!(matches!(inbox.array::<2>(&mut Blocking), Err(PipeError::Nonsense(_))));
        let mut payload = Vec::new();
        let more = inbox.take(2, &mut payload, &mut Blocking);
        assert!(matches!(more, Err(PipeError::Nonsense(_))));
        inbox.take(1, &mut payload, &mut Blocking).unwrap();
        assert!(inbox.is_empty() && payload == [1]);
    }
}
