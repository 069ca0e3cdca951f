//! Claims about what guests see and how they end.

use potluck_sandbox::Unit;
use potluck_unit::{Fault, Limits, NoResult, Outcome, RunReport};

use crate::claims;
use crate::world::{SMALL, World, fault, go, module, no_result, program, result, unit, witness};

claims![
    every_exit_code_is_an_answer,
    arguments_come_with_a_fixed_name,
    a_mebibyte_of_input_comes_back,
    standard_error_is_kept_and_cut,
    each_fault_is_reached,
    output_at_its_cap_is_fine_and_one_byte_more_is_not,
    output_is_heard_as_it_comes_and_makes_no_difference,
    memory_grows_to_its_cap_and_not_beyond,
    four_gibibytes_are_there_if_the_job_says_so,
    a_module_that_starts_above_its_cap_is_invalid,
    runaway_recursion_is_no_result,
    the_clock_moves_with_each_look_and_alike_in_two_runs,
    sleeping_takes_no_time,
    randomness_follows_the_unit,
    what_does_not_exist_says_so,
    wild_pointers_and_counts_are_error_numbers,
    a_start_function_may_call_out,
    data_and_bulk_memory_work_in_every_instance,
    nan_bits_are_canonical,
    result_and_witness_repeat_in_the_same_and_in_a_fresh_child,
    nothing_is_left_for_the_next_unit,
];

/// Writes `length` bytes of memory from `at` to descriptor `fd`.
fn write(fd: u32, at: u32, length: &str) -> String {
    format!(
        "(i32.store (i32.const 0) (i32.const {at})) (i32.store (i32.const 4) {length})
         (drop (call $fd_write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8)))"
    )
}

fn every_exit_code_is_an_answer() {
    let world = World::new();
    assert_eq!(result(&world.run(&program(""), &[], b"")), (0, &b""[..]));
    for code in [0, 7, 126, 255, 256, u32::MAX] {
        let body = format!("(call $proc_exit (i32.const {}))", code.cast_signed());
        assert_eq!(result(&world.run(&program(&body), &[], b"")), (code, &b""[..]));
    }
}

fn arguments_come_with_a_fixed_name() {
    let body = format!(
        "(drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
         (drop (call $args_get (i32.const 1024) (i32.const 2048)))
         {} {}",
        write(1, 16, "(i32.const 4)"),
        write(1, 2048, "(i32.load (i32.const 20))"),
    );
    let world = World::new();
    let run = world.run(&program(&body), &["one", "", "drei \u{fc}"], b"");
    assert_eq!(result(&run).1, "\u{4}\0\0\0task.wasm\0one\0\0drei \u{fc}\0".as_bytes());
}

const ECHO: &str = r"
    (loop $again
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 60000))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
      (br_if $again (i32.load (i32.const 8))))";

fn a_mebibyte_of_input_comes_back() {
    let world = World::new();
    let mut runner = world.runner(&program(ECHO), &SMALL);
    let long: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    for input in [&b""[..], b"hello", &long, &long[..65536], b"again"] {
        let run = go(&mut runner, &[], input);
        assert!(result(&run) == (0, input), "{} bytes", input.len());
    }
    assert!(!runner.is_spent());
}

fn standard_error_is_kept_and_cut() {
    let world = World::new();
    let run = world.run(&program(&write(2, 100, "(i32.const 5)")), &[], b"");
    assert_eq!((result(&run), &run.stderr[..]), ((0, &b""[..]), &[0; 5][..]));
    let much = write(2, 0, "(i32.const 65536)").repeat(3);
    assert_eq!(
        world.run(&program(&much), &[], b"").stderr.len(),
        potluck_sandbox::STDERR_MAX_BYTES
    );
    let trapped = format!("{} unreachable", write(2, 100, "(i32.const 5)"));
    assert_eq!(world.run(&program(&trapped), &[], b"").stderr, [0; 5]);
}

fn output_is_heard_as_it_comes_and_makes_no_difference() {
    let world = World::new();
    let body = [write(1, 16, "(i32.const 3)"), write(1, 0, "(i32.const 0)")].concat();
    let body =
        format!("{body} {} {}", write(1, 0, "(i32.const 65536)"), write(2, 0, "(i32.const 1)"));
    let mut runner = world.runner(&program(&body), &SMALL);
    let unit = Unit { id: unit(0), args: &[], stdin: b"" };
    let plain = runner.run(&unit);
    let mut lengths = Vec::new();
    let mut heard = Vec::new();
    let aloud = runner.run_aloud(&unit, &mut |bytes| {
        lengths.push(bytes.len());
        heard.extend(bytes);
    });
    assert_eq!((&aloud.report, &aloud.stderr), (&plain.report, &plain.stderr));
    assert_eq!((lengths, &heard[..]), (vec![3, 65536], result(&plain).1));
    // What was said before a fault was said.
    let body = format!("{} unreachable", write(1, 16, "(i32.const 3)"));
    let mut heard = 0;
    let mut runner = world.runner(&program(&body), &SMALL);
    assert_eq!(
        fault(&runner.run_aloud(&unit, &mut |bytes| heard += bytes.len())),
        Fault::Unreachable
    );
    assert_eq!(heard, 3);
}

fn each_fault_is_reached() {
    let world = World::new();
    let cases = [
        (Fault::Unreachable, "unreachable"),
        (Fault::MemoryOutOfBounds, "(drop (i32.load (i32.const 65533)))"),
        (Fault::TableOutOfBounds, "(call_indirect (i32.const 9))"),
        (Fault::IndirectCallToNull, "(call_indirect (i32.const 0))"),
        (Fault::BadSignature, "(call_indirect (i32.const 1))"),
        (Fault::IntegerOverflow, "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))"),
        (Fault::IntegerDivisionByZero, "(drop (i32.div_u (i32.const 1) (i32.const 0)))"),
        (Fault::BadConversionToInteger, "(drop (i32.trunc_f32_s (f32.const nan)))"),
    ];
    for (kind, body) in cases {
        let text = format!(
            "(module (memory (export \"memory\") 1) (table 2 funcref) (elem (i32.const 1) $other)
               (func $other (param i32)) (func (export \"_start\") {body}))"
        );
        let mut runner = world.runner(&text, &SMALL);
        assert_eq!(fault(&go(&mut runner, &[], b"")), kind);
        assert!(runner.is_spent());
    }
    // Segments that do not fit are found before the first instruction.
    let data = r#"(module (memory 1) (data (i32.const 65536) "x") (func (export "_start")))"#;
    assert_eq!(fault(&world.run(data, &[], b"")), Fault::MemoryOutOfBounds);
    let elements = r#"(module (table 1 funcref) (elem (i32.const 1) $f)
                       (func $f (export "_start")))"#;
    assert_eq!(fault(&world.run(elements, &[], b"")), Fault::TableOutOfBounds);
    let (module, wasm) = module("(module)");
    let refusal = world.sandbox.prepare(&module, &wasm).unwrap_err();
    assert_eq!(refusal.to_string(), "does not export `_start`: not a WASI command");
    let RunReport::Done { outcome: Outcome::Fault(Fault::InvalidModule), .. } = refusal.report()
    else {
        panic!("{refusal:?}");
    };
}

fn output_at_its_cap_is_fine_and_one_byte_more_is_not() {
    let world = World::new();
    let limits = Limits { output_max_bytes: 100_000, ..SMALL };
    let rest = |length: u32| format!("(i32.const {length})");
    let body = |last| program(&(write(1, 0, &rest(60_000)) + &write(1, 0, &rest(last))));
    let fits = go(&mut world.runner(&body(40_000), &limits), &[], b"");
    assert_eq!(result(&fits).1.len(), 100_000);
    let over = go(&mut world.runner(&body(40_001), &limits), &[], b"");
    assert_eq!(fault(&over), Fault::OutputTooLarge);
}

fn memory_grows_to_its_cap_and_not_beyond() {
    // 16 MiB are 256 pages, of which one is there. Exit code: what growing by 255 and then by 1
    // answers, as two bytes.
    let body = "(local.set $n (memory.grow (i32.const 255)))
                (local.set $m (memory.grow (i32.const 1)))
                (i32.store8 (i32.const 0xffffff) (i32.const 1))
                (call $proc_exit (i32.or (i32.shl (local.get $n) (i32.const 8))
                                         (i32.and (local.get $m) (i32.const 0xff))))";
    let world = World::new();
    assert_eq!(result(&world.run(&program(body), &[], b"")).0, 0x1ff);
    let own_maximum = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (memory (export "memory") 1 2)
        (func (export "_start") (call $proc_exit (memory.grow (i32.const 2)))))"#;
    assert_eq!(result(&world.run(own_maximum, &[], b"")).0, u32::MAX);
    let table = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (table 1 funcref)
        (func (export "_start")
          (drop (table.grow (ref.null func) (i32.const 99999)))
          (call $proc_exit (table.grow (ref.null func) (i32.const 1)))))"#;
    assert_eq!(result(&world.run(table, &[], b"")).0, u32::MAX);
}

fn four_gibibytes_are_there_if_the_job_says_so() {
    let world = World::new();
    let limits = Limits { memory_max_bytes: Limits::MEMORY_MAX_BYTES, ..SMALL };
    let body = "(local.set $n (memory.grow (i32.const 65535)))
                (i32.store8 (i32.const -1) (i32.const 1))
                (if (i32.ne (local.get $n) (i32.const 1)) (then unreachable)) unreachable";
    // The trap at the end spares us hashing it all.
    let run = go(&mut world.runner(&program(body), &limits), &[], b"");
    assert_eq!(fault(&run), Fault::Unreachable);
}

fn a_module_that_starts_above_its_cap_is_invalid() {
    let world = World::new();
    let (module, wasm) = module(r#"(module (memory 257) (func (export "_start")))"#);
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    let error = world.sandbox.start(&artefact, &SMALL).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bytes of memory at the start: 16842752, and the limit is 16777216"
    );
    assert!(matches!(error.report(), RunReport::Done { .. }));
}

fn runaway_recursion_is_no_result() {
    let world = World::new();
    let text = r#"(module (func $f (export "_start") (call $f) (call $f)))"#;
    let run = world.run(text, &[], b"");
    assert_eq!(no_result(&run), NoResult::StackOverflow);
}

fn the_clock_moves_with_each_look_and_alike_in_two_runs() {
    let look = |id: u32, to: u32| {
        format!("(drop (call $clock_time_get (i32.const {id}) (i64.const 0) (i32.const {to})))")
    };
    let body = [look(0, 16), look(0, 24), look(1, 32), write(1, 16, "(i32.const 24)")].concat();
    let world = World::new();
    let run = world.run(&program(&body), &[], b"");
    let shown: Vec<u64> =
        result(&run).1.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    assert_eq!(shown, [1_767_225_600_000_000_000, 1_767_225_600_000_001_000, 1_000_002_000]);
    assert_eq!(world.run(&program(&body), &[], b"").report, run.report);
}

fn sleeping_takes_no_time() {
    // One subscription: the monotonic clock, an hour from now.
    let body = "(i32.store (i32.const 116) (i32.const 1))
                (i64.store (i32.const 124) (i64.const 3600000000000))
                (drop (call $poll_oneoff (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 300)))
                (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 16)))
                (call $proc_exit (i32.wrap_i64
                  (i64.div_u (i64.load (i32.const 16)) (i64.const 1000000000))))";
    assert_eq!(result(&World::new().run(&program(body), &[], b"")).0, 3601);
}

fn randomness_follows_the_unit() {
    let body = "(drop (call $random_get (i32.const 100) (i32.const 8)))
                (drop (call $random_get (i32.const 108) (i32.const 8)))"
        .to_owned()
        + &write(1, 100, "(i32.const 16)");
    let world = World::new();
    let mut runner = world.runner(&program(&body), &SMALL);
    let mut bytes =
        |index| result(&runner.run(&Unit { id: unit(index), args: &[], stdin: b"" })).1.to_vec();
    let first = bytes(0);
    assert_ne!(first[..8], first[8..]);
    assert_ne!(first, bytes(1));
    assert_eq!(first, bytes(0));
}

/// A program whose exit code is what this call answers.
fn answer(call: &str) -> u32 {
    result(&World::new().run(&program(&format!("(call $proc_exit {call})")), &[], b"")).0
}

fn what_does_not_exist_says_so() {
    let zero = "(i32.const 0)";
    assert_eq!(answer("(call $fd_prestat_get (i32.const 3) (i32.const 0))"), 8);
    assert_eq!(answer(&format!("(call $fd_seek (i32.const 1) (i64.const 0) {zero} {zero})")), 70);
    assert_eq!(answer(&format!("(call $fd_seek (i32.const 3) (i64.const 0) {zero} {zero})")), 8);
    let six = format!("{zero} {zero} {zero} {zero} {zero} {zero}");
    assert_eq!(answer(&format!("(call $sock_recv {six})")), 57);
    let twice = "(i32.add (call $fd_close (i32.const 1)) (call $fd_close (i32.const 1)))";
    assert_eq!(answer(twice), 8);
    assert_eq!(answer(&format!("(call $fd_write {zero} {zero} {zero} {zero})")), 8);
}

fn wild_pointers_and_counts_are_error_numbers() {
    let (zero, wild) = ("(i32.const 0)", "(i32.const -1)");
    for (call, errno) in [
        (format!("(call $random_get {wild} {zero})"), 21),
        (format!("(call $random_get {zero} {wild})"), 21),
        (format!("(call $fd_write (i32.const 1) {zero} {wild} {zero})"), 21),
        (format!("(call $fd_write (i32.const 1) {wild} (i32.const 1) {zero})"), 21),
        (format!("(call $fd_read {zero} {zero} {wild} {zero})"), 21),
        (format!("(call $args_get {wild} {zero})"), 21),
        (format!("(call $args_get {zero} {wild})"), 21),
        (format!("(call $args_sizes_get {wild} {wild})"), 21),
        (format!("(call $poll_oneoff {zero} {zero} {wild} {zero})"), 28),
        (format!("(call $poll_oneoff {zero} {zero} (i32.const 1025) {zero})"), 28),
        (format!("(call $poll_oneoff {zero} {zero} {zero} {zero})"), 28),
        (format!("(call $poll_oneoff {wild} {zero} (i32.const 1) {zero})"), 21),
        (format!("(call $poll_oneoff {zero} {wild} (i32.const 1) {zero})"), 21),
        (format!("(call $clock_time_get (i32.const 4) (i64.const 0) {zero})"), 28),
        (format!("(call $clock_time_get {zero} (i64.const 0) (i32.const 65529))"), 21),
    ] {
        assert_eq!(answer(&call), errno, "{call}");
    }
    // No memory at all: nothing to point to.
    let bare = r#"(module
        (import "wasi_snapshot_preview1" "random_get" (func $get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (func (export "_start") (call $proc_exit (call $get (i32.const 0) (i32.const 0)))))"#;
    assert_eq!(result(&World::new().run(bare, &[], b"")).0, 21);
}

fn a_start_function_may_call_out() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
          (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "\08\00\00\00\05\00\00\00early")
        (func $early (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
        (start $early) (func (export "_start")))"#;
    assert_eq!(result(&World::new().run(text, &[], b"")).1, b"early");
}

fn data_and_bulk_memory_work_in_every_instance() {
    let body = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
          (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 3) (data (i32.const 0) "\00\00\01\00\05\00\00\00")
        (data (i32.const 65536) "hello") (data $passive "J")
        (func (export "_start")
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
          (memory.init $passive (i32.const 65536) (i32.const 0) (i32.const 1))
          (memory.copy (i32.const 131072) (i32.const 65536) (i32.const 5))
          (i32.store (i32.const 0) (i32.const 131072))
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#;
    let mut runner = World::new().runner(body, &SMALL);
    for _ in 0..3 {
        assert_eq!(result(&go(&mut runner, &[], b"")).1, b"helloJello");
    }
}

fn nan_bits_are_canonical() {
    let body = "(f64.store (i32.const 100) (f64.div (f64.load (i32.const 200)) (f64.load (i32.const 200))))".to_owned()
        + &write(1, 100, "(i32.const 8)");
    let run = World::new().run(&program(&body), &[], b"");
    assert_eq!(result(&run).1, 0x7ff8_0000_0000_0000_u64.to_le_bytes());
}

fn result_and_witness_repeat_in_the_same_and_in_a_fresh_child() {
    let body = "(drop (call $random_get (i32.const 4096) (i32.const 30000)))
                (drop (memory.grow (i32.const 9)))"
        .to_owned()
        + ECHO
        + &write(1, 4096, "(i32.const 30000)");
    let world = World::new();
    let mut runner = world.runner(&program(&body), &SMALL);
    let first = go(&mut runner, &["x"], b"input");
    assert_eq!(go(&mut runner, &["x"], b"input").report, first.report);
    assert_eq!(world.run(&program(&body), &["x"], b"input").report, first.report);
    assert_eq!(World::new().run(&program(&body), &["x"], b"input").report, first.report);
    // The output hides what the memory shows.
    let quiet = program("(i32.store (i32.const 99) (i32.const 1))");
    let other = program("(i32.store (i32.const 99) (i32.const 2))");
    let (one, two) = (world.run(&quiet, &[], b""), world.run(&other, &[], b""));
    assert_eq!(result(&one), result(&two));
    assert_ne!(witness(&one), witness(&two));
    // Ending by itself and by `proc_exit(0)` leave the same, and are the same.
    let exit = program("(i32.store (i32.const 99) (i32.const 1)) (call $proc_exit (i32.const 0))");
    assert_eq!(world.run(&exit, &[], b"").report, one.report);
}

fn nothing_is_left_for_the_next_unit() {
    // Exit code: what was in memory, a global and a grown page before this unit wrote there.
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (memory (export "memory") 1) (global $g (mut i32) (i32.const 0))
        (func (export "_start") (local $before i32)
          (drop (memory.grow (i32.const 20)))
          (local.set $before (i32.or (global.get $g)
            (i32.or (i32.load (i32.const 1000)) (i32.load (i32.const 1300000)))))
          (global.set $g (i32.const 1))
          (i32.store (i32.const 1000) (i32.const 2)) (i32.store (i32.const 1300000) (i32.const 4))
          (call $proc_exit (local.get $before))))"#;
    let mut runner = World::new().runner(text, &SMALL);
    for _ in 0..5 {
        assert_eq!(result(&go(&mut runner, &[], b"")).0, 0);
    }
}
