//! What other programs use of the processor, and what this node and its children use of memory.
//!
//! The account is `/proc/stat` less our own: this process, the children that live, and those that
//! are gone, whose time the system has added to this process' account when they were reaped. A
//! child that is reaped between two looks would be missed or counted twice, so the looks are
//! repeated until nothing was reaped meanwhile.
//!
//! Work of others at a positive nice value does not count: its owner has said that it may wait, and
//! it gives way to whatever the person at the machine does, as ours does. Otherwise two programs of
//! this kind on one machine would wait for each other for ever. System time can't be told apart by
//! nice values and counts whole; time lost to interrupts and to other virtual machines is nobody's.
//!
//! Pressure (`/proc/pressure/cpu`) is no second opinion: our children run only when nothing else
//! wants to, so that it is they who wait, and pressure is highest when giving way works best.

use std::path::{Path, PathBuf};

use super::files;

/// What other programs use of the processors.
#[derive(Debug)]
pub(super) struct Load {
    root: PathBuf,
    pid: u32,
    last: Option<Sample>,
    percent: Option<f64>,
}

/// The accounts at one time, in clock ticks since the machine or this process started.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Of all processors, whatever they did.
    all: u64,
    /// What programs at ordinary priority did, with all system time.
    busy: u64,
    /// Our part of `busy`.
    own: u64,
}

/// What this process and its children have used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tree {
    /// Ticks that count as ordinary work: all but what was computed at a positive nice value.
    ordinary: u64,
    /// Memory, with what several of them share counted once.
    pub(super) memory_bytes: u64,
    /// Children that live, and theirs.
    pub(super) children: usize,
}

impl Load {
    pub(super) fn new(root: &Path, pid: u32) -> Load {
        Load { root: root.to_owned(), pid, last: None, percent: None }
    }

    /// Looks once more. The percentage is the mean since the last look, of all processors; none at
    /// the first look, or if the accounts can't be read.
    pub(super) fn look(&mut self) -> (Option<f64>, Option<Tree>) {
        let tree = tree(&self.root, self.pid);
        let sample = tree.and_then(|tree| self.sample(&tree));
        let Some(sample) = sample else {
            (self.last, self.percent) = (None, None);
            return (None, tree);
        };
        if let Some(last) = self.last {
            let all = sample.all.saturating_sub(last.all);
            if all == 0 {
                return (self.percent, tree);
            }
            let busy = sample.busy.saturating_sub(last.busy);
            let own = sample.own.saturating_sub(last.own);
            // Both are rounded to ticks, by different rules.
            let others = busy.saturating_sub(own).min(all);
            self.percent = Some(others as f64 * 100.0 / all as f64);
        }
        self.last = Some(sample);
        (self.percent, tree)
    }

    fn sample(&self, tree: &Tree) -> Option<Sample> {
        let text = files::read(&self.root.join("proc/stat"))?;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<u64> = line.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let [user, _nice, system, _idle, ..] = fields[..] else { return None };
        // What guests of a virtual machine use is in `user` and `nice` already.
        let all = fields.iter().take(8).fold(0, |sum: u64, n| sum.saturating_add(*n));
        Some(Sample { all, busy: user.saturating_add(system), own: tree.ordinary })
    }
}

/// What a process and all below it have used.
fn tree(root: &Path, pid: u32) -> Option<Tree> {
    let mut own = Process::of(root, pid)?;
    for _ in 0..REAPED_MAX {
        let children = descendants(root, pid);
        let again = Process::of(root, pid)?;
        if again.reaped_system == own.reaped_system && again.reaped_user == own.reaped_user {
            return Some(sum(&again, &children));
        }
        own = again;
    }
    // Children come and go faster than they can be looked at, so what they use is with their parent
    // at once.
    Some(sum(&own, &[]))
}

fn sum(own: &Process, children: &[Process]) -> Tree {
    let ordinary = |process: &Process| {
        let user = if process.nice > 0 { 0 } else { process.user };
        // Children of ours give way from their first instruction on, so what those that are gone
        // have computed is left out whole.
        user.saturating_add(process.system).saturating_add(process.reaped_system)
    };
    let all = || std::iter::once(own).chain(children);
    let anon = all().map(|process| process.anon).fold(0, u64::saturating_add);
    let file = all().map(|process| process.file).max().unwrap_or(0);
    let shared = children.iter().map(|child| child.shmem).fold(0, u64::saturating_add);
    let memory_kib = anon.saturating_add(file).saturating_add(shared.max(own.shmem));
    Tree {
        ordinary: all().map(ordinary).fold(0, u64::saturating_add),
        memory_bytes: memory_kib.saturating_mul(1024),
        children: children.len(),
    }
}

/// One process.
#[derive(Debug, Clone, Copy, Default)]
struct Process {
    parent: u32,
    nice: i64,
    user: u64,
    system: u64,
    reaped_user: u64,
    reaped_system: u64,
    /// Memory in KiB: its own, pages of files, and what is shared with others.
    anon: u64,
    file: u64,
    shmem: u64,
}

impl Process {
    fn of(root: &Path, pid: u32) -> Option<Process> {
        let mut process = Process::times(root, pid)?;
        // A process that has ended has no memory any more.
        let status = files::read(&root.join(format!("proc/{pid}/status"))).unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        process.anon = kib("RssAnon:").unwrap_or(0);
        process.file = kib("RssFile:").unwrap_or(0);
        process.shmem = kib("RssShmem:").unwrap_or(0);
        Some(process)
    }

    fn times(root: &Path, pid: u32) -> Option<Process> {
        let stat = files::read(&root.join(format!("proc/{pid}/stat")))?;
        // The name before may hold anything, brackets and spaces included.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        // Counted from the state, which `man proc` numbers 3.
        Some(Process {
            parent: u32::try_from(number(1)?).ok()?,
            user: number(11)?,
            system: number(12)?,
            // Signed on some systems.
            reaped_user: number(13).unwrap_or(0),
            reaped_system: number(14).unwrap_or(0),
            nice: fields.get(16)?.parse().ok()?,
            ..Process::default()
        })
    }
}

/// Every process below `pid`, at most [`TREE_MAX`].
fn descendants(root: &Path, pid: u32) -> Vec<Process> {
    let mut pids = vec![pid];
    let mut at = 0;
    while at < pids.len() && pids.len() < TREE_MAX {
        let Some(children) = children(root, pids[at]) else { return by_parent(root, pid) };
        pids.extend(children.into_iter().filter(|child| *child != pid));
        at += 1;
    }
    pids.iter().skip(1).take(TREE_MAX).filter_map(|pid| Process::of(root, *pid)).collect()
}

/// The children of a process, by the threads that started them. None where the system does not say.
fn children(root: &Path, pid: u32) -> Option<Vec<u32>> {
    let threads = root.join(format!("proc/{pid}/task"));
    let mut found = Vec::new();
    for thread in files::list(&threads, TREE_MAX) {
        match files::read(&threads.join(thread).join("children")) {
            Some(text) => {
                found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            // The thread may have ended, or the system lacks these files.
            None if threads.join(pid.to_string()).join("children").exists() => {}
            None => return None,
        }
    }
    Some(found)
}

/// The same by asking every process for its parent.
fn by_parent(root: &Path, pid: u32) -> Vec<Process> {
    let pids = files::list(&root.join("proc"), files::PROCESSES_MAX);
    let pids = pids.iter().filter_map(|name| name.parse::<u32>().ok());
    let all: Vec<(u32, Process)> =
        pids.filter_map(|pid| Some((pid, Process::times(root, pid)?))).collect();
    let mut tree = vec![pid];
    let mut at = 0;
    while at < tree.len() && tree.len() < TREE_MAX {
        let of = tree[at];
        let below = all.iter().filter(|(pid, process)| process.parent == of && !tree.contains(pid));
        let below: Vec<u32> = below.map(|(pid, _)| *pid).collect();
        tree.extend(below);
        at += 1;
    }
    tree.iter().skip(1).filter_map(|pid| Process::of(root, *pid)).collect()
}

/// How often the looks are repeated because a child was reaped meanwhile.
const REAPED_MAX: usize = 4;
/// Processes and threads of this node: a child for each slot, compilers, and our threads, several
/// times over.
const TREE_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::*;

    #[test]
    fn what_our_children_use_is_not_what_others_use() {
        let machine = Machine::new();
        let mut load = Load::new(machine.root(), 10);
        machine.cpu([100, 0, 100, 800]).process(10, 1, 0, [10, 0, 0, 0]).children(10, &[11]);
        machine.process(11, 10, 19, [0, 0, 0, 0]).children(11, &[]);
        assert_eq!(load.look().0, None, "there is nothing to compare with yet");
        // 100 ticks pass: 60 by our child, nice; 5 by us; 20 by others; the system did 3 for our
        // child and 2 for others.
        machine.cpu([125, 60, 105, 810]).process(10, 1, 0, [15, 0, 0, 0]);
        machine.process(11, 10, 19, [60, 3, 0, 0]);
        assert_eq!(load.look().0, Some(22.0));
    }

    #[test]
    fn a_child_that_is_gone_is_still_ours() {
        let machine = Machine::new();
        let mut load = Load::new(machine.root(), 10);
        machine.cpu([0, 0, 0, 0]).process(10, 1, 0, [0; 4]).children(10, &[11]);
        machine.process(11, 10, 19, [900, 90, 0, 0]).children(11, &[]);
        load.look();
        // It did ten more ticks of system time, ended and was reaped.
        machine.cpu([0, 50, 10, 40]).process(10, 1, 0, [0, 0, 950, 100]).children(10, &[]);
        machine.gone(11);
        assert_eq!(load.look().0, Some(0.0));
    }

    #[test]
    fn nice_work_of_others_does_not_count() {
        let machine = Machine::new();
        let mut load = Load::new(machine.root(), 10);
        machine.cpu([0, 0, 0, 0]).process(10, 1, 0, [0; 4]).children(10, &[]);
        load.look();
        machine.cpu([0, 100, 0, 0]);
        assert_eq!(load.look().0, Some(0.0));
        machine.cpu([50, 100, 0, 50]);
        assert_eq!(load.look().0, Some(50.0));
    }

    #[test]
    fn a_node_that_is_nice_itself_is_not_taken_off_what_others_do() {
        let machine = Machine::new();
        let mut load = Load::new(machine.root(), 10);
        machine.cpu([0, 0, 0, 0]).process(10, 1, 10, [0; 4]).children(10, &[]);
        load.look();
        machine.cpu([40, 40, 0, 20]).process(10, 1, 10, [40, 0, 0, 0]);
        assert_eq!(load.look().0, Some(40.0));
    }

    #[test]
    fn children_are_found_where_the_system_does_not_list_them() {
        let machine = Machine::new();
        machine.process(10, 1, 0, [1, 1, 0, 0]).process(11, 10, 19, [2, 0, 0, 0]);
        machine.process(12, 11, 19, [4, 8, 0, 0]).process(13, 1, 0, [16, 0, 0, 0]);
        machine.file("proc/10/task/10/stat", "");
        let tree = tree(machine.root(), 10).unwrap();
        assert_eq!((tree.ordinary, tree.children), (10, 2));
    }

    #[test]
    fn memory_that_is_shared_counts_once() {
        let machine = Machine::new();
        machine.process(10, 1, 0, [0; 4]).children(10, &[11, 12]);
        machine.process(11, 10, 19, [0; 4]).children(11, &[]);
        machine.process(12, 10, 19, [0; 4]).children(12, &[]);
        machine.memory(10, [1000, 30, 20]).memory(11, [500, 25, 10]).memory(12, [400, 35, 10]);
        assert_eq!(tree(machine.root(), 10).unwrap().memory_bytes, (1900 + 35 + 20) * 1024);
    }

    #[test]
    fn accounts_that_make_no_sense_are_no_reading() {
        let machine = Machine::new();
        let mut load = Load::new(machine.root(), 10);
        for text in ["", "cpu", "cpu  1 2 3", "cpu  x 2 3 4", "intr 5 5 5 5"] {
            machine.process(10, 1, 0, [0; 4]).children(10, &[]).file("proc/stat", text);
            load.look();
            assert_eq!(load.look().0, None, "{text}");
        }
        machine.cpu([1, 2, 3, 4]).file("proc/10/stat", "10 (a) b) S 1");
        assert_eq!(load.look(), (None, None));
        // Counters that fall back, as after a restart of the container around us.
        machine.cpu([100, 0, 0, 100]).process(10, 1, 0, [90, 0, 0, 0]);
        load.look();
        machine.cpu([0, 0, 0, 300]).process(10, 1, 0, [0; 4]);
        assert_eq!(load.look().0, Some(0.0));
    }

    #[test]
    fn a_tree_of_too_many_is_cut_off() {
        let machine = Machine::new();
        let many: Vec<u32> = (100..101 + u32::try_from(TREE_MAX).unwrap()).collect();
        machine.process(10, 1, 0, [0; 4]).children(10, &many);
        for pid in many {
            machine.process(pid, 10, 19, [0; 4]);
        }
        assert_eq!(tree(machine.root(), 10).unwrap().children, TREE_MAX);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_and_a_child_of_it_are_found_on_this_machine() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tree = tree(Path::new("/"), std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(tree.children >= 1 && tree.memory_bytes > 1 << 20, "{tree:?}");
    }
}
