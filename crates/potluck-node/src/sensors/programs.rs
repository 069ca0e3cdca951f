//! Whether programs of certain names run.

use std::path::Path;

use super::files;

/// Which of `names` run, spelt as there. A program goes by the name of its file and by the one that
/// it gives itself, of which the system keeps fifteen bytes.
pub(super) fn running(root: &Path, names: &[String]) -> Vec<String> {
    if names.is_empty() {
        return Vec::new();
    }
    let proc = root.join("proc");
    let mut found = vec![false; names.len()];
    for pid in files::list(&proc, files::PROCESSES_MAX) {
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let process = proc.join(pid);
        let own = files::read(&process.join("comm")).unwrap_or_default();
        let own = own.strip_suffix('\n').unwrap_or(&own);
        // Of other people's programs only the name they give themselves can be seen.
        let file = std::fs::read_link(process.join("exe")).ok();
        let file = file.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        // A program that was replaced while it runs, as by an update.
        let file = file.map(|name| name.strip_suffix(" (deleted)").unwrap_or(name));
        for (name, found) in names.iter().zip(&mut found) {
            *found |= file == Some(name.as_str()) || (!own.is_empty() && own == cut(name));
        }
    }
    let found = names.iter().zip(found).filter(|(_, found)| *found);
    found.map(|(name, _)| name.clone()).collect()
}

/// The part of a name that the system keeps.
fn cut(name: &str) -> &str {
    let end = (0..=COMM_BYTES_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    &name[..end.unwrap_or(0)]
}

/// Bytes of the name that a program gives itself.
const COMM_BYTES_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::*;

    fn found(machine: &Machine, names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        running(machine.root(), &names)
    }

    #[test]
    fn a_program_is_found_by_its_file_and_by_the_name_it_gives_itself() {
        let machine = Machine::new();
        machine.file("proc/7/comm", "steam\n").file("proc/8/comm", "GameThread\n");
        machine.link("proc/8/exe", "/opt/games/quake");
        machine.file("proc/stat", "cpu").file("proc/self/comm", "self\n");
        let names = ["quake", "steam", "doom", "self", "GameThread", "stea", ""];
        assert_eq!(found(&machine, &names), ["quake", "steam", "GameThread"]);
        assert_eq!(found(&machine, &[]), [""; 0]);
    }

    #[test]
    fn long_names_are_compared_as_far_as_the_system_keeps_them() {
        let machine = Machine::new();
        machine.file("proc/7/comm", "a-very-long-nam\n");
        assert_eq!(found(&machine, &["a-very-long-name", "a-very-long-na"]), ["a-very-long-name"]);
        assert_eq!(cut("aaaaaaaaaaaaaaé"), "aaaaaaaaaaaaaa");
    }

    #[test]
    fn a_program_that_was_updated_while_it_runs_is_still_that_program() {
        let machine = Machine::new();
        machine.file("proc/7/comm", "x\n").link("proc/7/exe", "/usr/bin/firefox (deleted)");
        assert_eq!(found(&machine, &["firefox"]), ["firefox"]);
    }
}
