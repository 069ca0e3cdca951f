//! `potluck service`: has systemd run the worker, locked in and at the lowest priority.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::service_file::{self as files, MARK, SERVICE, SLICE, SYSTEM_DATA, Scope};

/// What to do with the service.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Write the service, start it, and have it started from now on
    Install(InstallArgs),
    /// Stop the service and remove it; the data folder stays
    Uninstall(ScopeArgs),
    /// Show whether the service is installed and runs
    Status(ScopeArgs),
}

/// For whom.
#[derive(Debug, clap::Args)]
pub(crate) struct ScopeArgs {
    /// For this user, while they are logged in [default: unless you are root]
    #[arg(long)]
    user: bool,
    /// For the machine, as a user of its own, from /var/lib/potluck [default: if you are root]
    #[arg(long, conflicts_with = "user")]
    system: bool,
}

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// The program to run [default: this one, where it is]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Show what would be written and run, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the service's own file and do nothing
    #[arg(long, value_name = "FOR")]
    print: Option<Printed>,
}

/// Whose file is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Printed {
    /// The unit file of systemd
    Systemd,
    /// The property list of macOS
    Launchd,
}

/// Talks to the system's service manager, never to a node.
pub(crate) fn run(verb: &Verb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        Verb::Install(args) => install(args, context),
        Verb::Uninstall(args) => uninstall(args.scope(), context),
        Verb::Status(args) => status(args.scope(), context),
    }
}

impl ScopeArgs {
    fn scope(&self) -> Scope {
        let is_system = self.system || !self.user && rustix::process::geteuid().is_root();
        if is_system { Scope::System } else { Scope::User }
    }
}

/// A file of the service and where it belongs.
struct Part {
    path: PathBuf,
    text: String,
}

fn install(args: &InstallArgs, context: &Context) -> Result<Exit, Failure> {
    let scope = args.scope.scope();
    let program = program(args.program.as_deref())?;
    let data = match scope {
        Scope::User => absolute(&context.data)?,
        Scope::System => PathBuf::from(SYSTEM_DATA),
    };
    if let Some(printed) = args.print {
        let text = match printed {
            Printed::Systemd => files::service(scope, &program, &data),
            Printed::Launchd => files::launchd(&program, &absolute(&context.data)?),
        };
        context.printer.bytes(text.map_err(Failure::input)?.as_bytes())?;
        return Ok(Exit::Done);
    }
    let parts = parts(scope, &program, &data)?;
    let commands = [
        vec!["daemon-reload"],
        vec!["enable", SERVICE],
        // Not just a start: it may run already, by an older file.
        vec!["restart", SERVICE],
    ];
    if args.dry_run {
        return dry_run(scope, &parts, &commands, context);
    }
    if scope == Scope::System {
        reachable(&program)?;
    }
    parts.iter().try_for_each(write)?;
    for command in &commands {
        systemctl_ok(scope, command)?;
    }
    let (file, data) = (parts[0].path.display().to_string(), data.display().to_string());
    let value = json!({ "file": file, "data": data, "scope": word(scope) });
    context.printer.answer(&value, || installed_text(scope, &file, &data))?;
    Ok(Exit::Done)
}

fn dry_run(
    scope: Scope,
    parts: &[Part],
    commands: &[Vec<&str>],
    context: &Context,
) -> Result<Exit, Failure> {
    let commands: Vec<String> = commands.iter().map(|words| shown(scope, words)).collect();
    let written: Vec<_> = (parts.iter())
        .map(|part| json!({ "file": part.path.display().to_string(), "text": part.text }))
        .collect();
    context.printer.answer(&json!({ "write": written, "run": commands }), || {
        let files = parts
            .iter()
            .map(|part| format!("would write {}:\n\n{}\n", part.path.display(), part.text));
        let commands = commands.iter().map(|command| format!("would run {command}\n"));
        files.chain(commands).collect()
    })?;
    Ok(Exit::Done)
}

fn uninstall(scope: Scope, context: &Context) -> Result<Exit, Failure> {
    let folder = folder(scope)?;
    let unit = folder.join(SERVICE);
    if !is_ours(&unit)? {
        let message = format!("{} is not there: no such service is installed", unit.display());
        return Err(Failure::input(message));
    }
    systemctl_ok(scope, &["disable", "--now", SERVICE])?;
    for path in [unit.clone(), folder.join(SLICE)] {
        if is_ours(&path)? {
            std::fs::remove_file(&path).map_err(|error| cannot("remove", &path, &error))?;
        }
    }
    systemctl_ok(scope, &["daemon-reload"])?;
    let file = unit.display().to_string();
    context.printer.answer(&json!({ "file": file }), || {
        format!("stopped and removed {file}; the data folder is as it was")
    })?;
    Ok(Exit::Done)
}

fn status(scope: Scope, context: &Context) -> Result<Exit, Failure> {
    let unit = folder(scope)?.join(SERVICE);
    let installed = is_ours(&unit)?;
    // Both commands answer in one word, also where that means no and they fail.
    let ask = |question: &str| {
        let output = systemctl(scope, &[question, SERVICE])?;
        let word = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok::<_, Failure>(if word.is_empty() { "unknown".to_owned() } else { word })
    };
    let (enabled, active) = (ask("is-enabled")?, ask("is-active")?);
    let file = unit.display().to_string();
    let value = json!({
        "scope": word(scope), "file": file, "installed": installed, "enabled": enabled,
        "active": active,
    });
    context.printer.answer(&value, || {
        if !installed {
            return format!("not installed: there is no {file}");
        }
        format!("{file}\nat start    {enabled}\nnow         {active}")
    })?;
    Ok(Exit::Done)
}

fn parts(scope: Scope, program: &Path, data: &Path) -> Result<Vec<Part>, Failure> {
    let folder = folder(scope)?;
    let text = files::service(scope, program, data).map_err(Failure::input)?;
    let mut parts = vec![Part { path: folder.join(SERVICE), text }];
    if scope == Scope::System {
        parts.push(Part { path: folder.join(SLICE), text: files::slice() });
    }
    Ok(parts)
}

/// Where systemd looks for files of such services that no package owns.
fn folder(scope: Scope) -> Result<PathBuf, Failure> {
    if scope == Scope::System {
        return Ok(PathBuf::from("/etc/systemd/system"));
    }
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .ok_or_else(|| Failure::input("there is no home folder to keep a user's service in"))?;
    Ok(config.join("systemd").join("user"))
}

fn program(given: Option<&Path>) -> Result<PathBuf, Failure> {
    match given {
        Some(path) => absolute(path),
        None => std::env::current_exe().map_err(|error| {
            Failure::failed(format!("cannot find this program's own file: {error}"))
        }),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| cannot("find", path, &error))
}

/// The machine's service sees neither homes nor temporary folders.
fn reachable(program: &Path) -> Result<(), Failure> {
    let hidden = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
    let real = program.canonicalize().map_err(|error| cannot("find", program, &error))?;
    match hidden.iter().find(|folder| real.starts_with(folder)) {
        None => Ok(()),
        Some(folder) => Err(Failure::input(format!(
            "{} is below {folder}, which the machine's service does not see; copy it to \
             /usr/local/bin and say --program /usr/local/bin/potluck",
            real.display()
        ))),
    }
}

/// Whether a file is there, and was written by this program. Somebody else's is an error.
fn is_ours(path: &Path) -> Result<bool, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(true),
        Ok(_) => Err(Failure::input(format!(
            "{} was not written by this program, or changed since; remove it first",
            path.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

fn write(part: &Part) -> Result<(), Failure> {
    let path = &part.path;
    is_ours(path)?;
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(part.text.as_bytes())?;
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(rights)?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(|_| ()).map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

fn systemctl(scope: Scope, words: &[&str]) -> Result<Output, Failure> {
    let mut command = Command::new("systemctl");
    if scope == Scope::User {
        command.arg("--user");
    }
    command.args(words).output().map_err(|error| {
        Failure::failed(format!(
            "cannot run systemctl: {error}; `potluck service install --print systemd` prints what \
             another service manager may make use of"
        ))
    })
}

fn systemctl_ok(scope: Scope, words: &[&str]) -> Result<(), Failure> {
    let output = systemctl(scope, words)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::failed(format!("`{}` failed: {said}", shown(scope, words))))
}

fn shown(scope: Scope, words: &[&str]) -> String {
    let user = if scope == Scope::User { " --user" } else { "" };
    format!("systemctl{user} {}", words.join(" "))
}

fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::User => "user",
        Scope::System => "system",
    }
}

fn installed_text(scope: Scope, file: &str, data: &str) -> String {
    let next = match scope {
        Scope::User => {
            "it runs while you are logged in; `loginctl enable-linger` has it run from start to \
             shutdown"
                .to_owned()
        }
        Scope::System => format!(
            "it runs from start to shutdown, as a user of its own; ask it with `sudo potluck --data \
             {data} status`"
        ),
    };
    format!("wrote {file} and started it, with its data in {data}\n{next}")
}
