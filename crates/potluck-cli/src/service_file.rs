//! What the system is told to run: unit files of systemd, and a property list of launchd.
//!
//! The worker locks its sandboxes itself, and more tightly than any of this; what stands here keeps
//! the worker, too, away from what it has no business with.

use std::path::Path;

/// For whom systemd runs the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// For one user, while they are logged in.
    User,
    /// For the machine, as a user of its own that owns nothing else.
    System,
}

/// The line by which files that this program wrote are known.
pub(crate) const MARK: &str = "# Written by `potluck service install`.";
/// The name that systemd knows the worker by.
pub(crate) const SERVICE: &str = "potluck.service";
/// The group of processes that the machine's service is alone in.
pub(crate) const SLICE: &str = "potluck.slice";
/// Where the machine's service keeps its data: systemd makes it and gives it to the service's user.
pub(crate) const SYSTEM_DATA: &str = "/var/lib/potluck";

/// The unit file. The error says which path can't stand in one.
pub(crate) fn service(scope: Scope, program: &Path, data: &Path) -> Result<String, String> {
    let (program, data) = (quoted(program)?, quoted(data)?);
    let (wanted_by, network, own) = match scope {
        Scope::User => ("default.target", "", USER),
        Scope::System => ("multi-user.target", NETWORK, SYSTEM),
    };
    Ok(format!(
        "{MARK}\n[Unit]\nDescription=Potluck: lends this machine to a volunteer computing grid\n\
         {network}\n[Service]\nType=exec\nExecStart={program} --data {data} worker\n{COMMON}{own}\n\
         [Install]\nWantedBy={wanted_by}\n"
    ))
}

/// The slice of the machine's service: against the rest of the machine it has the least weight there
/// is. Priorities count between processes of one group only, so without this a worker of lowest
/// priority could take half of a busy machine.
pub(crate) fn slice() -> String {
    format!(
        "{MARK}\n[Unit]\nDescription=Work for others, which everything else comes before\n\n\
         [Slice]\nCPUWeight=1\nIOWeight=1\n"
    )
}

/// What launchd is given. The error says which path can't stand in it.
pub(crate) fn launchd(program: &Path, data: &Path) -> Result<String, String> {
    let (program, data) = (escaped(program)?, escaped(data)?);
    let (before, rest) = LAUNCHD.split_once("PROGRAM").unwrap_or((LAUNCHD, ""));
    let (between, after) = rest.split_once("DATA").unwrap_or((rest, ""));
    Ok([before, &program, between, &data, after].concat())
}

/// A path as a word of a unit file.
fn quoted(path: &Path) -> Result<String, String> {
    let escaped = plain(path)?
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    Ok(format!("\"{escaped}\""))
}

/// A path as text of XML.
fn escaped(path: &Path) -> Result<String, String> {
    Ok(plain(path)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

fn plain(path: &Path) -> Result<&str, String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.filter(|_| path.is_absolute()).ok_or_else(|| {
        format!("{} must be an absolute path of plain text to stand in a service", path.display())
    })
}

const NETWORK: &str = "Wants=network-online.target\nAfter=network-online.target\n";

const COMMON: &str = "\
Restart=on-failure
RestartSec=30
# A wrong potluck.toml, or a port or folder in use: trying again does not mend these.
RestartPreventExitStatus=2 6
# The worker is asked to stop, hands back what it runs, and only then are its sandboxes killed.
KillMode=mixed
TimeoutStopSec=90

# Everything else on this machine comes first. Sandboxes run at SCHED_IDLE, below the worker, which
# must be able to stop them.
Nice=19
IOSchedulingClass=idle
OOMScoreAdjust=900
TasksMax=1024

# Not here: MemoryDenyWriteExecute. Sandboxes make compiled modules executable.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
# Addresses of this machine's interfaces are asked by netlink.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
# Sandboxes lock themselves with the four after the first, and lower their priority with @resources,
# which is part of the first.
SystemCallFilter=@system-service landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
SystemCallFilter=~@privileged @keyring @memlock @obsolete
SystemCallErrorNumber=EPERM
UMask=0077
";

const USER: &str = "\
CPUWeight=1
IOWeight=1
# Hiding files from a user's service needs user namespaces, which some systems keep users from; then
# it would not start. Where they are allowed, these lines in `systemctl --user edit potluck` are
# worth having:
# PrivateUsers=yes
# PrivateTmp=yes
# ProtectSystem=strict
# ProtectHome=read-only
# ReadWritePaths= and the data folder
";

const SYSTEM: &str = "\
Slice=potluck.slice
DynamicUser=yes
StateDirectory=potluck
StateDirectoryMode=0700
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateMounts=yes
PrivateDevices=yes
PrivateUsers=yes
PrivateIPC=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes
KeyringMode=private
# Not here: ProtectProc and ProcSubset. What others use of the processor and which programs run are
# what pausing goes by.
";

const LAUNCHD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key><string>potluck.worker</string>
  <key>ProgramArguments</key>
  <array>
    <string>PROGRAM</string>
    <string>--data</string>
    <string>DATA</string>
    <string>worker</string>
  </array>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <key>ThrottleInterval</key><integer>30</integer>
  <key>ProcessType</key><string>Background</string>
  <key>Nice</key><integer>19</integer>
  <key>LowPriorityIO</key><true/>
  <key>ExitTimeOut</key><integer>90</integer>
  <key>Umask</key><integer>63</integer>
</dict>
</plist>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_in_a_unit_file_as_they_are() {
        let text = service(Scope::User, Path::new("/a b/pot\"l%uck"), Path::new("/d$\\x")).unwrap();
        assert!(text.contains("\nExecStart=\"/a b/pot\\\"l%%uck\" --data \"/d$$\\\\x\" worker\n"));
        for wrong in ["relative", "/a\nUser=root"] {
            assert!(service(Scope::System, Path::new(wrong), Path::new("/d")).is_err());
            assert!(launchd(Path::new("/p"), Path::new(wrong)).is_err());
        }
        let list = launchd(Path::new("/a&b/DATA"), Path::new("/d")).unwrap();
        assert!(list.contains("<string>/a&amp;b/DATA</string>"), "{list}");
        assert!(list.contains("<string>/d</string>"), "{list}");
    }

    #[test]
    fn everything_that_is_written_is_marked_as_ours() {
        let text = service(Scope::System, Path::new("/p"), Path::new(SYSTEM_DATA)).unwrap();
        assert!(text.starts_with(MARK) && slice().starts_with(MARK));
    }

    #[test]
    fn the_page_shows_the_machines_service_as_it_is_written() {
        let page = include_str!("../../../docs/donating.md");
        let shown = page.split("```ini\n").nth(1).and_then(|rest| rest.split("```").next());
        let program = Path::new("/usr/local/bin/potluck");
        let written = service(Scope::System, program, Path::new(SYSTEM_DATA)).unwrap();
        assert_eq!(shown.unwrap(), written);
    }
}
