//! The calls that take a path. Every path is followed within the folder it starts from: an absolute
//! one is refused, and so is one that climbs out.

use std::collections::BTreeMap;

use potluck_unit::OutFile;
use wasmtime::{Caller, Linker};

use super::descriptors::{
    FILE_RIGHTS, FOLDER_RIGHTS, Open, RIGHT_CREATE_FILE, RIGHT_CREATE_FOLDER, RIGHT_OPEN,
    RIGHT_PATH_SET_SIZE, RIGHT_PATH_SET_TIMES, RIGHT_PATH_STATUS, RIGHT_READLINK,
    RIGHT_REMOVE_FOLDER, RIGHT_RENAME_SOURCE, RIGHT_RENAME_TARGET, RIGHT_UNLINK, RIGHT_WRITE,
    Rights, flags_of,
};
use super::memory::{GuestMemory, split};
use super::status::{set_times_of, status_of};
use super::tree::{Id, Kind};
use super::{Answer, Errno, Guest, MODULE, number};

type Call<'a> = Caller<'a, Guest>;

/// Where a guest says that a path starts and lies.
#[derive(Clone, Copy)]
struct PathAt {
    fd: u32,
    at: u32,
    length: u32,
}

impl PathAt {
    fn read(self, memory: &GuestMemory<'_>) -> Result<String, Errno> {
        let bytes = memory.bytes(self.at, self.length)?;
        if bytes.len() > OutFile::PATH_BYTES_MAX {
            return Err(Errno::NameTooLong);
        }
        let path = str::from_utf8(bytes).map_err(|_| Errno::IllegalSequence)?;
        if path.contains('\0') {
            return Err(Errno::Invalid);
        }
        match path.as_bytes().first() {
            None => Err(Errno::NoEntry),
            Some(b'/') => Err(Errno::NotPermitted),
            Some(_) => Ok(path.to_owned()),
        }
    }
}

pub(super) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    define_open(linker)?;
    define_with_flags(linker)?;
    linker.func_wrap(
        MODULE,
        "path_create_directory",
        |mut caller: Call<'_>, fd: u32, at: u32, length: u32| {
            number(create_folder(&mut caller, PathAt { fd, at, length }))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_remove_directory",
        |mut caller: Call<'_>, fd: u32, at: u32, length: u32| {
            number(remove_folder(&mut caller, PathAt { fd, at, length }))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_unlink_file",
        |mut caller: Call<'_>, fd: u32, at: u32, length: u32| {
            number(unlink(&mut caller, PathAt { fd, at, length }))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_rename",
        |mut caller: Call<'_>, fd: u32, at: u32, length: u32, to: u32, new: u32, bytes: u32| {
            let target = PathAt { fd: to, at: new, length: bytes };
            number(rename(&mut caller, PathAt { fd, at, length }, target))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_readlink",
        |mut caller: Call<'_>, fd: u32, at: u32, length: u32, _to: u32, _room: u32, _used: u32| {
            number(read_link(&mut caller, PathAt { fd, at, length }))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_symlink",
        |mut caller: Call<'_>, _old: u32, _bytes: u32, fd: u32, at: u32, length: u32| {
            number(no_link(&mut caller, PathAt { fd, at, length }))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_link",
        |mut caller: Call<'_>,
         fd: u32,
         _follow: u32,
         at: u32,
         length: u32,
         to: u32,
         new: u32,
         bytes: u32| {
            let source = no_link(&mut caller, PathAt { fd, at, length });
            let target = no_link(&mut caller, PathAt { fd: to, at: new, length: bytes });
            number(if source == Err(Errno::NotSupported) { target } else { source })
        },
    )?;
    Ok(())
}

fn define_open(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "path_open",
        |mut caller: Call<'_>,
         fd: u32,
         follow: u32,
         at: u32,
         length: u32,
         how: u32,
         rights: u64,
         inheriting: u64,
         flags: u32,
         to: u32| {
            let wish = Wish { follow, how, rights, inheriting, flags };
            number(open(&mut caller, PathAt { fd, at, length }, &wish, to))
        },
    )?;
    Ok(())
}

fn define_with_flags(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "path_filestat_get",
        |mut caller: Call<'_>, fd: u32, follow: u32, at: u32, length: u32, to: u32| {
            number(status(&mut caller, PathAt { fd, at, length }, follow, to))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_filestat_set_times",
        |mut caller: Call<'_>,
         fd: u32,
         follow: u32,
         at: u32,
         length: u32,
         accessed: u64,
         modified: u64,
         flags: u32| {
            number(split(&mut caller).and_then(|(memory, guest)| {
                let path = PathAt { fd, at, length };
                let id = existing(&memory, guest, path, RIGHT_PATH_SET_TIMES, follow)?;
                set_times_of(guest, id, accessed, modified, flags)
            }))
        },
    )?;
    Ok(())
}

/// What a guest wants of the file it opens.
struct Wish {
    follow: u32,
    how: u32,
    rights: Rights,
    inheriting: Rights,
    flags: u32,
}

impl Wish {
    fn has(&self, how: u32) -> bool {
        self.how & how != 0
    }

    /// Finds wishes that contradict themselves, and names the rights they need.
    fn check(&self) -> Result<Rights, Errno> {
        let makes = self.has(HOW_CREATE | HOW_EXCLUSIVE | HOW_TRUNCATE);
        if self.how > HOW_MAX || self.follow > FOLLOW || self.has(HOW_FOLDER) && makes {
            return Err(Errno::Invalid);
        }
        let create = if self.has(HOW_CREATE) { RIGHT_CREATE_FILE } else { 0 };
        let truncate = if self.has(HOW_TRUNCATE) { RIGHT_PATH_SET_SIZE } else { 0 };
        Ok(RIGHT_OPEN | create | truncate)
    }

    fn writes(&self) -> bool {
        self.rights & RIGHT_WRITE != 0
    }
}

fn open(caller: &mut Call<'_>, path: PathAt, wish: &Wish, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let needed = wish.check()?;
    let flags = flags_of(wish.flags)?;
    let folder = guest.folder(path.fd, needed)?;
    let given = guest.descriptors.get(path.fd)?.inheriting;
    let path = path.read(&memory)?;
    // Everything that can go wrong does so before anything is made.
    memory.bytes_mut(to, 4)?;
    let fd = guest.descriptors.next()?;
    let place = guest.files.resolve(folder, &path)?;
    let is_folder = match place.found {
        Some(id) => check_existing(guest, id, wish)?,
        None if !wish.has(HOW_CREATE) => return Err(Errno::NoEntry),
        None if place.wants_folder => return Err(Errno::IsFolder),
        None => false,
    };
    // What makes no sense for what is opened is not missed; what the folder can't give is.
    let rights = wish.rights & if is_folder { FOLDER_RIGHTS } else { FILE_RIGHTS };
    if rights & !given != 0 {
        return Err(Errno::NotCapable);
    }
    let now_ns = guest.clock.now_ns();
    let id = match (place.found, place.name) {
        (Some(id), _) if wish.has(HOW_TRUNCATE) => guest.files.cut(id, 0, now_ns).map(|()| id)?,
        (Some(id), _) => id,
        (None, Some(name)) => {
            guest.files.create(place.parent, name, Kind::File(Vec::new()), now_ns)?
        }
        (None, None) => return Err(Errno::NoEntry),
    };
    guest.files.retain(id);
    guest.descriptors.open(fd, Open::node(id, flags, rights, wish.inheriting & given));
    memory.write_u32(to, fd)
}

/// Whether what is there, which is to be opened, is a folder.
fn check_existing(guest: &Guest, id: Id, wish: &Wish) -> Result<bool, Errno> {
    if wish.has(HOW_CREATE) && wish.has(HOW_EXCLUSIVE) {
        return Err(Errno::Exists);
    }
    let is_folder = guest.files.get(id)?.is_folder();
    if is_folder {
        // Who names a folder as such asks for rights to write by habit, and does not get them.
        let for_writing = wish.writes() && !wish.has(HOW_FOLDER);
        if for_writing || wish.has(HOW_CREATE | HOW_TRUNCATE) {
            return Err(Errno::IsFolder);
        }
    } else if wish.has(HOW_FOLDER) {
        return Err(Errno::NotFolder);
    } else if !guest.files.is_own(id) && (wish.writes() || wish.has(HOW_TRUNCATE)) {
        return Err(Errno::ReadOnly);
    }
    Ok(is_folder)
}

/// What a path leads to, which must be there.
fn existing(
    memory: &GuestMemory<'_>,
    guest: &Guest,
    path: PathAt,
    rights: Rights,
    follow: u32,
) -> Result<Id, Errno> {
    let folder = guest.folder(path.fd, rights)?;
    if follow > FOLLOW {
        return Err(Errno::Invalid);
    }
    guest.files.resolve(folder, &path.read(memory)?)?.found.ok_or(Errno::NoEntry)
}

fn status(caller: &mut Call<'_>, path: PathAt, follow: u32, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let id = existing(&memory, guest, path, RIGHT_PATH_STATUS, follow)?;
    memory.write(to, &status_of(id, guest.files.get(id)?))
}

fn create_folder(caller: &mut Call<'_>, path: PathAt) -> Answer {
    let (memory, guest) = split(caller)?;
    let folder = guest.folder(path.fd, RIGHT_CREATE_FOLDER)?;
    let path = path.read(&memory)?;
    let place = guest.files.resolve(folder, &path)?;
    match (place.found, place.name) {
        (None, Some(name)) => {
            let kind = Kind::Folder(BTreeMap::new());
            guest.files.create(place.parent, name, kind, guest.clock.now_ns()).map(|_| ())
        }
        (Some(_), _) | (None, None) => Err(Errno::Exists),
    }
}

fn remove_folder(caller: &mut Call<'_>, path: PathAt) -> Answer {
    let (memory, guest) = split(caller)?;
    let folder = guest.folder(path.fd, RIGHT_REMOVE_FOLDER)?;
    let path = path.read(&memory)?;
    let place = guest.files.resolve(folder, &path)?;
    if place.name.is_none() {
        return Err(Errno::Invalid);
    }
    let id = place.found.ok_or(Errno::NoEntry)?;
    let is_empty = guest.files.entries(id)?.is_empty();
    if !guest.files.is_own(place.parent) {
        return Err(Errno::ReadOnly);
    }
    if !is_empty {
        return Err(Errno::NotEmpty);
    }
    guest.files.unlink(id, guest.clock.now_ns())
}

fn unlink(caller: &mut Call<'_>, path: PathAt) -> Answer {
    let (memory, guest) = split(caller)?;
    let folder = guest.folder(path.fd, RIGHT_UNLINK)?;
    let path = path.read(&memory)?;
    let place = guest.files.resolve(folder, &path)?;
    let id = place.found.ok_or(Errno::NoEntry)?;
    if guest.files.get(id)?.is_folder() {
        return Err(Errno::IsFolder);
    }
    if !guest.files.is_own(place.parent) {
        return Err(Errno::ReadOnly);
    }
    guest.files.unlink(id, guest.clock.now_ns())
}

fn rename(caller: &mut Call<'_>, source: PathAt, target: PathAt) -> Answer {
    let (memory, guest) = split(caller)?;
    let from = guest.folder(source.fd, RIGHT_RENAME_SOURCE)?;
    let to = guest.folder(target.fd, RIGHT_RENAME_TARGET)?;
    let (source, target) = (source.read(&memory)?, target.read(&memory)?);
    let files = &mut guest.files;
    let (source, target) = (files.resolve(from, &source)?, files.resolve(to, &target)?);
    let (Some(_), Some(name)) = (source.name, target.name) else { return Err(Errno::Busy) };
    let id = source.found.ok_or(Errno::NoEntry)?;
    if !files.is_own(source.parent) || !files.is_own(target.parent) {
        return Err(Errno::ReadOnly);
    }
    if !files.get(target.parent)?.is_linked {
        return Err(Errno::NoEntry);
    }
    if target.found == Some(id) {
        return Ok(());
    }
    let is_folder = files.get(id)?.is_folder();
    if is_folder && files.is_within(target.parent, id) {
        return Err(Errno::Invalid);
    }
    match target.found {
        Some(over) if is_folder && !files.entries(over)?.is_empty() => {
            return Err(Errno::NotEmpty);
        }
        Some(over) if !is_folder && files.get(over)?.is_folder() => return Err(Errno::IsFolder),
        None if !is_folder && target.wants_folder => return Err(Errno::NotFolder),
        Some(_) | None => {}
    }
    files.rename(id, &target, name, guest.clock.now_ns())
}

/// There are no links, so whatever is there is none.
fn read_link(caller: &mut Call<'_>, path: PathAt) -> Answer {
    let (memory, guest) = split(caller)?;
    existing(&memory, guest, path, RIGHT_READLINK, FOLLOW).and(Err(Errno::Invalid))
}

/// Links can't be made.
fn no_link(caller: &mut Call<'_>, path: PathAt) -> Answer {
    let (memory, guest) = split(caller)?;
    guest.folder(path.fd, 0)?;
    path.read(&memory)?;
    Err(Errno::NotSupported)
}

/// The only lookup flag: follow links, of which there are none.
const FOLLOW: u32 = 1;
const HOW_CREATE: u32 = 1;
const HOW_FOLDER: u32 = 1 << 1;
const HOW_EXCLUSIVE: u32 = 1 << 2;
const HOW_TRUNCATE: u32 = 1 << 3;
const HOW_MAX: u32 = 0b1111;
