//! Claims about the lock: what native code in a child can still do, were a guest to break out of
//! the engine. The stand-in for it is this binary: it locks itself as a child does and then tries
//! one thing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, Stdio};

use potluck_sandbox::{LayerKind, LayerState, LockedFor, Refusal, Sandbox, StartError, run_locked};
use potluck_unit::NoResult;

use crate::attempts::{ATTEMPTS, Attempt, Control, HONEST, Scene, Tried, abstract_name};
use crate::world::{SMALL, World, go, module, program, result};
use crate::{claims, say};

claims![
    without_a_lock_most_of_it_would_work,
    a_compiler_can_do_none_of_it,
    a_runner_that_loads_can_only_load,
    a_runner_that_serves_can_do_none_of_it,
    most_of_it_fails_even_without_a_filter,
    honest_code_goes_on_at_every_stage,
    every_thread_of_every_child_is_filtered,
    the_layers_are_those_of_a_real_child,
    a_kernel_without_landlock_is_named_and_units_run,
    a_kernel_without_filters_is_named_and_units_run,
];

/// The word that makes this binary a stand-in: what it is locked for, what it tries, the scene.
pub(crate) const CHILD: &str = "__locked";

pub(crate) fn child(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let argv: Vec<String> = argv.map(|word| word.into_string().unwrap()).collect();
    let number = |at: usize| argv[at].parse::<usize>().unwrap();
    let scene = Scene {
        folder: argv[2].clone().into(),
        tcp: u16::try_from(number(3)).unwrap(),
        udp: u16::try_from(number(4)).unwrap(),
        parent: i32::try_from(number(5)).unwrap(),
        address: number(6),
        bystander: i32::try_from(number(7)).unwrap(),
    };
    let attempt = HONEST.iter().chain(ATTEMPTS).find(|known| known.name == argv[1]);
    let work = move || {
        // Whoever tries nothing gives up as a program does whose allocation is refused.
        let Some(attempt) = attempt else { std::process::abort() };
        match (attempt.run)(&scene) {
            Ok(()) => say("done"),
            Err(errno) => say(&format!("refused {errno}")),
        }
        ExitCode::SUCCESS
    };
    let locked = LOCKS.iter().find(|(name, _)| *name == argv[0]).map(|(_, what)| *what);
    locked.map_or_else(&work, |what| run_locked(what, &work).unwrap())
}

const LOCKS: [(&str, LockedFor); 4] = [
    ("compiling", LockedFor::Compiling),
    ("loading", LockedFor::Loading),
    ("serving", LockedFor::Serving),
    ("nothing", LockedFor::Nothing),
];

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Refused,
    Killed,
    Aborted,
}

/// Tries one thing with a fresh scene, in a process locked by this name.
fn try_once(lock: &str, name: &str) -> Ended {
    static WORD: u64 = 7;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("victim"), b"").unwrap();
    let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
    let nowhere = SocketAddr::from_abstract_name(abstract_name(own_id())).unwrap();
    let _abstract = UnixListener::bind_addr(&nowhere).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    let tried = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, lock, name])
        .arg(folder.path())
        .args([tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port()].map(text))
        .arg(own_id().to_string())
        .arg((&raw const WORD).addr().to_string())
        .arg(bystander.id().to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    let said = String::from_utf8_lossy(&tried.stdout);
    match (said.trim(), tried.status.signal()) {
        ("done", None) => Ended::Done,
        // A program that took the stand-in's place ends well and says nothing.
        ("", None) if tried.status.success() => Ended::Done,
        ("", Some(libc::SIGSYS)) => Ended::Killed,
        ("", Some(libc::SIGABRT)) => Ended::Aborted,
        (refused, None) if refused.starts_with("refused ") => Ended::Refused,
        _ => panic!("{lock}, {name}: {tried:?}"),
    }
}

fn own_id() -> i32 {
    i32::try_from(std::process::id()).unwrap()
}

fn text(number: u16) -> String {
    number.to_string()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn without_a_lock_most_of_it_would_work() {
    for attempt in ATTEMPTS {
        if attempt.control == Control::Anyone || (attempt.control == Control::Root && is_root()) {
            assert_eq!(try_once("open", attempt.name), Ended::Done, "{}", attempt.name);
        }
    }
}

fn a_compiler_can_do_none_of_it() {
    for attempt in ATTEMPTS {
        assert_ne!(try_once("compiling", attempt.name), Ended::Done, "{}", attempt.name);
    }
}

fn a_runner_that_loads_can_only_load() {
    for attempt in ATTEMPTS {
        let ended = try_once("loading", attempt.name);
        assert_eq!(ended == Ended::Done, attempt.is_loading, "{}", attempt.name);
    }
}

fn a_runner_that_serves_can_do_none_of_it() {
    for attempt in ATTEMPTS {
        let ended = try_once("serving", attempt.name);
        // What libc may try in good faith is refused; the rest ends the process.
        let expected = if opens(attempt) { Ended::Refused } else { Ended::Killed };
        assert_eq!(ended, expected, "{}", attempt.name);
    }
}

/// Whether it is one of the calls that honest code makes too, to open a file.
fn opens(attempt: &Attempt) -> bool {
    let file = ["read a f", "write a f", "write to itself", "read its parent's memory file"];
    file.iter().any(|name| attempt.name.starts_with(name))
}

fn most_of_it_fails_even_without_a_filter() {
    let layers = World::new().sandbox.layers().unwrap();
    let domain = layers.iter().find(|layer| layer.kind == LayerKind::Domain).unwrap();
    if !domain.is_full() {
        say(&format!("not to be seen on this kernel: {domain}"));
        return;
    }
    let twice = ATTEMPTS.iter().filter(|attempt| attempt.is_held_twice);
    for attempt in twice {
        assert_eq!(try_once("nothing", attempt.name), Ended::Refused, "{}", attempt.name);
    }
}

fn honest_code_goes_on_at_every_stage() {
    for (lock, _) in LOCKS {
        for attempt in HONEST {
            assert_eq!(try_once(lock, attempt.name), Ended::Done, "{lock}, {}", attempt.name);
        }
        // The parent tells by the way a child died what it lacked.
        assert_eq!(try_once(lock, "give up"), Ended::Aborted, "{lock}");
    }
}

/// The lines of every thread's status in `/proc`, by name; all threads must agree.
fn status(pid: u32, wanted: &[&str]) -> Vec<BTreeMap<String, String>> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        let wanted = lines.filter(|(name, _)| wanted.contains(name));
        wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    threads.map(read).collect()
}

fn every_thread_of_every_child_is_filtered() {
    let none = "0000000000000000";
    let lines = [
        ("CapInh", none),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    let names = lines.map(|(name, _)| name);
    let own = own_filters();
    let expected = |filters: usize| {
        let mut map: BTreeMap<String, String> =
            lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        map.insert("Seccomp_filters".to_owned(), (own + filters).to_string());
        map
    };
    let names = [&names[..], &["Seccomp_filters"]].concat();
    let runner = World::new().runner(&program(""), &SMALL);
    let found = status(runner.handle().pid(), &names);
    assert_eq!(found, [expected(3), expected(3)], "a runner has two threads");
    let mut compiler = Command::new(std::env::current_exe().unwrap())
        .args([crate::world::CHILD, "compile", "10", "1000000000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its engine's name is the first thing it says; then it waits for a module.
    let mut name = [0; 37];
    compiler.stdout.take().unwrap().read_exact(&mut name).unwrap();
    assert_eq!(status(compiler.id(), &names), [expected(2)], "a compiler has one thread");
    compiler.kill().unwrap();
    compiler.wait().unwrap();
}

/// How many filters this process was started with, in a container say: its children have them too.
fn own_filters() -> usize {
    let found = status(std::process::id(), &["Seccomp_filters"]);
    found[0]["Seccomp_filters"].parse().unwrap()
}

fn the_layers_are_those_of_a_real_child() {
    let world = World::new();
    let layers = world.sandbox.layers().unwrap();
    assert_eq!(layers.iter().map(|layer| layer.kind).collect::<Vec<_>>(), LayerKind::ALL);
    // What this kernel has was seen in the claims above; here only that nothing else is said.
    let calls = layers.iter().find(|layer| layer.kind == LayerKind::Calls).unwrap();
    assert_eq!(calls.state, LayerState::Full, "{calls}");
    let whole = potluck_sandbox::shortfall(&layers).is_none();
    let strict = world.sandbox.clone().with_whole_lock();
    assert_eq!(strict.layers().is_ok(), whole);
    if whole {
        let (id, wasm) = module(&program(""));
        let artefact = strict.prepare(&id, &wasm).unwrap();
        let mut runner = strict.start(&artefact, &SMALL).unwrap();
        assert_eq!(result(&go(&mut runner, &[], b"")).0, 0);
    }
    let stranger = potluck_sandbox::Program { path: "/bin/true".into(), args: Vec::new() };
    let error = Sandbox::new(stranger, "/nowhere".into()).layers().unwrap_err();
    assert!(error.to_string().contains("did not say how it is locked"), "{error}");
}

/// The word that makes this binary a donor whose kernel lacks a system call: what it lacks.
pub(crate) const LACKING: &str = "__lacking";

pub(crate) fn lacking(mut argv: impl Iterator<Item = OsString>) -> ExitCode {
    let call = match argv.next().unwrap().to_str().unwrap() {
        "landlock" => libc::SYS_landlock_create_ruleset,
        _ => libc::SYS_seccomp,
    };
    lose(call).unwrap();
    let world = World::new();
    let layers = world.sandbox.layers().unwrap();
    say(&potluck_sandbox::shortfall(&layers).unwrap());
    assert_eq!(result(&go(&mut world.runner(&program(""), &SMALL), &[], b"")).0, 0);
    let (id, wasm) = module(&program("nop"));
    let strict = world.sandbox.clone().with_whole_lock();
    let refusal = strict.prepare(&id, &wasm).unwrap_err();
    assert!(matches!(refusal, Refusal::NoResult(NoResult::Engine, _)), "{refusal:?}");
    say(&refusal.to_string());
    // Not even with an artefact that was made before.
    let artefact = world.sandbox.prepare(&id, &wasm).unwrap();
    let error = strict.start(&artefact, &SMALL).unwrap_err();
    assert!(matches!(error, StartError::NoResult(NoResult::Engine, _)), "{error:?}");
    say(&error.to_string());
    // And that artefact is as good as before.
    assert!(world.sandbox.start(&artefact, &SMALL).is_ok());
    ExitCode::SUCCESS
}

/// Makes the kernel say that it has no such system call, to this process and its children.
fn lose(call: libc::c_long) -> Tried {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
    let arch = if cfg!(target_arch = "x86_64") { TargetArch::x86_64 } else { TargetArch::aarch64 };
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = [(call, Vec::new())].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).map_err(|_| libc::EPERM)
}

/// What a donor whose kernel lacks this says: the shortfall, and twice why it must not go on.
fn said_without(what: &str) -> Vec<String> {
    let donor = Command::new(std::env::current_exe().unwrap()).args([LACKING, what]).output();
    let donor = donor.unwrap();
    assert!(donor.status.success(), "{}", String::from_utf8_lossy(&donor.stderr));
    String::from_utf8(donor.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn a_kernel_without_landlock_is_named_and_units_run() {
    let said = said_without("landlock");
    assert_eq!(said.len(), 3);
    assert!(said[0].contains("landlock is missing: this kernel has none"), "{said:?}");
    assert!(said[1..].iter().all(|line| line.contains("landlock is missing")), "{said:?}");
}

fn a_kernel_without_filters_is_named_and_units_run() {
    let said = said_without("seccomp");
    assert_eq!(said.len(), 3);
    assert!(said[0].contains("system call filter is missing: "), "{said:?}");
    // Where the kernel lacks something else too, that is named first.
    assert!(
        said[1..]
            .iter()
            .all(|line| line.contains(" is missing: ") || line.contains(" is partial: ")),
        "{said:?}"
    );
}
