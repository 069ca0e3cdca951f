//! Files and folders in memory: the job's input files, which nobody can change, and the unit's own
//! folder `/out`.
//!
//! The inputs are made into a tree once for a runner; each unit sees it with a fresh `/out`. What
//! stands in `/out` is bounded by a quota over contents and paths, and in number; an id is never
//! used twice, and ids and times follow from what the guest does alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use potluck_unit::{Limits, NoResult, OutFile};

use super::{Answer, Errno, Halt, Stop};

/// Names a file or folder within a unit: also its inode number.
pub(super) type Id = u64;

/// The folder that everything is in.
pub(super) const ROOT: Id = 1;
/// The name of the folder that a unit may write to, in the root.
pub(crate) const OUT: &str = "out";

/// When something happened, by the guest's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) accessed_ns: u64,
    pub(super) modified_ns: u64,
    pub(super) changed_ns: u64,
}

impl Times {
    const fn of(now_ns: u64) -> Times {
        Times { accessed_ns: now_ns, modified_ns: now_ns, changed_ns: now_ns }
    }
}

/// A file or folder.
#[derive(Debug)]
pub(super) struct Node {
    /// The folder it is in, and its name there; of the past, if it was unlinked.
    pub(super) parent: Id,
    name: Box<str>,
    pub(super) kind: Kind,
    pub(super) times: Times,
    /// How many descriptors lead here: what is unlinked lives until they are closed.
    opens: u32,
    pub(super) is_linked: bool,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind {
    Folder(BTreeMap<Box<str>, Id>),
    File(Vec<u8>),
}

impl Node {
    fn new(parent: Id, name: &str, kind: Kind, now_ns: u64) -> Node {
        let times = Times::of(now_ns);
        Node { parent, name: name.into(), kind, times, opens: 0, is_linked: true }
    }

    pub(super) fn is_folder(&self) -> bool {
        matches!(self.kind, Kind::Folder(_))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// All that is in a file; of a folder nothing.
    pub(super) fn contents(&self) -> &[u8] {
        match &self.kind {
            Kind::File(bytes) => bytes,
            Kind::Folder(_) => &[],
        }
    }

    /// Dates a change of what is in it.
    fn touch(&mut self, now_ns: u64) {
        self.times.modified_ns = now_ns;
        self.times.changed_ns = now_ns;
    }

    fn entries_mut(&mut self) -> Option<&mut BTreeMap<Box<str>, Id>> {
        match &mut self.kind {
            Kind::Folder(entries) => Some(entries),
            Kind::File(_) => None,
        }
    }
}

/// The input files of a job with their folders: the same for all of a runner's units.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// The node with id `n` is at `n - 1`; none if there is no tree at all.
    nodes: Vec<Node>,
    has_out: bool,
}

impl Inputs {
    /// The tree of these paths and contents, with a place for `/out` if there is one. The parent
    /// has checked them; of two equal paths the first counts.
    pub(crate) fn new(mut files: Vec<(String, Vec<u8>)>, has_out: bool) -> Inputs {
        if files.is_empty() && !has_out {
            return Inputs::default();
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let root = Node::new(ROOT, "", Kind::Folder(BTreeMap::new()), super::clock::EPOCH_NS);
        let mut inputs = Inputs { nodes: vec![root], has_out };
        for (path, bytes) in files {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let mut parent = ROOT;
            for name in folder.split('/').filter(|name| !name.is_empty()) {
                parent = inputs.insert(parent, name, Kind::Folder(BTreeMap::new()));
            }
            inputs.insert(parent, name, Kind::File(bytes));
        }
        if has_out {
            let out = inputs.nodes.len() as Id + 1;
            if let Some(entries) = inputs.nodes[0].entries_mut() {
                entries.insert(OUT.into(), out);
            }
        }
        inputs
    }

    /// The entry `name` of `parent`, made if it is not there.
    fn insert(&mut self, parent: Id, name: &str, kind: Kind) -> Id {
        let next = self.nodes.len() as Id + 1;
        let entries = self.get_mut(parent).and_then(Node::entries_mut);
        let Some(entries) = entries else { return parent };
        if let Some(id) = entries.get(name) {
            return *id;
        }
        entries.insert(name.into(), next);
        self.nodes.push(Node::new(parent, name, kind, super::clock::EPOCH_NS));
        next
    }

    fn get(&self, id: Id) -> Option<&Node> {
        self.nodes.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    fn get_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes.get_mut(usize::try_from(id.checked_sub(1)?).ok()?)
    }
}

/// All that one unit finds below `/`.
#[derive(Debug)]
pub(super) struct Files {
    inputs: Arc<Inputs>,
    /// What the unit has made, with the folder `/out` itself; unlinked files too, while open.
    own: BTreeMap<Id, Node>,
    next: Id,
    used_bytes: u64,
    max_bytes: u64,
}

/// Where a path leads: an entry of a folder, which may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// The folder that the last name is looked up in.
    pub(super) parent: Id,
    /// The last name; none if the path ends in `.` or `..`.
    pub(super) name: Option<&'a str>,
    /// What is there.
    pub(super) found: Option<Id>,
    /// Whether the path ends in a slash.
    pub(super) wants_folder: bool,
}

impl Files {
    /// A unit's view before it starts, with a quota for `/out`.
    pub(super) fn new(inputs: Arc<Inputs>, max_bytes: u64) -> Files {
        let out = inputs.nodes.len() as Id + 1;
        let mut own = BTreeMap::new();
        if inputs.has_out {
            let kind = Kind::Folder(BTreeMap::new());
            own.insert(out, Node::new(ROOT, OUT, kind, super::clock::EPOCH_NS));
        }
        Files { inputs, own, next: out + 1, used_bytes: 0, max_bytes }
    }

    /// Whether there is anything at all.
    pub(super) fn is_there(&self) -> bool {
        !self.inputs.nodes.is_empty()
    }

    pub(super) fn get(&self, id: Id) -> Result<&Node, Errno> {
        self.inputs.get(id).or_else(|| self.own.get(&id)).ok_or(Errno::NoEntry)
    }

    /// A node that may be changed.
    pub(super) fn get_mut(&mut self, id: Id) -> Result<&mut Node, Errno> {
        self.own.get_mut(&id).ok_or(Errno::ReadOnly)
    }

    /// Whether `id` is in `/out`, or is it.
    pub(super) fn is_own(&self, id: Id) -> bool {
        self.own.contains_key(&id)
    }

    /// The entries of a folder.
    pub(super) fn entries(&self, id: Id) -> Result<&BTreeMap<Box<str>, Id>, Errno> {
        match &self.get(id)?.kind {
            Kind::Folder(entries) => Ok(entries),
            Kind::File(_) => Err(Errno::NotFolder),
        }
    }

    /// Follows `path` from the folder `from`, and never out of it.
    pub(super) fn resolve<'a>(&self, from: Id, path: &'a str) -> Result<Place<'a>, Errno> {
        let trimmed = path.trim_end_matches('/');
        let wants_folder = trimmed.len() < path.len();
        let mut way = vec![from];
        let mut names = trimmed.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let here = way.last().copied().ok_or(Errno::NotPermitted)?;
            let entries = self.entries(here)?;
            match name {
                "." => {}
                ".." if way.len() == 1 => return Err(Errno::NotPermitted),
                ".." => {
                    way.pop();
                }
                _ if name.len() > OutFile::NAME_BYTES_MAX => return Err(Errno::NameTooLong),
                _ => {
                    let found = entries.get(name).copied();
                    if names.peek().is_none() {
                        if let Some(id) = found
                            && wants_folder
                        {
                            self.entries(id)?;
                        }
                        return Ok(Place { parent: here, name: Some(name), found, wants_folder });
                    }
                    way.push(found.ok_or(Errno::NoEntry)?);
                }
            }
        }
        let found = way.last().copied();
        let here = found.unwrap_or(from);
        self.entries(here)?;
        Ok(Place { parent: here, name: None, found, wants_folder })
    }

    /// Makes the entry `name` of the folder `parent`, which has none of this name.
    pub(super) fn create(
        &mut self,
        parent: Id,
        name: &str,
        kind: Kind,
        now_ns: u64,
    ) -> Result<Id, Errno> {
        if !self.is_own(parent) {
            return Err(Errno::ReadOnly);
        }
        if !self.get(parent)?.is_linked {
            return Err(Errno::NoEntry);
        }
        let (path_bytes, depth) = self.path_of(parent, name);
        if path_bytes > OutFile::PATH_BYTES_MAX || depth > OutFile::DEPTH_MAX {
            return Err(Errno::NameTooLong);
        }
        // The folder `/out` itself is no entry of it.
        let is_full = self.own.len() > Limits::OUT_FILES_MAX as usize;
        if is_full || path_bytes as u64 > self.free_bytes() {
            return Err(Errno::NoSpace);
        }
        let id = self.next;
        self.next += 1;
        self.own.insert(id, Node::new(parent, name, kind, now_ns));
        self.link(parent, name, id, now_ns);
        self.used_bytes += path_bytes as u64;
        Ok(id)
    }

    /// Takes a node of `/out` out of its folder.
    pub(super) fn unlink(&mut self, id: Id, now_ns: u64) -> Answer {
        let node = self.get_mut(id)?;
        node.is_linked = false;
        node.times.changed_ns = now_ns;
        let (parent, name) = (node.parent, node.name.clone());
        let (path_bytes, _) = self.path_of(parent, &name);
        self.used_bytes -= path_bytes as u64;
        self.unname(parent, &name, now_ns);
        self.forget_if_unused(id);
        Ok(())
    }

    /// Moves a node of `/out` to a place in `/out`, over what is there.
    pub(super) fn rename(&mut self, id: Id, target: &Place<'_>, name: &str, now_ns: u64) -> Answer {
        let (parent, node) = (target.parent, self.get(id)?);
        let (old_parent, old_name) = (node.parent, node.name.clone());
        let (old_bytes, _) = self.path_of(old_parent, &old_name);
        let (new_bytes, new_depth) = self.path_of(parent, name);
        let below = self.measure(id, 0);
        if new_bytes + below.longest > OutFile::PATH_BYTES_MAX
            || new_depth + below.depth > OutFile::DEPTH_MAX
        {
            return Err(Errno::NameTooLong);
        }
        let replaced = target.found.map_or(Ok(0), |over| {
            let node = self.get(over)?;
            let contents = if node.opens == 0 { node.contents().len() } else { 0 };
            Ok((new_bytes + contents) as u64)
        })?;
        let used = self.used_bytes - replaced - below.nodes * old_bytes as u64;
        let used = used + below.nodes * new_bytes as u64;
        if used > self.max_bytes {
            return Err(Errno::NoSpace);
        }
        if let Some(over) = target.found {
            self.unlink(over, now_ns)?;
        }
        self.unname(old_parent, &old_name, now_ns);
        self.link(parent, name, id, now_ns);
        let node = self.get_mut(id)?;
        (node.parent, node.name) = (parent, name.into());
        node.times.changed_ns = now_ns;
        self.used_bytes = used;
        Ok(())
    }

    /// Whether `id` is `folder` or below it.
    pub(super) fn is_within(&self, mut id: Id, folder: Id) -> bool {
        while id != ROOT && id != folder {
            id = self.get(id).map_or(ROOT, |node| node.parent);
        }
        id == folder
    }

    /// Makes a file of `/out` at least `end` bytes long, with zeros for what was not there.
    pub(super) fn grow(&mut self, id: Id, end: u64, now_ns: u64) -> Result<(), Halt> {
        let free = self.free_bytes();
        let node = self.get_mut(id)?;
        let Kind::File(bytes) = &mut node.kind else { return Err(Errno::IsFolder.into()) };
        let more = end.saturating_sub(bytes.len() as u64);
        if more > free {
            return Err(Errno::NoSpace.into());
        }
        let no_memory = Halt::Stop(Stop::NoResult(NoResult::HostMemory));
        let Ok(additional) = usize::try_from(more) else { return Err(no_memory) };
        if bytes.try_reserve(additional).is_err() {
            return Err(no_memory);
        }
        bytes.resize(bytes.len() + additional, 0);
        node.touch(now_ns);
        self.used_bytes += more;
        Ok(())
    }

    /// Cuts a file of `/out` down to `length` bytes.
    pub(super) fn cut(&mut self, id: Id, length: u64, now_ns: u64) -> Answer {
        let node = self.get_mut(id)?;
        let Kind::File(bytes) = &mut node.kind else { return Err(Errno::IsFolder) };
        let less = (bytes.len() as u64).saturating_sub(length);
        // No longer than what is there, so it fits.
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        // Else what was cut off would still take memory, and no longer be counted.
        bytes.shrink_to(2 * bytes.len());
        node.touch(now_ns);
        self.used_bytes -= less;
        Ok(())
    }

    /// The bytes from `at` of a file of `/out`, to be written over.
    pub(super) fn bytes_mut(&mut self, id: Id, at: u64) -> Result<&mut [u8], Errno> {
        let Kind::File(bytes) = &mut self.get_mut(id)?.kind else { return Err(Errno::IsFolder) };
        usize::try_from(at).ok().and_then(|at| bytes.get_mut(at..)).ok_or(Errno::Invalid)
    }

    /// One more descriptor leads to `id`.
    pub(super) fn retain(&mut self, id: Id) {
        if let Some(node) = self.own.get_mut(&id) {
            node.opens += 1;
        }
    }

    /// One descriptor less.
    pub(super) fn release(&mut self, id: Id) {
        if let Some(node) = self.own.get_mut(&id) {
            node.opens = node.opens.saturating_sub(1);
            self.forget_if_unused(id);
        }
    }

    /// All files in `/out`, sorted by the bytes of their paths.
    pub(super) fn into_out(mut self) -> Vec<OutFile> {
        let paths: Vec<(Id, String)> = (self.own.iter())
            .filter(|(_, node)| node.is_linked && !node.is_folder())
            .map(|(id, node)| (*id, self.path(node)))
            .collect();
        let mut files: Vec<OutFile> = Vec::with_capacity(paths.len());
        for (id, path) in paths {
            if let Some(Node { kind: Kind::File(bytes), .. }) = self.own.remove(&id) {
                files.push(OutFile { path, bytes });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    fn path(&self, node: &Node) -> String {
        let mut names = vec![node.name()];
        let mut parent = self.own.get(&node.parent);
        while let Some(node) = parent {
            // The root is no node of ours, so the folder `/out` is the last, and is not named.
            parent = self.own.get(&node.parent);
            if parent.is_some() {
                names.push(node.name());
            }
        }
        names.reverse();
        names.join("/")
    }

    /// Bytes and components of the path below `/out` that an entry of `parent` has.
    fn path_of(&self, parent: Id, name: &str) -> (usize, usize) {
        let (mut bytes, mut depth) = (name.len(), 1);
        let mut node = self.own.get(&parent);
        while let Some(here) = node {
            node = self.own.get(&here.parent);
            if node.is_some() {
                bytes += here.name.len() + 1;
                depth += 1;
            }
        }
        (bytes, depth)
    }

    /// How much hangs on a node, itself included. Folders are at most `DEPTH_MAX` deep.
    fn measure(&self, id: Id, longest: usize) -> Extent {
        let mut extent = Extent { nodes: 1, longest, depth: 0 };
        for (name, id) in self.entries(id).into_iter().flatten() {
            let below = self.measure(*id, longest + 1 + name.len());
            extent.nodes += below.nodes;
            extent.longest = extent.longest.max(below.longest);
            extent.depth = extent.depth.max(below.depth + 1);
        }
        extent
    }

    fn free_bytes(&self) -> u64 {
        self.max_bytes - self.used_bytes
    }

    fn link(&mut self, parent: Id, name: &str, id: Id, now_ns: u64) {
        if let Some(folder) = self.own.get_mut(&parent) {
            folder.touch(now_ns);
            if let Some(entries) = folder.entries_mut() {
                entries.insert(name.into(), id);
            }
        }
    }

    fn unname(&mut self, parent: Id, name: &str, now_ns: u64) {
        if let Some(folder) = self.own.get_mut(&parent) {
            folder.touch(now_ns);
            if let Some(entries) = folder.entries_mut() {
                entries.remove(name);
            }
        }
    }

    fn forget_if_unused(&mut self, id: Id) {
        if let Some(node) = self.own.get(&id)
            && node.opens == 0
            && !node.is_linked
        {
            self.used_bytes -= node.contents().len() as u64;
            self.own.remove(&id);
        }
    }
}

/// How much hangs on a node.
struct Extent {
    nodes: u64,
    /// The most bytes of a path from it on, its own name left out.
    longest: usize,
    /// How many components such a path has.
    depth: usize,
}
