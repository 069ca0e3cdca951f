//! Memory that a runner and its child share, for payloads that a pipe would carry in many pieces,
//! and the way in which a child comes by it.
//!
//! The parent makes it as large as the largest payload can be and seals its size, so that nobody
//! can take it away while the other looks. It costs nothing until it is touched, and the parent
//! gives back what payloads have not needed for a while; a child that has broken out of its engine
//! can hold all of it for as long as it lives. The parent believes nothing that stands in it: it
//! copies what it was told to expect, once, and never looks at the original again. It does so by
//! reading a file, so that no reference to memory that others write exists on this side.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::pipe::Beside;

/// The parent's side: a file without a name.
#[derive(Debug)]
pub(crate) struct Shared {
    file: OwnedFd,
    bytes: usize,
    extent: Mutex<Extent>,
}

impl Shared {
    /// Memory for payloads of up to `bytes`, where the system has such a thing.
    pub(crate) fn new(bytes: usize) -> Option<Shared> {
        let file = sealed(bytes as u64).ok()?;
        Some(Shared { file, bytes, extent: Mutex::default() })
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Gives memory back from `from` on.
    #[cfg(target_os = "linux")]
    fn give_back(&self, from: usize) {
        use rustix::fs::FallocateFlags;
        let (from, end) = (from as u64, self.bytes as u64);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // If it fails, the memory stays until the runner ends.
        let _ = rustix::fs::fallocate(&self.file, flags, from, end.saturating_sub(from));
    }

    #[cfg(not(target_os = "linux"))]
    fn give_back(&self, _: usize) {}
}

#[cfg(target_os = "linux")]
fn sealed(bytes: u64) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("potluck", flags)?;
    rustix::fs::ftruncate(&file, bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

#[cfg(not(target_os = "linux"))]
fn sealed(_: u64) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Beside for Shared {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn expect(&self, bytes: usize) {
        let from = self.extent.lock().unwrap_or_else(PoisonError::into_inner).exchange(bytes);
        if let Some(from) = from {
            self.give_back(from);
        }
    }

    fn put(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        let mut parts = parts.to_vec();
        let (mut parts, mut at) = (&mut parts[..], 0);
        while parts.iter().any(|part| !part.is_empty()) {
            let put = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, parts, at))?;
            if put == 0 {
                return Err(Errno::IO);
            }
            at += put as u64;
            IoSlice::advance_slices(&mut parts, put);
        }
        Ok(())
    }

    fn get(&self, mut at: usize, length: usize, into: &mut Vec<u8>) -> Result<(), Errno> {
        self.extent.lock().unwrap_or_else(PoisonError::into_inner).touch(at + length);
        into.try_reserve_exact(length).map_err(|_| Errno::NOMEM)?;
        let end = into.len() + length;
        while into.len() < end {
            let read = rustix::io::retry_on_intr(|| {
                rustix::io::pread(&self.file, spare_capacity(into), at as u64)
            })?;
            if read == 0 {
                return Err(Errno::IO);
            }
            at += read;
        }
        // An allocator may have given more room than was asked for.
        into.truncate(end);
        Ok(())
    }
}

/// How much of the memory payloads have touched, and how much they need these days.
#[derive(Debug, Default)]
struct Extent {
    touched: usize,
    recent: usize,
}

impl Extent {
    fn touch(&mut self, bytes: usize) {
        self.touched = self.touched.max(bytes);
        self.recent = self.recent.max(bytes);
    }

    /// Books the start of an exchange that begins with `bytes` of shared memory, and says from
    /// where on memory should be given back, if it should.
    fn exchange(&mut self, bytes: usize) -> Option<usize> {
        self.recent -= self.recent / 8;
        self.touch(bytes);
        if self.touched <= KEPT_MAX_BYTES.max(2 * self.recent) {
            return None;
        }
        self.touched = self.recent.next_multiple_of(PAGE_BYTES);
        Some(self.touched)
    }
}

/// The child's side: the same memory at an address.
#[derive(Debug)]
pub(crate) struct Window {
    start: *mut u8,
    bytes: usize,
}

#[expect(unsafe_code, reason = "the address is of memory that is mapped for good")]
// SAFETY: nothing about a shared mapping belongs to one thread.
unsafe impl Send for Window {}
#[expect(unsafe_code, reason = "the address is of memory that is mapped for good")]
// SAFETY: a child's frames are sent and read by one thread, one after the other.
unsafe impl Sync for Window {}

impl Window {
    /// Maps what the parent has handed over.
    pub(crate) fn open(file: &OwnedFd) -> io::Result<Window> {
        use rustix::mm::{MapFlags, ProtFlags};
        let bytes = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        #[expect(unsafe_code, reason = "memory is shared by mapping it")]
        // SAFETY: the system chooses an address where nothing is. The mapping is never taken away.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0)?
        };
        Ok(Window { start: start.cast(), bytes })
    }
}

impl Beside for Window {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn expect(&self, _: usize) {}

    fn put(&self, parts: &[IoSlice<'_>]) -> Result<(), Errno> {
        let mut at = 0;
        for part in parts {
            if part.len() > self.bytes - at {
                return Err(Errno::NOBUFS);
            }
            #[expect(unsafe_code, reason = "the parent shares this memory")]
            // SAFETY: `at..at + part.len()` is within the mapping, whose size is sealed, and no
            // reference to it exists in this process: `part` is other memory.
            unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), self.start.add(at), part.len());
            }
            at += part.len();
        }
        Ok(())
    }

    fn get(&self, at: usize, length: usize, into: &mut Vec<u8>) -> Result<(), Errno> {
        if at.checked_add(length).is_none_or(|end| end > self.bytes) {
            return Err(Errno::NOBUFS);
        }
        #[expect(unsafe_code, reason = "the parent shares this memory")]
        // SAFETY: the range is within the mapping, whose size is sealed. The parent writes to it
        // only before it sends a frame, so nobody does while this reference lives.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(self.start.add(at), length) });
        Ok(())
    }
}

/// What a child is to find on its third descriptor: a socket in which these files wait for it. The
/// first three descriptors are the only ones that every way of spawning hands over, and two are
/// the pipes.
pub(crate) fn hand_over(files: &[BorrowedFd<'_>]) -> io::Result<Stdio> {
    let (ours, theirs) = UnixStream::pair()?;
    send_files(&ours, files)?;
    Ok(Stdio::from(OwnedFd::from(theirs)))
}

fn send_files(socket: &UnixStream, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    Ok(())
}

/// The child's side of [`hand_over`]: the artefact, and the shared memory if there is any.
pub(crate) fn take_over(socket: BorrowedFd<'_>) -> io::Result<(File, Option<Window>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let slices = &mut [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, slices, &mut control, RecvFlags::empty())?;
    let files = control.drain().filter_map(|message| {
        if let RecvAncillaryMessage::ScmRights(files) = message { Some(files) } else { None }
    });
    let mut files = files.flatten();
    let artefact = files.next().ok_or(io::ErrorKind::UnexpectedEof)?;
    let window = files.next().and_then(|file| Window::open(&file).ok());
    Ok((File::from(artefact), window))
}

/// An artefact and shared memory.
const FILES_MAX: usize = 2;
/// What a runner keeps for the next large payload, however small those of late were.
const KEPT_MAX_BYTES: usize = 2 << 20;
/// Memory is given back in pages; where they are larger, the system rounds.
const PAGE_BYTES: usize = 4096;

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 1 << 20;

    fn sides() -> (Shared, Window) {
        let shared = Shared::new(BYTES).unwrap();
        let window = Window::open(&shared.file().try_clone_to_owned().unwrap()).unwrap();
        (shared, window)
    }

    fn held_bytes(shared: &Shared) -> u64 {
        u64::try_from(rustix::fs::fstat(&shared.file).unwrap().st_blocks).unwrap() * 512
    }

    #[test]
    fn what_one_side_puts_the_other_gets() {
        let (shared, window) = sides();
        let sides: [(&dyn Beside, &dyn Beside); 2] = [(&shared, &window), (&window, &shared)];
        for (from, to) in sides {
            let whole: Vec<u8> = (0..BYTES).map(|at| at.to_le_bytes()[at % 3]).collect();
            let (head, tail) = whole.split_at(BYTES / 3);
            from.put(&[IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(tail)]).unwrap();
            let mut copy = vec![9];
            to.get(0, 5, &mut copy).unwrap();
            to.get(5, BYTES - 5, &mut copy).unwrap();
            assert!(copy[0] == 9 && copy[1..] == whole);
            from.put(&[IoSlice::new(&[])]).unwrap();
        }
    }

    #[test]
    fn nothing_is_beyond_the_end() {
        let (shared, window) = sides();
        let sides: [&dyn Beside; 2] = [&shared, &window];
        for side in sides {
            assert_eq!(side.bytes(), BYTES);
            assert!(side.put(&[IoSlice::new(&[1]), IoSlice::new(&[1; BYTES])]).is_err());
            assert!(side.get(1, BYTES, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn nobody_can_change_its_size_or_stop_the_other_from_writing() {
        use rustix::fs::SealFlags;
        let (shared, _) = sides();
        let theirs = shared.file().try_clone_to_owned().unwrap();
        for bytes in [0, BYTES as u64 - 4096, BYTES as u64 + 4096] {
            assert_eq!(rustix::fs::ftruncate(&theirs, bytes), Err(Errno::PERM));
        }
        for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
            assert_eq!(rustix::fs::fcntl_add_seals(&theirs, seal), Err(Errno::PERM));
        }
    }

    #[test]
    fn memory_that_payloads_no_longer_need_is_given_back() {
        let shared = Shared::new(64 << 20).unwrap();
        let large = vec![1; 32 << 20];
        shared.expect(large.len());
        shared.put(&[IoSlice::new(&large)]).unwrap();
        assert!(held_bytes(&shared) >= 32 << 20);
        // Payloads of about the same size find it there.
        shared.expect(20 << 20);
        assert!(held_bytes(&shared) >= 32 << 20);
        for _ in 0..64 {
            shared.expect(0);
        }
        assert!(held_bytes(&shared) <= KEPT_MAX_BYTES as u64);
    }

    #[test]
    fn little_is_given_back_at_a_time_and_none_of_what_is_needed() {
        let mut extent = Extent::default();
        for bytes in [1, KEPT_MAX_BYTES, 0, 0, 0] {
            assert_eq!(extent.exchange(bytes), None);
        }
        extent.touch(100 << 20);
        let mut given = 0;
        for _ in 0..100 {
            if let Some(from) = extent.exchange(3 << 20) {
                assert!(from >= 3 << 20);
                given += 1;
            }
        }
        assert!((1..10).contains(&given), "{given}");
        assert!(extent.touched <= 6 << 20);
    }

    #[test]
    fn files_are_taken_over_in_order() {
        let shared = Shared::new(BYTES).unwrap();
        let artefact = File::open("/dev/null").unwrap();
        let files = [artefact.as_fd(), shared.file()];
        for count in 0..=files.len() {
            let (ours, theirs) = UnixStream::pair().unwrap();
            send_files(&ours, &files[..count]).unwrap();
            drop(ours);
            let taken = take_over(theirs.as_fd());
            assert_eq!(
                taken.as_ref().ok().map(|(_, window)| window.is_some()),
                match count {
                    0 => None,
                    count => Some(count == 2),
                }
            );
        }
    }
}
