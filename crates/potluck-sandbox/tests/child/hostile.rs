//! Claims about children that have turned against their parent. The child here is this binary,
//! started with a word that says how it misbehaves.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use potluck_sandbox::{Program, Refusal, Sandbox};
use potluck_unit::{Limits, NoResult};

use crate::claims;
use crate::world::{SMALL, World, go, module, no_result, program, unit};

claims![
    no_reply_that_breaks_the_rules_is_believed,
    no_files_that_break_the_rules_are_believed,
    nothing_is_heard_that_breaks_the_rules,
    a_child_that_never_reads_meets_the_deadline,
    a_compiler_that_breaks_the_rules_is_no_result,
    a_stranger_calling_itself_a_child_changes_nothing,
];

/// The word that makes this binary a hostile child.
pub(crate) const CHILD: &str = "__hostile";

/// `argv`: the trick, and then what an honest child gets.
pub(crate) fn child(mut argv: impl Iterator<Item = OsString>) -> ExitCode {
    let trick = argv.next().unwrap().into_string().unwrap();
    let mut out = std::io::stdout();
    let mut say = |bytes: &[u8]| {
        let _ = out.write_all(bytes);
        let _ = out.flush();
    };
    if let Some(trick) = trick.strip_prefix("beside:") {
        return crate::payload::child(trick);
    }
    if let Some(words) = trick.strip_prefix("start:") {
        say(&hex(words));
        return ExitCode::SUCCESS;
    }
    say(&[16, 0, 0, 0, 0]);
    if trick == "deaf" {
        std::thread::sleep(Duration::from_secs(60));
        return ExitCode::SUCCESS;
    }
    let mut head = [0; 41];
    let _ = std::io::stdin().read_exact(&mut head);
    if trick == "endless" {
        loop {
            say(&[0; 4096]);
        }
    }
    say(&hex(&trick));
    std::thread::sleep(Duration::from_secs(60));
    ExitCode::SUCCESS
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sandbox(world: &World, trick: &str) -> Sandbox {
    let path = std::env::current_exe().unwrap();
    let program = Program { path, args: vec![CHILD.into(), trick.into()] };
    Sandbox::new(program, world.cache())
}

/// A reply frame that claims these lengths.
pub(crate) fn reply(
    tag: u8,
    length: u32,
    ending: u8,
    code: u32,
    stdout: u32,
    rest: &[u8],
) -> Vec<u8> {
    let mut frame = vec![tag];
    frame.extend(length.to_le_bytes());
    frame.push(ending);
    frame.extend(code.to_le_bytes());
    frame.extend([0; 32]);
    frame.extend(stdout.to_le_bytes());
    frame.extend(rest);
    frame
}

fn no_reply_that_breaks_the_rules_is_believed() {
    let world = World::new();
    let (module, wasm) = module(&program(""));
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    let limits = Limits { deadline_ms: 2000, output_max_bytes: 100, ..SMALL };
    let cases = [
        ("another tag", reply(99, 41, 0, 0, 0, b"")),
        ("too short", reply(18, 40, 0, 0, 0, b"")),
        ("no such ending", reply(18, 41, 4, 0, 0, b"")),
        ("no such fault", reply(18, 41, 1, 99, 0, b"")),
        ("a reason that is not a child's", reply(18, 41, 2, 7, 0, b"")),
        ("more output than reply", reply(18, 41, 0, 0, 1, b"")),
        ("output one over its cap", reply(18, 41 + 101, 0, 0, 101, &[0; 101])),
        ("output of four gibibytes", reply(18, u32::MAX, 0, 0, u32::MAX - 41, b"")),
        ("standard error one over its cap", reply(18, 41 + 65537, 0, 0, 0, &[])),
        ("output with a fault", reply(18, 42, 1, 1, 1, b"x")),
        ("words after the reply", reply(18, 41, 0, 0, 0, b"x")),
    ];
    for (name, frame) in cases {
        let trick = to_hex(&frame);
        let mut runner = sandbox(&world, &trick).start(&artefact, &limits).unwrap();
        assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::ChildDied, "{name}");
        assert!(runner.is_spent());
    }
    let mut endless = sandbox(&world, "endless").start(&artefact, &limits).unwrap();
    assert_eq!(no_result(&go(&mut endless, &[], b"")), NoResult::ChildDied);
    // Half a reply and then silence.
    let half = to_hex(&reply(18, 141, 0, 0, 100, b"half"));
    let mut silent = sandbox(&world, &half).start(&artefact, &limits).unwrap();
    assert_eq!(no_result(&go(&mut silent, &[], b"")), NoResult::Deadline);
    // The claims above fail for the right reason: an honest frame is taken.
    let honest = to_hex(&reply(18, 141, 0, 7, 100, &[5; 100]));
    let mut runner = sandbox(&world, &honest).start(&artefact, &limits).unwrap();
    assert_eq!(crate::world::result(&go(&mut runner, &[], b"")), (7, &[5; 100][..]));
}

fn said(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    [&[22][..], &length, bytes].concat()
}

fn nothing_is_heard_that_breaks_the_rules() {
    let world = World::new();
    let (module, wasm) = module(&program(""));
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    let limits = Limits { deadline_ms: 2000, output_max_bytes: 100, ..SMALL };
    let done = reply(18, 41, 0, 7, 0, b"");
    let hear = |frames: &[&[u8]], aloud| {
        let trick = to_hex(&frames.concat());
        let mut runner = sandbox(&world, &trick).start(&artefact, &limits).unwrap();
        let unit = potluck_sandbox::Unit { id: unit(0), args: &[], stdin: b"" };
        let mut heard = Vec::new();
        let run = match aloud {
            true => runner.run_aloud(&unit, &mut |bytes| heard.extend(bytes)),
            false => runner.run(&unit),
        };
        (run, heard)
    };
    let (run, heard) = hear(&[&said(&[1; 60]), &said(&[2; 40]), &done], true);
    assert_eq!(
        (crate::world::result(&run).0, heard),
        (7, [[1; 60].to_vec(), vec![2; 40]].concat())
    );
    for (name, frames, aloud, heard_bytes) in [
        ("output that nobody asked for", vec![&said(b"x")[..], &done], false, 0),
        ("one byte over the cap", vec![&said(&[1; 60]), &said(&[2; 41]), &done], true, 60),
        ("no bytes", vec![&said(b"x"), &said(b""), &done], true, 1),
        ("another tag", vec![&said(b"x"), &reply(99, 41, 0, 0, 0, b"")], true, 1),
    ] {
        let (run, heard) = hear(&frames, aloud);
        assert_eq!(no_result(&run), NoResult::ChildDied, "{name}");
        assert_eq!(heard.len(), heard_bytes, "{name}");
    }
}

/// The rest of a reply with an exit code of 0 and no output, whose files are these bytes and whose
/// standard error is `x`.
fn with_files(files: &[u8]) -> Vec<u8> {
    let length = u32::try_from(files.len()).unwrap();
    let rest = [&length.to_le_bytes(), files, b"x"].concat();
    reply(18, 41 + u32::try_from(rest.len()).unwrap(), 3, 0, 0, &rest)
}

fn files_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = u32::try_from(files.len()).unwrap().to_le_bytes().to_vec();
    for (path, contents) in files {
        bytes.extend(u16::try_from(path.len()).unwrap().to_le_bytes());
        bytes.extend(path.as_bytes());
        bytes.extend(u32::try_from(contents.len()).unwrap().to_le_bytes());
        bytes.extend(*contents);
    }
    bytes
}

fn no_files_that_break_the_rules_are_believed() {
    let world = World::new();
    let (module, wasm) = module(&program(""));
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    let limits = Limits { deadline_ms: 2000, out_max_bytes: 10, ..SMALL };
    let mut lying = with_files(&files_of(&[("a", b"x")]));
    lying[46] = 0xff;
    let cases = [
        ("no file at all", with_files(&files_of(&[]))),
        ("out of order", with_files(&files_of(&[("b", b""), ("a", b"")]))),
        ("twice", with_files(&files_of(&[("a", b""), ("a", b"")]))),
        ("a file in a file", with_files(&files_of(&[("a", b""), ("a/b", b"")]))),
        ("a way out", with_files(&files_of(&[("../a", b"")]))),
        ("from the root", with_files(&files_of(&[("/a", b"")]))),
        ("cut", with_files(&files_of(&[("a", b"x")])[..9])),
        ("more than said", with_files(&[&files_of(&[("a", b"x")])[..], b"y"].concat())),
        ("one byte over the quota", with_files(&files_of(&[("a", &[0; 10])]))),
        ("longer than the reply", lying),
        ("longer than any", reply(18, u32::MAX, 3, 0, 0, &[255, 255, 255, 127])),
        ("no length", reply(18, 43, 3, 0, 0, &[0, 0])),
    ];
    for (name, frame) in cases {
        let trick = to_hex(&frame);
        let mut runner = sandbox(&world, &trick).start(&artefact, &limits).unwrap();
        assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::ChildDied, "{name}");
        assert!(runner.is_spent());
    }
    // The claims above fail for the right reason: honest files are taken, if there is a quota.
    let honest = to_hex(&with_files(&files_of(&[("a", &[0; 9])])));
    let mut runner = sandbox(&world, &honest).start(&artefact, &limits).unwrap();
    let run = go(&mut runner, &[], b"");
    assert_eq!((crate::world::result(&run), &run.stderr[..]), ((0, &b""[..]), &b"x"[..]));
    let none = Limits { out_max_bytes: 0, ..limits };
    let mut runner = sandbox(&world, &honest).start(&artefact, &none).unwrap();
    assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::ChildDied);
}

fn a_child_that_never_reads_meets_the_deadline() {
    let world = World::new();
    let (module, wasm) = module(&program(""));
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    let limits = Limits { deadline_ms: 200, ..SMALL };
    let mut runner = sandbox(&world, "deaf").start(&artefact, &limits).unwrap();
    assert_eq!(no_result(&go(&mut runner, &[], &vec![0; 1 << 20])), NoResult::Deadline);
}

fn a_compiler_that_breaks_the_rules_is_no_result() {
    let world = World::new();
    let (module, wasm) = module(&program(""));
    let engine = [&[19, 32, 0, 0, 0][..], &[1; 32]].concat();
    for words in [
        Vec::new(),
        vec![19, 31, 0, 0, 0],
        vec![18, 32, 0, 0, 0],
        [&engine[..], &[20, 255, 255, 255, 255]].concat(),
        [&engine[..], &[17, 255, 255, 255, 255]].concat(),
        [&engine[..], &[20, 9, 0, 0, 0, 1]].concat(),
        [&engine[..], &[99, 0, 0, 0, 0]].concat(),
    ] {
        let trick = format!("start:{}", to_hex(&words));
        let refusal = sandbox(&world, &trick).prepare(&module, &wasm).unwrap_err();
        assert!(
            matches!(refusal, Refusal::NoResult(NoResult::ChildDied, _)),
            "{words:?}: {refusal:?}"
        );
    }
}

fn a_stranger_calling_itself_a_child_changes_nothing() {
    for args in [&["__sandbox"][..], &["__sandbox", "run"], &["__sandbox", "run", "x", "y"]] {
        let exit = std::process::Command::new(std::env::current_exe().unwrap())
            .args(args)
            .stdin(std::process::Stdio::null())
            .status();
        assert_eq!(exit.unwrap().code(), Some(64), "{args:?}");
    }
}
