//! When somebody last touched this machine, as far as its devices tell.
//!
//! A terminal's file says when something was last typed into it, a console's keyboard included; the
//! kernel rounds that to eight seconds. A USB keyboard or mouse says how many reports it has sent, and
//! the interrupts of a laptop's built-in keyboard are counted. Nothing is opened that could hold what
//! was typed. The files below `/dev/input` tell nothing: reading an event leaves no trace on them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use potluck_unit::Time;

use super::files;

/// The devices that people touch.
#[derive(Debug, Default)]
pub(super) struct Person {
    /// The counters of USB keyboards and mice. Looking for them costs more than reading them.
    counters: Vec<PathBuf>,
    looked: bool,
    /// What all counters came to last, if there was any.
    counted: Option<u64>,
    /// When that last changed, as far as was seen.
    moved: Time,
}

impl Person {
    /// When somebody last typed or moved something; none if there is nothing to type on. Until the
    /// counters have been seen to stand still, somebody is taken to be there.
    pub(super) fn touched(&mut self, root: &Path, now: Time) -> Option<Time> {
        [typed(root), self.moved(root, now)].into_iter().flatten().max().map(|at| at.min(now))
    }

    /// Has the devices looked for again: people plug them in and out.
    pub(super) fn look_anew(&mut self) {
        self.looked = false;
    }

    fn moved(&mut self, root: &Path, now: Time) -> Option<Time> {
        if !std::mem::replace(&mut self.looked, true) {
            self.counters = counters(root);
        }
        let usb = self.counters.iter().filter_map(|path| files::number::<u64>(path));
        let counted = usb.chain(interrupts(root)).reduce(u64::wrapping_add);
        if counted != self.counted {
            (self.counted, self.moved) = (counted, now);
        }
        counted.map(|_| self.moved)
    }
}

/// When something was last typed into any terminal.
fn typed(root: &Path) -> Option<Time> {
    let is_number = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let dev = root.join("dev");
    let consoles = files::list(&dev, DEVICES_MAX).into_iter();
    // `tty0` stands for whichever console is shown.
    let consoles = consoles
        .filter(|name| name != "tty0" && name.strip_prefix("tty").is_some_and(is_number))
        .map(|name| dev.join(name));
    let pts = dev.join("pts");
    let terminals = files::list(&pts, DEVICES_MAX).into_iter();
    let terminals = terminals.filter(|name| is_number(name)).map(|name| pts.join(name));
    let at = |path: PathBuf| {
        let seconds = u64::try_from(std::fs::metadata(path).ok()?.atime()).ok()?;
        Some(Time(seconds.saturating_mul(1000)))
    };
    consoles.chain(terminals).filter_map(at).max()
}

/// How many reports each keyboard and mouse has sent: files of the devices that their interfaces
/// belong to.
fn counters(root: &Path) -> Vec<PathBuf> {
    let folder = root.join("sys/bus/usb/devices");
    let mut found = Vec::new();
    for name in files::list(&folder, DEVICES_MAX) {
        let Some((device, _)) = name.split_once(':') else { continue };
        let interface = folder.join(&name);
        let is = |file: &str, what: &[&str]| {
            files::word(&interface.join(file)).is_some_and(|word| what.contains(&word.as_str()))
        };
        let counter = folder.join(device).join("urbnum");
        // Human interface devices: keyboards and mice, not power supplies.
        if is("bInterfaceClass", &["03"])
            && is("bInterfaceProtocol", &["01", "02"])
            && !found.contains(&counter)
        {
            found.push(counter);
        }
    }
    found.truncate(COUNTERS_MAX);
    found
}

/// Interrupts of a built-in keyboard and touch pad.
fn interrupts(root: &Path) -> Option<u64> {
    let text = files::read(&root.join("proc/interrupts"))?;
    let lines = text.lines().filter(|line| line.trim_end().ends_with("i8042"));
    let of = |line: &str| -> u64 {
        let counts = line.split_whitespace().skip(1);
        counts.map_while(|n| n.parse::<u64>().ok()).fold(0, u64::wrapping_add)
    };
    lines.map(of).reduce(u64::wrapping_add)
}

/// Devices of one kind looked at.
const DEVICES_MAX: usize = 4096;
/// Keyboards and mice that are read each time.
const COUNTERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::*;

    const NOW: Time = Time(1_800_000_000_000);

    fn usb(machine: &Machine, device: &str, class: &str, protocol: &str, reports: u64) {
        let folder = format!("sys/bus/usb/devices/{device}");
        machine.file(&format!("{folder}:1.0/bInterfaceClass"), &format!("{class}\n"));
        machine.file(&format!("{folder}:1.0/bInterfaceProtocol"), &format!("{protocol}\n"));
        machine.file(&format!("{folder}/urbnum"), &format!("{reports}\n"));
    }

    #[test]
    fn the_terminal_typed_into_last_counts() {
        let machine = Machine::new();
        let mut person = Person::default();
        assert_eq!(person.touched(machine.root(), NOW), None);
        machine.touched("dev/tty1", NOW.0 / 1000 - 5000).touched("dev/pts/3", NOW.0 / 1000 - 70);
        machine.touched("dev/tty0", NOW.0 / 1000 - 1).touched("dev/pts/ptmx", NOW.0 / 1000 - 1);
        machine.touched("dev/ttyS0", NOW.0 / 1000 - 1);
        assert_eq!(person.touched(machine.root(), NOW), Some(Time(NOW.0 - 70_000)));
        machine.touched("dev/pts/4", NOW.0 / 1000 + 9000);
        assert_eq!(person.touched(machine.root(), NOW), Some(NOW), "clocks are set");
    }

    #[test]
    fn a_mouse_that_moves_is_a_person() {
        let machine = Machine::new();
        let mut person = Person::default();
        usb(&machine, "1-2", "03", "02", 100);
        let mut look = |at: u64| person.touched(machine.root(), NOW.plus_ms(at));
        assert_eq!(look(0), Some(NOW), "nobody knows how long it has stood still");
        assert_eq!(look(5000), Some(NOW));
        usb(&machine, "1-2", "03", "02", 101);
        assert_eq!(look(9000), Some(NOW.plus_ms(9000)));
        assert_eq!(look(14_000), Some(NOW.plus_ms(9000)));
    }

    #[test]
    fn a_disk_that_is_busy_is_no_person() {
        let machine = Machine::new();
        usb(&machine, "1-1", "08", "50", 100);
        usb(&machine, "1-3", "03", "00", 100);
        assert_eq!(Person::default().touched(machine.root(), NOW), None);
    }

    #[test]
    fn a_mouse_that_is_plugged_in_is_found() {
        let (machine, mut person) = (Machine::new(), Person::default());
        assert_eq!(person.touched(machine.root(), NOW), None);
        usb(&machine, "2-1.4", "03", "01", 7);
        assert_eq!(person.touched(machine.root(), NOW), None);
        person.look_anew();
        assert_eq!(person.touched(machine.root(), NOW), Some(NOW));
    }

    #[test]
    fn a_built_in_keyboard_counts_by_its_interrupts() {
        let machine = Machine::new();
        let mut person = Person::default();
        let line = |count: u32| {
            let before = "           CPU0       CPU1\n  0:         44          0  timer\n";
            let line = format!("  1:         {count}          9  IO-APIC   1-edge      i8042\n");
            machine.file("proc/interrupts", &format!("{before}{line}"));
        };
        line(9);
        person.touched(machine.root(), NOW);
        assert_eq!(person.touched(machine.root(), NOW.plus_ms(1)), Some(NOW));
        line(10);
        assert_eq!(person.touched(machine.root(), NOW.plus_ms(2)), Some(NOW.plus_ms(2)));
    }

    #[test]
    fn keyboards_past_the_bound_are_left_out() {
        let machine = Machine::new();
        for n in 0..=COUNTERS_MAX {
            usb(&machine, &format!("1-{n}"), "03", "01", 1);
        }
        assert_eq!(counters(machine.root()).len(), COUNTERS_MAX);
    }
}
