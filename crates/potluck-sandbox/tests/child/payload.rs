//! Claims about payloads of any size, both ways, and about children that lie about them.

use std::process::ExitCode;
use std::time::Duration;

use potluck_sandbox::Run;
use potluck_unit::{Limits, NoResult, Outcome, RunReport};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::claims;
use crate::hostile::{hex, reply, sandbox, to_hex};
use crate::world::{SMALL, World, go, module, no_result, program, result};

claims![
    payloads_around_the_bounds_come_back_whole,
    large_and_small_payloads_take_turns,
    no_lie_about_a_payload_in_shared_memory_is_believed,
    a_reply_that_changes_while_it_is_read_is_one_or_the_other,
];

/// Says back all of its input, which starts at 64 KiB.
const ECHO: &str = "
    (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 0x200000))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";

fn echo() -> String {
    program(ECHO).replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 40)")
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ at >> 8 ^ at >> 16 ^ length).to_le_bytes()[0]).collect()
}

fn payloads_around_the_bounds_come_back_whole() {
    let mut runner = World::new().runner(&echo(), &SMALL);
    // A request of 64 KiB has 36 bytes less of input, and a reply 41 bytes less of output.
    let threshold = 64 << 10;
    let around = (threshold - 44..threshold - 34).chain(threshold - 2..threshold + 3);
    for length in [0, 1, 4096].into_iter().chain(around).chain([(1 << 20) - 1, 2 << 20]) {
        let sent = bytes(length);
        let run = go(&mut runner, &[], &sent);
        assert!(result(&run).1 == sent, "{length}");
    }
}

fn large_and_small_payloads_take_turns() {
    let mut runner = World::new().runner(&echo(), &SMALL);
    for round in 0..40 {
        let sent = bytes(if round % 3 == 0 { (2 << 20) - round } else { round });
        let run = go(&mut runner, &["an argument"], &sent);
        assert!(result(&run).1 == sent, "{round}");
    }
}

/// A child that finds the shared memory on its third descriptor, puts `payload` there, says
/// `header`, and goes on putting `payloads` there in turns.
pub(crate) fn child(trick: &str) -> ExitCode {
    let mut words = trick.split(':').map(hex);
    let header = words.next().unwrap();
    let payloads: Vec<Vec<u8>> = words.collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let slices = &mut [std::io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(rustix::stdio::stderr(), slices, &mut control, RecvFlags::empty())
        .unwrap();
    let Some(RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next() else {
        return ExitCode::FAILURE;
    };
    let memory = files.nth(1).unwrap();
    let to_parent = rustix::stdio::stdout();
    rustix::io::write(to_parent, &[16, 0, 0, 0, 0]).unwrap();
    rustix::io::read(rustix::stdio::stdin(), &mut [0_u8; 41]).unwrap();
    let put = |payload: &Vec<u8>| {
        rustix::io::pwrite(&memory, payload, 0).unwrap();
    };
    put(&payloads[0]);
    rustix::io::write(to_parent, &header).unwrap();
    if payloads.len() == 1 {
        std::thread::sleep(Duration::from_secs(60));
    }
    loop {
        payloads.iter().for_each(put);
    }
}

/// What a child that misbehaves so comes to, which may put out 100,000 bytes.
fn run(world: &World, header: &[u8], payloads: &[&[u8]]) -> Run {
    let (module, wasm) = module(&program(""));
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    let limits = Limits { deadline_ms: 10_000, output_max_bytes: 100_000, ..SMALL };
    let words: Vec<String> = [header].iter().chain(payloads).map(|bytes| to_hex(bytes)).collect();
    let trick = format!("beside:{}", words.join(":"));
    go(&mut sandbox(world, &trick).start(&artefact, &limits).unwrap(), &[], b"")
}

/// The header of a reply in shared memory that claims this length, and a payload that claims so
/// much output.
fn lie(length: u32, stdout: u32) -> (Vec<u8>, Vec<u8>) {
    let mut frame = reply(0x80 | 18, length, 0, 0, stdout, b"output");
    let payload = frame.split_off(5);
    (frame, payload)
}

fn no_lie_about_a_payload_in_shared_memory_is_believed() {
    let world = World::new();
    for (name, length, stdout) in [
        ("too short", 40, 0),
        ("more output than reply", 41, 1),
        ("more output than reply by far", 41 + 100_000, u32::MAX),
        ("output one over its cap", 41 + 100_001, 100_001),
        ("standard error one over its cap", 41 + 65_537, 0),
        ("longer than the memory", u32::MAX, 100_000),
    ] {
        let (header, payload) = lie(length, stdout);
        assert_eq!(no_result(&run(&world, &header, &[&payload])), NoResult::ChildDied, "{name}");
    }
    let (mut header, payload) = lie(41, 0);
    header.push(0);
    let run_on = run(&world, &header, &[&payload]);
    assert_eq!(no_result(&run_on), NoResult::ChildDied, "words after the reply");
    // The claims above fail for the right reason: an honest frame is taken, of any size.
    for length in [6, 100_000] {
        let (header, payload) = lie(41 + length, length);
        let honest = run(&world, &header, &[&payload]);
        let stdout = result(&honest).1;
        assert!(stdout.len() == length as usize && stdout.starts_with(b"output"));
    }
}

fn a_reply_that_changes_while_it_is_read_is_one_or_the_other() {
    let world = World::new();
    let (header, good) = lie(41 + 100_000, 100_000);
    let (_, bad) = lie(0, u32::MAX);
    for _ in 0..5 {
        match run(&world, &header, &[&good, &bad]).report {
            RunReport::Done { outcome: Outcome::Result { stdout, .. }, .. } => {
                assert_eq!(stdout.len(), 100_000);
            }
            RunReport::NoResult(reason) => assert_eq!(reason, NoResult::ChildDied),
            other @ RunReport::Done { .. } => panic!("not what was sent: {other:?}"),
        }
    }
}
