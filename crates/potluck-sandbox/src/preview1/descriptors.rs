//! Descriptors: the numbers by which a guest names its streams, files and folders, and what it may
//! do through each.

use super::tree::{Id, ROOT};
use super::{Answer, Errno};

/// What a guest may do through a descriptor: WASI's bits.
pub(super) type Rights = u64;

pub(super) const RIGHT_DATASYNC: Rights = 1;
pub(super) const RIGHT_READ: Rights = 1 << 1;
pub(super) const RIGHT_SEEK: Rights = 1 << 2;
pub(super) const RIGHT_SET_FLAGS: Rights = 1 << 3;
pub(super) const RIGHT_SYNC: Rights = 1 << 4;
pub(super) const RIGHT_TELL: Rights = 1 << 5;
pub(super) const RIGHT_WRITE: Rights = 1 << 6;
pub(super) const RIGHT_ADVISE: Rights = 1 << 7;
pub(super) const RIGHT_ALLOCATE: Rights = 1 << 8;
pub(super) const RIGHT_CREATE_FOLDER: Rights = 1 << 9;
pub(super) const RIGHT_CREATE_FILE: Rights = 1 << 10;
pub(super) const RIGHT_OPEN: Rights = 1 << 13;
pub(super) const RIGHT_READDIR: Rights = 1 << 14;
pub(super) const RIGHT_READLINK: Rights = 1 << 15;
pub(super) const RIGHT_RENAME_SOURCE: Rights = 1 << 16;
pub(super) const RIGHT_RENAME_TARGET: Rights = 1 << 17;
pub(super) const RIGHT_PATH_STATUS: Rights = 1 << 18;
pub(super) const RIGHT_PATH_SET_SIZE: Rights = 1 << 19;
pub(super) const RIGHT_PATH_SET_TIMES: Rights = 1 << 20;
pub(super) const RIGHT_STATUS: Rights = 1 << 21;
pub(super) const RIGHT_SET_SIZE: Rights = 1 << 22;
pub(super) const RIGHT_SET_TIMES: Rights = 1 << 23;
pub(super) const RIGHT_REMOVE_FOLDER: Rights = 1 << 25;
pub(super) const RIGHT_UNLINK: Rights = 1 << 26;
const RIGHT_POLL: Rights = 1 << 27;

/// What makes sense for a file.
pub(super) const FILE_RIGHTS: Rights = RIGHT_DATASYNC
    | RIGHT_READ
    | RIGHT_SEEK
    | RIGHT_SET_FLAGS
    | RIGHT_SYNC
    | RIGHT_TELL
    | RIGHT_WRITE
    | RIGHT_ADVISE
    | RIGHT_ALLOCATE
    | RIGHT_STATUS
    | RIGHT_SET_SIZE
    | RIGHT_SET_TIMES
    | RIGHT_POLL;
/// What makes sense for a folder.
pub(super) const FOLDER_RIGHTS: Rights = RIGHT_DATASYNC
    | RIGHT_SET_FLAGS
    | RIGHT_SYNC
    | RIGHT_CREATE_FOLDER
    | RIGHT_CREATE_FILE
    | RIGHT_OPEN
    | RIGHT_READDIR
    | RIGHT_READLINK
    | RIGHT_RENAME_SOURCE
    | RIGHT_RENAME_TARGET
    | RIGHT_PATH_STATUS
    | RIGHT_PATH_SET_SIZE
    | RIGHT_PATH_SET_TIMES
    | RIGHT_STATUS
    | RIGHT_SET_TIMES
    | RIGHT_REMOVE_FOLDER
    | RIGHT_UNLINK;

/// Writes go to the end of the file.
pub(super) const FLAG_APPEND: u16 = 1;
/// The five descriptor flags that preview 1 knows. All but the first are kept to be shown, and
/// without effect: nothing here waits, and nothing is late.
const FLAGS: u32 = 0b1_1111;

/// What a descriptor leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Input,
    Output,
    Error,
    Node(Id),
}

/// An open descriptor.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) target: Target,
    pub(super) flags: u16,
    pub(super) rights: Rights,
    /// What descriptors opened through this one may have.
    pub(super) inheriting: Rights,
    /// Where the next read or write of a file starts.
    pub(super) at: u64,
    /// The last entry that a listing of this folder ended with, and where it goes on. The entry
    /// may be gone by then.
    pub(super) listed: Option<(u64, Box<str>)>,
    pub(super) is_preopen: bool,
}

impl Open {
    fn stream(target: Target, right: Rights) -> Open {
        let rights = right | RIGHT_POLL;
        let (flags, at, is_preopen) = (0, 0, false);
        Open { target, flags, rights, inheriting: 0, at, listed: None, is_preopen }
    }

    /// A descriptor of a file or folder.
    pub(super) fn node(id: Id, flags: u16, rights: Rights, inheriting: Rights) -> Open {
        let (target, at, is_preopen) = (Target::Node(id), 0, false);
        Open { target, flags, rights, inheriting, at, listed: None, is_preopen }
    }

    /// Whether all of `rights` are held. Without the right to read or write a descriptor is no good
    /// for that on any system; for the rest preview 1 has a word of its own.
    pub(super) fn allow(&self, rights: Rights) -> Answer {
        let missing = rights & !self.rights;
        if missing & (RIGHT_READ | RIGHT_WRITE) != 0 {
            Err(Errno::BadDescriptor)
        } else if missing != 0 {
            Err(Errno::NotCapable)
        } else {
            Ok(())
        }
    }
}

/// The flags that a guest asks for.
pub(super) fn flags_of(flags: u32) -> Result<u16, Errno> {
    u16::try_from(flags & FLAGS).ok().filter(|_| flags <= FLAGS).ok_or(Errno::Invalid)
}

/// All open descriptors of a unit.
#[derive(Debug)]
pub(super) struct Descriptors {
    open: Vec<Option<Open>>,
}

impl Descriptors {
    /// The three streams, and the root if there is one.
    pub(super) fn new(has_root: bool) -> Descriptors {
        let mut open = vec![
            Some(Open::stream(Target::Input, RIGHT_READ)),
            Some(Open::stream(Target::Output, RIGHT_WRITE)),
            Some(Open::stream(Target::Error, RIGHT_WRITE)),
        ];
        if has_root {
            let root = Open::node(ROOT, 0, FOLDER_RIGHTS, FOLDER_RIGHTS | FILE_RIGHTS);
            open.push(Some(Open { is_preopen: true, ..root }));
        }
        Descriptors { open }
    }

    pub(super) fn get(&self, fd: u32) -> Result<&Open, Errno> {
        self.open.get(fd as usize).and_then(Option::as_ref).ok_or(Errno::BadDescriptor)
    }

    pub(super) fn get_mut(&mut self, fd: u32) -> Result<&mut Open, Errno> {
        self.open.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::BadDescriptor)
    }

    /// The number that the next descriptor gets: the lowest that is free.
    pub(super) fn next(&self) -> Result<u32, Errno> {
        let next = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        u32::try_from(next).ok().filter(|next| *next < OPEN_MAX).ok_or(Errno::TooManyOpen)
    }

    /// Opens `fd`, which [`Descriptors::next`] gave.
    pub(super) fn open(&mut self, fd: u32, open: Open) {
        match self.open.get_mut(fd as usize) {
            Some(free) => *free = Some(open),
            None => self.open.push(Some(open)),
        }
    }

    /// Closes `fd` and says what it led to.
    pub(super) fn close(&mut self, fd: u32) -> Result<Target, Errno> {
        let open = self.open.get_mut(fd as usize).and_then(Option::take);
        open.map(|open| open.target).ok_or(Errno::BadDescriptor)
    }

    /// Moves `from` to the number `to`, and says what that led to, which is closed.
    pub(super) fn renumber(&mut self, from: u32, to: u32) -> Result<Option<Target>, Errno> {
        self.get(from)?;
        let closed = self.get(to)?.target;
        if from == to {
            return Ok(None);
        }
        self.open[to as usize] = self.open[from as usize].take();
        Ok(Some(closed))
    }
}

/// As many as a process gets on most systems.
pub(super) const OPEN_MAX: u32 = 1024;
