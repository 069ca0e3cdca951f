//! What this process may use of the machine: cores and memory, within the limits of the container or
//! control group it runs in.
//!
//! Both versions of control groups are read, at every level from the process's own group up: a limit
//! on a group holds for all below it. What can't be read limits nothing.

use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

/// What this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Processor cores, at least 1. A part of a core does not count.
    pub cores: u32,
    /// Bytes of memory; 0 if that can't be told.
    pub memory_bytes: u64,
}

impl Machine {
    /// As the system says now.
    pub fn this() -> Machine {
        let mut machine = Machine::below(Path::new("/"));
        if !cfg!(target_os = "linux") {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            machine.cores = u32::try_from(cores).unwrap_or(u32::MAX);
            if let Ok(mut system) = sysinfo::System::new() {
                system.refresh_memory();
                machine.memory_bytes = system.total_memory();
            }
        }
        machine
    }

    /// As the `proc` and `sys` below this folder say.
    fn below(root: &Path) -> Machine {
        let allowed = read(root, "proc/self/status").and_then(|status| allowed_cores(&status));
        let total = read(root, "proc/meminfo").and_then(|meminfo| total_bytes(&meminfo));
        let mut machine =
            Machine { cores: allowed.unwrap_or(1), memory_bytes: total.unwrap_or_default() };
        for group in groups(root) {
            if let Some(cores) = group.cores() {
                machine.cores = machine.cores.min(cores).max(1);
            }
            if let Some(bytes) = group.memory_bytes() {
                machine.memory_bytes = machine.memory_bytes.min(bytes);
            }
        }
        machine
    }
}

/// The folder of a control group.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    is_v2: bool,
}

impl Group {
    /// Whole cores that its processes may use together.
    fn cores(&self) -> Option<u32> {
        let (quota, period) = if self.is_v2 {
            let text = read(&self.folder, "cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.trim().parse::<u64>().ok()?)
        } else {
            // -1 is no limit, and not a number here.
            (self.number("cpu.cfs_quota_us")?, self.number("cpu.cfs_period_us")?)
        };
        let cores = quota.checked_div(period)?;
        Some(u32::try_from(cores).unwrap_or(u32::MAX))
    }

    /// Bytes of memory that its processes may use together. Above `memory.high` they are slowed down,
    /// which is no good place to be either.
    fn memory_bytes(&self) -> Option<u64> {
        let names: &[&str] =
            if self.is_v2 { &["memory.max", "memory.high"] } else { &["memory.limit_in_bytes"] };
        names.iter().filter_map(|name| self.number(name)).min()
    }

    fn number(&self, name: &str) -> Option<u64> {
        read(&self.folder, name)?.trim().parse().ok()
    }
}

/// The groups that this process is in, from its own up to the top of each hierarchy.
fn groups(root: &Path) -> Vec<Group> {
    let memberships = read(root, "proc/self/cgroup").unwrap_or_default();
    let mounts = read(root, "proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_v2 = controllers.is_empty();
        let ours = |name: &str| matches!(name, "cpu" | "memory");
        if !is_v2 && !controllers.split(',').any(ours) {
            continue;
        }
        let mount = mounts.lines().filter_map(Mount::of).find(|mount| mount.shows(controllers));
        let Some(mount) = mount else { continue };
        let below = mount.below(path);
        // The last one is the mount itself: inside a container that is the container's own group.
        let above = below.ancestors().take(LEVELS_MAX);
        found.extend(above.map(|below| Group { folder: root.join(&mount.at).join(below), is_v2 }));
    }
    found
}

/// Where a hierarchy of control groups is mounted.
struct Mount<'a> {
    /// The group that is seen there.
    top: &'a Path,
    /// The folder, without the slash at its beginning.
    at: PathBuf,
    /// Its file system, and for the first version its controllers.
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// Reads a line of `mountinfo`, if it is a mount of control groups.
    fn of(line: &'a str) -> Option<Mount<'a>> {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (top, at) = (place.next()?, place.next()?);
        let mut what = what.split(' ');
        let (kind, options) = (what.next()?, what.nth(1)?);
        kind.starts_with("cgroup").then(|| Mount {
            top: Path::new(top),
            at: PathBuf::from(at.trim_start_matches('/')),
            kind,
            options,
        })
    }

    /// Whether it is the hierarchy of these controllers; none are those of the second version.
    fn shows(&self, controllers: &str) -> bool {
        let has = |name: &str| self.options.split(',').any(|option| option == name);
        match controllers {
            "" => self.kind == "cgroup2",
            controllers => self.kind == "cgroup" && controllers.split(',').all(has),
        }
    }

    /// A group's path below the mount. A group outside what is mounted is seen as the mount's top.
    fn below(&self, path: &str) -> PathBuf {
        let path = Path::new(path);
        let below = path.strip_prefix(self.top).unwrap_or(Path::new(""));
        let plain = |part| matches!(part, Component::Normal(_));
        if below.components().all(plain) { below.to_owned() } else { PathBuf::new() }
    }
}

/// Cores in the list of those that this thread may run on: `0-3,6`. What a container's set of
/// processors leaves out is not in it.
fn allowed_cores(status: &str) -> Option<u32> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    let counts: Option<Vec<u32>> = list.trim().split(',').map(count).collect();
    counts.map(|counts| counts.iter().fold(0, |sum: u32, count| sum.saturating_add(*count)).max(1))
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A small file of the system's; none if it is not there or not readable.
fn read(folder: &Path, name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(folder.join(name)).ok()?;
    file.take(READ_MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Hosts of many containers have long lists of mounts.
const READ_MAX_BYTES: u64 = 4 << 20;
/// Groups within groups: real trees are five or six deep.
const LEVELS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";

    /// A machine of 8 cores and 16 GiB with these files.
    fn machine(files: &[(&str, &str)]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        let plain = [
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-7\n"),
            ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n"),
        ];
        for (name, text) in plain.iter().chain(files) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Machine::below(root.path())
    }

    #[test]
    fn without_limits_it_is_the_whole_machine() {
        let whole = Machine { cores: 8, memory_bytes: 16 * GIB };
        assert_eq!(machine(&[]), whole);
        let unlimited = [
            ("proc/self/mountinfo", UNIFIED),
            ("proc/self/cgroup", "0::/user.slice/a.scope\n"),
            ("sys/fs/cgroup/user.slice/a.scope/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/user.slice/a.scope/memory.max", "max\n"),
        ];
        assert_eq!(machine(&unlimited), whole);
    }

    #[test]
    fn the_second_version_is_read_up_to_its_top() {
        let found = machine(&[
            ("proc/self/mountinfo", UNIFIED),
            ("proc/self/cgroup", "0::/a.slice/b.service\n"),
            ("sys/fs/cgroup/a.slice/b.service/cpu.max", "400000 100000\n"),
            ("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n"),
            ("sys/fs/cgroup/a.slice/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/a.slice/memory.max", "3221225472\n"),
            ("sys/fs/cgroup/a.slice/memory.high", "2147483648\n"),
        ]);
        assert_eq!(found, Machine { cores: 2, memory_bytes: 2 * GIB });
    }

    #[test]
    fn inside_a_container_the_top_of_the_mount_is_its_own_group() {
        for (mountinfo, cgroup) in [
            // With a namespace of its own, and without one.
            (UNIFIED, "0::/\n"),
            ("1 2 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/docker/abc\n"),
            // Moved out of what it sees.
            (UNIFIED, "0::/../../other\n"),
        ] {
            let found = machine(&[
                ("proc/self/mountinfo", mountinfo),
                ("proc/self/cgroup", cgroup),
                ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
                ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ]);
            assert_eq!(found, Machine { cores: 1, memory_bytes: GIB }, "{cgroup}");
        }
    }

    #[test]
    fn the_first_version_has_a_hierarchy_for_each_controller() {
        let found = machine(&[
            ("proc/self/mountinfo", HYBRID),
            ("proc/self/cgroup", "9:memory:/jobs/7\n4:cpu,cpuacct:/box\n2:pids:/x\n0::/other\n"),
            ("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "350000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "536870912\n"),
        ]);
        assert_eq!(found, Machine { cores: 3, memory_bytes: GIB / 2 });
    }

    #[test]
    fn a_set_of_processors_counts() {
        for (list, cores) in [("0-7", 8), ("3", 1), ("0-1,4,6-7", 5), ("", 1), ("7-1", 1), ("x", 1)]
        {
            let status = format!("Cpus_allowed_list:\t{list}\n");
            assert_eq!(machine(&[("proc/self/status", &status)]).cores, cores, "{list}");
        }
    }

    #[test]
    fn what_is_malformed_limits_nothing() {
        let found = machine(&[
            ("proc/self/mountinfo", &(UNIFIED.to_owned() + "garbage\n - \n1 2 3 - cgroup\n")),
            ("proc/self/cgroup", "\n::\n0::/a\nx\n0:cpu\n"),
            ("sys/fs/cgroup/a/cpu.max", "100000 0\n"),
            ("sys/fs/cgroup/a/memory.max", "lots\n"),
        ]);
        assert_eq!(found, Machine { cores: 8, memory_bytes: 16 * GIB });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::this();
        let cores = std::thread::available_parallelism().unwrap().get();
        assert_eq!(machine.cores as usize, cores);
        assert!(machine.memory_bytes > 0);
    }
}
