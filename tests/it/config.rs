//! `potluck config`: what a person sees who writes, checks and changes `potluck.toml`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::errors::refused;
use crate::grid::{Finished, Grid, UNPAUSED, finish, potluck};

/// The program without what else keeps a test's workers from pausing.
fn plain(data: &Path, args: &[&str]) -> Command {
    let mut command = potluck(data, args);
    for (name, _) in UNPAUSED {
        command.env_remove(name);
    }
    command
}

fn config(data: &Path, args: &[&str]) -> Finished {
    finish(plain(data, &[&["config"], args].concat()))
}

/// What `config show --json` says of a key.
#[track_caller]
fn shown(finished: &Finished, key: &str) -> Value {
    let answer: Value = serde_json::from_str(&finished.out).expect(&finished.err);
    let settings = answer["settings"].as_array().unwrap();
    settings.iter().find(|setting| setting["key"] == key).unwrap().clone()
}

#[test]
fn a_new_file_is_fine_and_the_owners_alone() {
    let grid = Grid::new();
    let data = grid.path("new");
    let file = data.join("potluck.toml");
    assert_eq!(config(&data, &["path"]).out.trim(), file.to_str().unwrap());
    assert!(config(&data, &["check"]).out.contains("no such file: defaults hold"));
    assert_eq!(config(&data, &["init"]).code, 0);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let checked = config(&data, &["check"]);
    assert_eq!((checked.code, checked.out.contains("all is well")), (0, true), "{}", checked.out);
    refused(&config(&data, &["init"]), 2, &["potluck.toml", "--force"]);
    assert_eq!(config(&data, &["init", "--force"]).code, 0);
}

#[test]
fn check_tells_every_error_with_line_key_and_what_is_allowed() {
    let grid = Grid::new();
    let text = "slots = 2\n[budget]\ncpu-percnt = 50\nmemory = '2 gigs'\n";
    let file = grid.file("data/potluck.toml", text);
    let checked = config(&grid.path("data"), &["check"]);
    assert_eq!(checked.code, 2, "{}", checked.err);
    let file = file.to_str().unwrap();
    let expected = format!(
        "{file}, line 1: `slots` is no key here: it belongs to [budget]\n\
         {file}, line 3: `budget.cpu-percnt` is no key; did you mean `cpu-percent`?\n\
         {file}, line 4: `budget.memory` is \"2 gigs\", and must be a size from 128MiB to 16TiB, \
         such as \"512MiB\" or \"2GiB\"\n3 errors\n"
    );
    assert_eq!(checked.out, expected);
    let json = config(&grid.path("data"), &["check", "--json"]);
    let answer: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(answer["errors"][1]["line"], 3);
    assert_eq!(answer["errors"][1]["key"], "budget.cpu-percnt");
    // A worker says the first, and how to see the others.
    let worker = ["worker", "--listen", "127.0.0.1:0"];
    let worker = finish(potluck(&grid.path("data"), &worker));
    refused(&worker, 2, &["line 1", "[budget]", "`potluck config check` shows 2 more"]);
}

#[test]
fn show_says_what_holds_and_who_said_so() {
    let grid = Grid::new();
    grid.file("data/potluck.toml", "[budget]\nslots = 3\ncpu-percent = 30\nupload = '8KiB/s'\n");
    let args = ["--json", "config", "show", "--cpu-percent", "50", "--set", "donor.team=x"];
    let mut command = plain(&grid.path("data"), &args);
    command.env("POTLUCK_BUDGET_SLOTS", "5").env("POTLUCK_BUDGET_CPU_PERCENT", "40");
    let finished = finish(command);
    let said = |key: &str| {
        let setting = shown(&finished, key);
        (setting["value"].clone(), setting["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(said("budget.slots"), (5.into(), "environment".to_owned()));
    assert_eq!(said("budget.cpu-percent"), (50.into(), "flag".to_owned()));
    assert_eq!(said("budget.upload"), (8192.into(), "file".to_owned()));
    assert_eq!(shown(&finished, "budget.upload")["line"], 4);
    assert_eq!(said("budget.disk"), ((10_u64 << 30).into(), "default".to_owned()));
    assert_eq!(said("donor.team"), ("x".into(), "flag".to_owned()));
    let one = config(&grid.path("data"), &["show", "budget.slots"]);
    assert_eq!(one.out, "budget.slots  3  potluck.toml:2\n");
    refused(&config(&grid.path("data"), &["show", "speed"]), 2, &["speed"]);
}

#[test]
fn a_variable_of_ours_that_is_none_is_named() {
    let grid = Grid::new();
    let mut command = potluck(&grid.path("data"), &["config", "check"]);
    command.env("POTLUCK_BUDGET_SLOT", "5");
    let checked = finish(command);
    assert_eq!(checked.code, 2);
    assert!(checked.out.contains("did you mean POTLUCK_BUDGET_SLOTS?"), "{}", checked.out);
}

#[test]
fn set_changes_one_value_or_nothing() {
    let grid = Grid::new();
    let text = "# mine\n[budget]\nslots = 1 # as before\n";
    let file = grid.file("data/potluck.toml", text);
    let data = grid.path("data");
    let refusals = [
        (["budget.slots", "many"], "a whole number from 0 to 1024"),
        (["budget.slot", "2"], "did you mean `slots`?"),
        (["budget.in-use.disk", "1GiB"], "stands in [budget]"),
    ];
    for ([key, value], hint) in refusals {
        refused(&config(&data, &["set", key, value]), 2, &[key, hint]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
    assert_eq!(config(&data, &["set", "budget.slots", "2"]).out, "budget.slots = 2\n");
    assert_eq!(config(&data, &["set", "budget.in-use.slots", "0"]).code, 0);
    let new = std::fs::read_to_string(&file).unwrap();
    assert!(new.starts_with("# mine\n[budget]\nslots = 2 # as before\n"), "{new}");
    assert_eq!(config(&data, &["unset", "budget.in-use.slots"]).code, 0);
    assert_eq!(config(&data, &["show", "budget.in-use"]).out, "");
    let restart = config(&data, &["set", "listen", "127.0.0.1:9"]);
    assert!(restart.err.contains("must be started again"), "{}", restart.err);
}

/// The limits of a group of processes become the defaults of a program in it.
#[cfg(target_os = "linux")]
#[test]
fn defaults_follow_the_limits_of_the_control_group() {
    let group = match Group::new() {
        Ok(group) => group,
        Err(why) => return eprintln!("skipped: no control group can be made here: {why}"),
    };
    let grid = Grid::new();
    let data = grid.path("data");
    let outside = shown(&config(&data, &["--json", "show"]), "budget.memory");
    let inside = group.run(&data, &["--json", "config", "show"]);
    assert_eq!(shown(&inside, "budget.slots")["value"], 1, "{}", inside.out);
    assert_eq!(shown(&inside, "budget.memory")["value"], Group::MEMORY_BYTES / 4);
    assert!(outside["value"].as_u64().unwrap() > Group::MEMORY_BYTES / 4, "{outside}");
}

/// Control groups of the first version, or the second, with a core and some memory.
#[cfg(target_os = "linux")]
struct Group {
    folders: Vec<std::path::PathBuf>,
}

#[cfg(target_os = "linux")]
impl Group {
    const MEMORY_BYTES: u64 = 1 << 30;

    fn new() -> std::io::Result<Group> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("potluck-it-{}", std::process::id());
        let memory = Group::MEMORY_BYTES.to_string();
        let is_v2 = root.join("cgroup.controllers").exists();
        let limits: &[(&str, &str, &str)] = if is_v2 {
            &[("", "cpu.max", "100000 100000"), ("", "memory.max", &memory)]
        } else {
            &[("cpu", "cpu.cfs_quota_us", "100000"), ("memory", "memory.limit_in_bytes", &memory)]
        };
        // Dropped on every way out, so that nothing is left behind.
        let mut group = Group { folders: Vec::new() };
        for (hierarchy, file, limit) in limits {
            let folder = root.join(hierarchy).join(&name);
            if !group.folders.contains(&folder) {
                std::fs::create_dir(&folder)?;
                group.folders.push(folder.clone());
            }
            std::fs::write(folder.join(file), limit)?;
        }
        Ok(group)
    }

    /// Runs the program to its end in this group.
    fn run(&self, data: &Path, args: &[&str]) -> Finished {
        let inner = potluck(data, args);
        let mut command = std::process::Command::new("/bin/sh");
        let script = "for folder in $GROUPS_TO_JOIN; do echo $$ > $folder/cgroup.procs || exit 99; \
                      done; exec \"$@\"";
        let folders: Vec<&str> = self.folders.iter().map(|path| path.to_str().unwrap()).collect();
        command.env("GROUPS_TO_JOIN", folders.join(" ")).env_remove("POTLUCK_DATA");
        command.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
        finish(command)
    }
}

#[cfg(target_os = "linux")]
impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
