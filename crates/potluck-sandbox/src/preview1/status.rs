//! What a guest asks of a descriptor, and changes on it, without reading or writing; and the
//! listing of folders.

use std::ops::Bound;

use wasmtime::{Caller, Linker};

use super::descriptors::{
    RIGHT_ADVISE, RIGHT_DATASYNC, RIGHT_READDIR, RIGHT_SET_FLAGS, RIGHT_SET_TIMES, RIGHT_STATUS,
    RIGHT_SYNC, Rights, Target, flags_of,
};
use super::memory::split;
use super::tree::{Id, Node, Times};
use super::{Answer, Errno, Guest, MODULE, number};

type Call<'a> = Caller<'a, Guest>;

impl Guest {
    /// The file or folder behind `fd`, if `rights` are held; of a stream `if_stream` is said.
    fn node(&self, fd: u32, rights: Rights, if_stream: Errno) -> Result<Id, Errno> {
        let open = self.descriptors.get(fd)?;
        let Target::Node(id) = open.target else { return Err(if_stream) };
        open.allow(rights)?;
        Ok(id)
    }

    /// The folder behind `fd`, if `rights` are held.
    pub(super) fn folder(&self, fd: u32, rights: Rights) -> Result<Id, Errno> {
        let open = self.descriptors.get(fd)?;
        let Target::Node(id) = open.target else { return Err(Errno::NotFolder) };
        self.files.entries(id)?;
        open.allow(rights)?;
        Ok(id)
    }

    fn close(&mut self, fd: u32) -> Answer {
        if let Target::Node(id) = self.descriptors.close(fd)? {
            self.files.release(id);
        }
        Ok(())
    }

    fn renumber(&mut self, from: u32, to: u32) -> Answer {
        if let Some(Target::Node(id)) = self.descriptors.renumber(from, to)? {
            self.files.release(id);
        }
        Ok(())
    }
}

pub(super) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_close", |mut caller: Call<'_>, fd: u32| {
        number(caller.data_mut().close(fd))
    })?;
    linker.func_wrap(MODULE, "fd_renumber", |mut caller: Call<'_>, from: u32, to: u32| {
        number(caller.data_mut().renumber(from, to))
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut caller: Call<'_>, fd: u32, to: u32| {
        number(status(&mut caller, fd, to))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_flags",
        |mut caller: Call<'_>, fd: u32, flags: u32| number(set_flags(caller.data_mut(), fd, flags)),
    )?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_rights",
        |mut caller: Call<'_>, fd: u32, rights: u64, inheriting: u64| {
            number(set_rights(caller.data_mut(), fd, rights, inheriting))
        },
    )?;
    linker.func_wrap(MODULE, "fd_filestat_get", |mut caller: Call<'_>, fd: u32, to: u32| {
        number(file_status(&mut caller, fd, to))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_filestat_set_times",
        |mut caller: Call<'_>, fd: u32, accessed: u64, modified: u64, flags: u32| {
            number(set_times(caller.data_mut(), fd, accessed, modified, flags))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_advise",
        |mut caller: Call<'_>, fd: u32, _at: u64, _length: u64, advice: u32| {
            number(advise(caller.data_mut(), fd, advice))
        },
    )?;
    linker.func_wrap(MODULE, "fd_sync", |mut caller: Call<'_>, fd: u32| {
        number(caller.data_mut().node(fd, RIGHT_SYNC, Errno::Invalid).map(|_| ()))
    })?;
    linker.func_wrap(MODULE, "fd_datasync", |mut caller: Call<'_>, fd: u32| {
        number(caller.data_mut().node(fd, RIGHT_DATASYNC, Errno::Invalid).map(|_| ()))
    })?;
    linker.func_wrap(MODULE, "fd_prestat_get", |mut caller: Call<'_>, fd: u32, to: u32| {
        number(preopen(&mut caller, fd, to))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_prestat_dir_name",
        |mut caller: Call<'_>, fd: u32, to: u32, room: u32| {
            number(preopen_name(&mut caller, fd, to, room))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_readdir",
        |mut caller: Call<'_>, fd: u32, to: u32, room: u32, cookie: u64, used: u32| {
            number(list(&mut caller, fd, Buffer { to, room, used }, cookie))
        },
    )?;
    Ok(())
}

/// A stream is of no particular type, so that no runtime takes it for a terminal.
fn status(caller: &mut Call<'_>, fd: u32, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let open = guest.descriptors.get(fd)?;
    let mut status = [0; 24];
    if let Target::Node(id) = open.target {
        status[0] = type_of(guest.files.get(id)?);
    }
    status[2..4].copy_from_slice(&open.flags.to_le_bytes());
    status[8..16].copy_from_slice(&open.rights.to_le_bytes());
    status[16..24].copy_from_slice(&open.inheriting.to_le_bytes());
    memory.write(to, &status)
}

fn set_flags(guest: &mut Guest, fd: u32, flags: u32) -> Answer {
    let open = guest.descriptors.get_mut(fd)?;
    if let Target::Node(_) = open.target {
        open.allow(RIGHT_SET_FLAGS)?;
    }
    open.flags = flags_of(flags)?;
    Ok(())
}

/// Rights can be given up, and never got.
fn set_rights(guest: &mut Guest, fd: u32, rights: Rights, inheriting: Rights) -> Answer {
    let open = guest.descriptors.get_mut(fd)?;
    if rights & !open.rights != 0 || inheriting & !open.inheriting != 0 {
        return Err(Errno::NotCapable);
    }
    (open.rights, open.inheriting) = (rights, inheriting);
    Ok(())
}

fn file_status(caller: &mut Call<'_>, fd: u32, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let open = guest.descriptors.get(fd)?;
    let Target::Node(id) = open.target else { return memory.write(to, &[0; STATUS_BYTES]) };
    open.allow(RIGHT_STATUS)?;
    memory.write(to, &status_of(id, guest.files.get(id)?))
}

/// The record of a file or folder. There is one device, and every node has one name.
pub(super) fn status_of(id: Id, node: &Node) -> [u8; STATUS_BYTES] {
    let mut status = [0; STATUS_BYTES];
    let mut put = |at: usize, number: u64| {
        status[at..at + 8].copy_from_slice(&number.to_le_bytes());
    };
    put(0, 1);
    put(8, id);
    put(16, type_of(node).into());
    put(24, node.is_linked.into());
    put(32, node.contents().len() as u64);
    put(40, node.times.accessed_ns);
    put(48, node.times.modified_ns);
    put(56, node.times.changed_ns);
    status
}

fn type_of(node: &Node) -> u8 {
    if node.is_folder() { TYPE_FOLDER } else { TYPE_FILE }
}

fn set_times(guest: &mut Guest, fd: u32, accessed: u64, modified: u64, flags: u32) -> Answer {
    let id = guest.node(fd, RIGHT_SET_TIMES, Errno::NotSupported)?;
    set_times_of(guest, id, accessed, modified, flags)
}

/// Sets what `flags` say, to the times given or to now.
pub(super) fn set_times_of(
    guest: &mut Guest,
    id: Id,
    accessed: u64,
    modified: u64,
    flags: u32,
) -> Answer {
    let now_ns = guest.clock.now_ns();
    let choose = |flags: u32, given: u64, before: u64| match flags & 0b11 {
        0 => Ok(before),
        1 => Ok(given),
        2 => Ok(now_ns),
        _ => Err(Errno::Invalid),
    };
    if flags > 0b1111 {
        return Err(Errno::Invalid);
    }
    let before = guest.files.get(id)?.times;
    let times = Times {
        accessed_ns: choose(flags, accessed, before.accessed_ns)?,
        modified_ns: choose(flags >> 2, modified, before.modified_ns)?,
        changed_ns: now_ns,
    };
    guest.files.get_mut(id)?.times = times;
    Ok(())
}

/// All of it is in memory already, whatever the advice.
fn advise(guest: &mut Guest, fd: u32, advice: u32) -> Answer {
    guest.file(fd, RIGHT_ADVISE, Errno::IllegalSeek)?;
    if advice > ADVICE_MAX { Err(Errno::Invalid) } else { Ok(()) }
}

fn preopen(caller: &mut Call<'_>, fd: u32, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    if !guest.descriptors.get(fd)?.is_preopen {
        return Err(Errno::BadDescriptor);
    }
    // The tag of a folder, and the length of its name.
    memory.write(to, &[0; 4])?;
    memory.write_u32(to.checked_add(4).ok_or(Errno::Fault)?, 1)
}

fn preopen_name(caller: &mut Call<'_>, fd: u32, to: u32, room: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    if !guest.descriptors.get(fd)?.is_preopen {
        return Err(Errno::BadDescriptor);
    }
    if room == 0 {
        return Err(Errno::NameTooLong);
    }
    memory.write(to, b"/")
}

/// Where a listing goes.
struct Buffer {
    to: u32,
    room: u32,
    used: u32,
}

/// Lists a folder from `cookie` on: itself, the one above, and its entries by name. What does not
/// fit is cut, which tells the guest that there is more.
///
/// A cookie stands for the entry before it. That entry may be gone when the guest comes back, as
/// when it removes what it lists: so the name that the last listing ended with is kept.
fn list(caller: &mut Call<'_>, fd: u32, buffer: Buffer, cookie: u64) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let folder = guest.folder(fd, RIGHT_READDIR)?;
    let open = guest.descriptors.get_mut(fd)?;
    let after = match (cookie, &open.listed) {
        (0..=COOKIE_PARENT, _) => None,
        (_, Some((listed, name))) if *listed == cookie => Some(name.clone()),
        _ => {
            let node = guest.files.get(cookie - COOKIE_PARENT).map_err(|_| Errno::Invalid)?;
            let is_here = node.is_linked && node.parent == folder;
            Some(is_here.then(|| node.name().into()).ok_or(Errno::Invalid)?)
        }
    };
    let above = guest.files.get(folder)?.parent;
    let dots = [(COOKIE_SELF, ".", folder), (COOKIE_PARENT, "..", above)];
    let dots = dots.into_iter().filter(|(next, ..)| *next > cookie);
    let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let entries = guest.files.entries(folder)?.range::<str, _>((start, Bound::Unbounded));
    let entries = entries.map(|(name, id)| (*id + COOKIE_PARENT, &**name, *id));
    let room = memory.bytes_mut(buffer.to, buffer.room)?;
    let (mut used, mut listed) = (0, None);
    for (next, name, id) in dots.chain(entries) {
        let Ok(node) = guest.files.get(id) else { continue };
        let mut head = [0; ENTRY_BYTES];
        head[..8].copy_from_slice(&next.to_le_bytes());
        head[8..16].copy_from_slice(&id.to_le_bytes());
        head[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
        head[20] = type_of(node);
        let wrote = fill(&mut room[used..], &head);
        used += wrote;
        let named = fill(&mut room[used..], name.as_bytes());
        used += named;
        if wrote + named < ENTRY_BYTES + name.len() {
            break;
        }
        listed = Some((next, name.into()));
    }
    if listed.is_some() {
        open.listed = listed;
    }
    memory.write_u32(buffer.used, u32::try_from(used).map_err(|_| Errno::Fault)?)
}

/// Writes as much of `bytes` as there is room for.
fn fill(room: &mut [u8], bytes: &[u8]) -> usize {
    let length = room.len().min(bytes.len());
    room[..length].copy_from_slice(&bytes[..length]);
    length
}

const STATUS_BYTES: usize = 64;
const TYPE_FOLDER: u8 = 3;
const TYPE_FILE: u8 = 4;
const ADVICE_MAX: u32 = 5;
const ENTRY_BYTES: usize = 24;
/// The cookie after `.`.
const COOKIE_SELF: u64 = 1;
/// The cookie after `..`; the one after any other entry is so much more than its id.
const COOKIE_PARENT: u64 = 2;
