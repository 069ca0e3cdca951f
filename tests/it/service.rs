//! `potluck service`: what is written, what the system is told, and what systemd thinks of it. No
//! test talks to this machine's service manager.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::errors::refused;
use crate::grid::{Finished, Grid, finish, potluck};

/// Runs the verb for a user whose `systemctl` writes down what it is told.
fn service(grid: &Grid, args: &[&str]) -> Finished {
    let script = "#!/bin/sh\necho \"$@\" >> \"$SYSTEMCTL_LOG\"\n\
                  case \"$2\" in is-*) echo inactive; exit 3;; esac\n";
    let systemctl = grid.file("bin/systemctl", script);
    std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = potluck(&grid.path("data"), &[&["service"], args].concat());
    command.env("PATH", systemctl.parent().unwrap()).env("XDG_CONFIG_HOME", grid.path("config"));
    command.env("SYSTEMCTL_LOG", grid.path("log"));
    finish(command)
}

#[test]
fn a_dry_run_shows_everything_and_does_nothing() {
    let grid = Grid::new();
    for scope in ["--user", "--system"] {
        let dry = service(&grid, &["install", scope, "--dry-run"]);
        assert_eq!(dry.code, 0, "{}", dry.err);
        assert!(dry.out.contains("NoNewPrivileges=yes"), "{}", dry.out);
        assert_eq!(dry.out.matches("would run systemctl").count(), 3, "{}", dry.out);
    }
    assert!(!grid.path("log").exists() && !grid.path("config").exists());
}

#[test]
fn a_users_service_is_installed_and_removed() {
    let grid = Grid::new();
    let unit = grid.path("config/systemd/user/potluck.service");
    refused(&service(&grid, &["uninstall", "--user"]), 2, &["no such service is installed"]);
    let installed = service(&grid, &["install", "--user"]);
    assert_eq!(installed.code, 0, "{}", installed.err);
    let text = std::fs::read_to_string(&unit).unwrap();
    let data = grid.path("data");
    assert!(text.contains(&format!("--data \"{}\" worker\n", data.display())), "{text}");
    let status = service(&grid, &["status", "--user"]);
    assert!(status.out.contains("now         inactive"), "{}", status.out);
    // Installing again replaces it, but never what somebody else wrote.
    assert_eq!(service(&grid, &["install", "--user"]).code, 0);
    std::fs::write(&unit, "[Unit]\n").unwrap();
    refused(&service(&grid, &["install", "--user"]), 2, &["was not written by this program"]);
    std::fs::write(&unit, text).unwrap();
    assert_eq!(service(&grid, &["uninstall", "--user"]).code, 0);
    assert!(!unit.exists());
    let log = std::fs::read_to_string(grid.path("log")).unwrap();
    let told = ["daemon-reload", "enable potluck.service", "restart potluck.service"];
    let first: Vec<String> = told.iter().map(|words| format!("--user {words}")).collect();
    assert!(log.starts_with(&first.join("\n")), "{log}");
    assert!(log.contains("--user disable --now potluck.service"), "{log}");
}

#[test]
fn the_list_for_launchd_names_program_and_data() {
    let grid = Grid::new();
    let printed = service(&grid, &["install", "--print", "launchd", "--program", "/opt/potluck"]);
    assert!(printed.out.contains("<string>/opt/potluck</string>"), "{}", printed.out);
    let data = grid.path("data");
    assert!(printed.out.contains(&format!("<string>{}</string>", data.display())));
}

#[test]
fn systemd_finds_nothing_wrong_and_gives_the_figures_of_the_page() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return eprintln!("skipped: systemd-analyze is not installed");
    }
    let page = include_str!("../../docs/donating.md");
    let row = page.lines().find(|line| line.contains("`systemd-analyze security`")).unwrap();
    let figures: Vec<f64> = row.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
    let grid = Grid::new();
    for (scope, figure) in ["--user", "--system"].iter().zip(&figures) {
        let args = ["install", scope, "--print", "systemd", "--program", "/bin/sh"];
        let text = service(&grid, &args).out;
        let unit = grid.file(&format!("{}/potluck.service", scope.trim_matches('-')), text);
        let analyze = |args: &[&str]| {
            let output = Command::new("systemd-analyze").args(args).arg(&unit).output().unwrap();
            let text = [&output.stdout[..], &output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).into_owned())
        };
        let (_, said) = analyze(&["security", "--offline=true", "--no-pager"]);
        let overall = said.lines().find(|line| line.contains("Overall exposure")).unwrap();
        let found = overall.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        // Other versions of systemd weigh what they know a little differently.
        assert!((found.unwrap() - figure).abs() <= 0.5, "{scope}: {overall}, and not {figure}");
        let (fine, said) = analyze(&["verify"]);
        assert!(fine, "{scope}: {said}");
    }
    assert_eq!(figures.len(), 2, "{row}");
}
