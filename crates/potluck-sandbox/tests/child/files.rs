//! Claims about what is the sandbox's own: the job's input files, the folder `/out` with its quota,
//! and what of it becomes a result.

use std::sync::Arc;

use potluck_sandbox::{InputFile, StartError};
use potluck_unit::{Limits, NoResult, OutFile, Outcome, RunReport};

use crate::claims;
use crate::script::*;
use crate::world::{SMALL, World, go, module, program, witness};

claims![
    input_files_are_there_for_every_unit,
    nobody_changes_an_input_file_or_its_folders,
    input_files_that_cannot_be_are_refused_with_a_reason,
    what_is_left_in_out_is_the_result,
    a_fault_leaves_no_files,
    a_witness_covers_the_files,
    a_quota_counts_contents_and_paths_to_the_byte,
    what_is_given_back_can_be_used_again,
    renaming_pays_for_longer_paths,
    ten_thousand_files_fit_and_one_more_does_not,
    paths_are_bounded_however_they_are_made,
    sixty_mebibytes_of_files_come_back_whole,
    the_worst_files_that_fit_come_back,
    no_argument_whatever_harms_the_child,
];

fn input_files_are_there_for_every_unit() {
    let mut script = Script::new()
        .with_file("data.txt", b"words")
        .with_file("a/b/c", b"deep")
        .with_file("a/x", b"");
    script.opens(4, 3, "data.txt", 0, READ | SEEK, 0);
    script.reads(4, None, b"words");
    script.reads(4, Some(3), b"ds");
    script.seeks(4, -1, 2, 4);
    script.reads(4, None, b"s");
    script.opens(5, 3, "a/b", FOLDER, ALL, 0);
    script.opens(6, 5, "c", 0, READ, 0);
    script.reads(6, None, b"deep");
    script.is_there(3, "a", 3, 0);
    script.is_there(3, "a/x", 4, 0);
    // Without a quota there is no folder to write to.
    script.is_missing(3, "out");
    let (run, files) = script.ends();
    assert!(files.is_empty());
    assert!(matches!(run.report, RunReport::Done { .. }));
}

fn nobody_changes_an_input_file_or_its_folders() {
    let mut script = Script::in_out().with_file("data", b"words").with_file("dir/file", b"x");
    let pair = |a: &'static str, b: &'static str| [I(3), path(a), I(3), path(b)];
    for how in [0, CREATE, TRUNCATE] {
        script.open(ROFS, 3, "data", how, READ | WRITE, 0);
    }
    script.open(ROFS, 3, "data", TRUNCATE, READ, 0);
    script.open(EXIST, 3, "data", CREATE | EXCLUSIVE, READ, 0);
    script.open(ROFS, 3, "new", CREATE, READ, 0);
    script.open(ROFS, 3, "dir/new", CREATE | TRUNCATE, WRITE, 0);
    // It can be opened without the right to write, and then everything else is refused too.
    script.opens(5, 3, "data", CREATE, ALL & !WRITE, 0);
    script.writes(BADF, 5, None, b"x");
    script.call(ROFS, "fd_filestat_set_size", &[I(5), L(1)]);
    script.call(ROFS, "fd_allocate", &[I(5), L(0), L(1)]);
    script.call(ROFS, "fd_filestat_set_times", &[I(5), L(0), L(0), I(1)]);
    script.call(ROFS, "path_create_directory", &[I(3), path("new")]);
    script.call(EXIST, "path_create_directory", &[I(3), path("dir")]);
    script.call(ROFS, "path_unlink_file", &[I(3), path("data")]);
    script.call(NOENT, "path_unlink_file", &[I(3), path("missing")]);
    script.call(ROFS, "path_remove_directory", &[I(3), path("dir")]);
    script.call(ROFS, "path_remove_directory", &[I(3), path("out")]);
    script.call(ROFS, "path_rename", &pair("data", "out/data"));
    script.call(ROFS, "path_rename", &pair("dir", "out/dir"));
    script.call(ROFS, "path_rename", &pair("out", "other"));
    script.touch(4, "own", 6);
    script.call(ROFS, "path_rename", &pair("out/own", "own"));
    script.call(ROFS, "path_rename", &pair("out/own", "data"));
    script.reads(5, Some(0), b"words");
    let files = script.run();
    assert_eq!(files.len(), 1);
}

fn input_files_that_cannot_be_are_refused_with_a_reason() {
    let world = World::new();
    let (module, wasm) = module(&program(""));
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    let start = |paths: &[&str], out_max_bytes| {
        let file = |path: &&str| InputFile { path: (*path).to_owned(), bytes: Arc::from(&b""[..]) };
        let files: Vec<InputFile> = paths.iter().map(file).collect();
        let limits = Limits { out_max_bytes, ..SMALL };
        match world.sandbox.start_with(&artefact, &limits, &files) {
            Ok(_) => String::new(),
            Err(StartError::NoResult(NoResult::Engine, text)) => text,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(start(&["a", "b/c", "out/x"], 0), "");
    assert_eq!(start(&["a", "a/b"], 0), "two input files need the path `a`");
    assert!(start(&["../a"], 0).contains("`../a`"));
    assert!(start(&["out"], 1).contains("`/out` is the unit's own folder"));
    assert!(start(&[], Limits::OUT_MAX_BYTES).contains("/out"));
}

fn what_is_left_in_out_is_the_result() {
    let mut script = Script::in_out().with_file("input", b"not this");
    script.call(0, "path_create_directory", &[I(4), path("b")]);
    script.call(0, "path_create_directory", &[I(4), path("empty")]);
    for (name, bytes) in [("b/z", &b"first"[..]), ("b!", b"second"), ("a", b""), ("gone", b"x")] {
        script.opens(5, 4, name, CREATE, WRITE, 0);
        script.writes(0, 5, None, bytes);
        script.call(0, "fd_close", &[I(5)]);
    }
    // Open and unlinked is not there; open and there is.
    script.opens(5, 4, "gone", 0, READ, 0);
    script.call(0, "path_unlink_file", &[I(4), path("gone")]);
    script.opens(6, 4, "a", 0, READ, 0);
    let (run, files) = script.ends();
    let file = |path: &str, bytes: &[u8]| OutFile { path: path.to_owned(), bytes: bytes.to_vec() };
    assert_eq!(files, [file("a", b""), file("b!", b"second"), file("b/z", b"first")]);
    let RunReport::Done { outcome, .. } = run.report else { panic!("no outcome") };
    assert_eq!(Outcome::of_body(&outcome.to_body()), Ok(outcome));
}

fn a_fault_leaves_no_files() {
    let mut script = Script::in_out();
    script.touch(4, "file", 5);
    script.code("unreachable");
    let run = go(&mut script.runner(), &[], b"");
    let RunReport::Done { outcome: Outcome::Fault(_), .. } = run.report else {
        panic!("{:?}", run.report)
    };
}

fn a_witness_covers_the_files() {
    let left = |name: &str, bytes: u64| {
        let mut script = Script::new().with_out(100);
        script.opens(4, 3, name, CREATE, ALL, 0);
        script.call(0, "fd_filestat_set_size", &[I(4), L(bytes)]);
        let (run, files) = script.ends();
        assert_eq!(files.len(), 1);
        witness(&run)
    };
    assert_eq!(left("out/a", 1), left("out/a", 1));
    assert_ne!(left("out/a", 1), left("out/a", 2));
    assert_ne!(left("out/a", 1), left("out/b", 1));
}

fn a_quota_counts_contents_and_paths_to_the_byte() {
    // `d` and `d/file` are seven bytes of paths, so three are left.
    let mut script = Script::new().with_out(10);
    script.call(0, "path_create_directory", &[I(3), path("out/d")]);
    script.opens(4, 3, "out/d/file", CREATE, ALL, 0);
    script.writes(0, 4, None, b"12");
    script.writes(NOSPC, 4, None, b"34");
    script.has_size(4, 2);
    script.writes(0, 4, None, b"3");
    script.writes(NOSPC, 4, None, b"4");
    script.writes(NOSPC, 4, Some(3), b"4");
    script.call(NOSPC, "fd_filestat_set_size", &[I(4), L(4)]);
    script.call(NOSPC, "fd_allocate", &[I(4), L(0), L(4)]);
    script.open(NOSPC, 3, "out/x", CREATE, READ, 0);
    script.is_missing(3, "out/x");
    script.call(NOSPC, "path_create_directory", &[I(3), path("out/x")]);
    // What is there may be written over.
    script.writes(0, 4, Some(0), b"abc");
    script.reads(4, Some(0), b"abc");
    let files = script.run();
    assert_eq!(files, [OutFile { path: "d/file".to_owned(), bytes: b"abc".to_vec() }]);
    // One byte less, and the file does not even get its name.
    let mut script = Script::new().with_out(6);
    script.call(0, "path_create_directory", &[I(3), path("out/d")]);
    script.open(NOSPC, 3, "out/d/file", CREATE, ALL, 0);
    script.opens(4, 3, "out/d/fil", CREATE, ALL, 0);
    script.run();
}

fn what_is_given_back_can_be_used_again() {
    let mut script = Script::new().with_out(10);
    for _ in 0..3 {
        script.opens(4, 3, "out/f", CREATE, ALL, 0);
        script.writes(0, 4, None, b"123456789");
        script.call(0, "fd_filestat_set_size", &[I(4), L(1)]);
        script.writes(0, 4, Some(1), b"23456789");
        // Unlinked, it gives back its name; closed, its contents.
        script.call(0, "path_unlink_file", &[I(3), path("out/f")]);
        script.opens(5, 3, "out/g", CREATE, ALL, 0);
        script.writes(NOSPC, 5, None, b"1");
        script.call(0, "fd_close", &[I(4)]);
        script.writes(0, 5, None, b"1");
        script.opens(4, 3, "out/g", TRUNCATE, ALL, 0);
        script.writes(0, 4, None, b"123456789");
        script.call(0, "path_unlink_file", &[I(3), path("out/g")]);
        script.call(0, "fd_close", &[I(4)]);
        script.call(0, "fd_renumber", &[I(3), I(5)]);
        script.call(0, "fd_renumber", &[I(5), I(5)]);
        script.opens(3, 5, ".", FOLDER, ALL, 0);
        script.call(0, "fd_close", &[I(5)]);
    }
    assert!(script.run().is_empty());
}

fn renaming_pays_for_longer_paths() {
    let mut script = Script::new().with_out(16);
    let pair = |a: &'static str, b: &'static str| [I(3), path(a), I(3), path(b)];
    // Three paths: d, d/a, d/b. Each byte more for `d` costs three.
    script.call(0, "path_create_directory", &[I(3), path("out/d")]);
    script.touch(3, "out/d/a", 4);
    script.touch(3, "out/d/b", 4);
    script.call(0, "path_rename", &pair("out/d", "out/ddd"));
    script.call(NOSPC, "path_rename", &pair("out/ddd", "out/ddddd"));
    script.is_there(3, "out/ddd/a", 4, 0);
    script.call(0, "path_rename", &pair("out/ddd", "out/d"));
    // 7 of 16 are used. Nine bytes are exactly what is left.
    script.opens(4, 3, "out/d/a", 0, ALL, 0);
    script.writes(0, 4, None, b"123456789");
    script.call(NOSPC, "path_rename", &pair("out/d/b", "out/d/bb"));
    // What is replaced is given back first.
    script.call(0, "path_rename", &pair("out/d/b", "out/d/a"));
    script.is_there(3, "out/d/a", 4, 0);
    script.call(0, "fd_close", &[I(4)]);
    script.call(0, "path_rename", &pair("out/d/a", "out/d/nine-more"));
    let files = script.run();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].path, "d/nine-more");
}

/// Code that makes the files `0000` to `2710` and so on, in base 16, until one is refused, and
/// leaves the number that were made in `$n`.
fn makes_many(most: u32) -> String {
    let digit = |shift: u32, at: u32| {
        format!(
            "(i32.store8 (i32.const {at}) (i32.add (i32.const 97)
               (i32.and (i32.shr_u (local.get $n) (i32.const {shift})) (i32.const 15))))"
        )
    };
    let digits: String = (0..4).map(|n| digit(12 - 4 * n, TO + n)).collect();
    format!(
        "(local.set $n (i32.const 0))
         (block $full (loop $more {digits}
           (br_if $full (call $path_open (i32.const 4) (i32.const 0) (i32.const {TO}) (i32.const 4)
             (i32.const 1) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const {})))
           (drop (call $fd_close (i32.const 5)))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const {most})))))
         (i32.store (i32.const {}) (local.get $n))",
        TO + 8,
        TO + 16
    )
}

fn ten_thousand_files_fit_and_one_more_does_not() {
    let mut script = Script::in_out();
    script.code(&makes_many(20_000));
    script.holds_u32(TO + 16, Limits::OUT_FILES_MAX);
    script.open(NOSPC, 4, "one more", CREATE, READ, 0);
    script.call(NOSPC, "path_create_directory", &[I(4), path("one more")]);
    // An unlinked file counts until it is closed.
    script.opens(5, 4, "aaaa", 0, READ, 0);
    script.call(0, "path_unlink_file", &[I(4), path("aaaa")]);
    script.open(NOSPC, 4, "one more", CREATE, READ, 0);
    script.call(0, "fd_close", &[I(5)]);
    script.opens(5, 4, "one more", CREATE, READ, 0);
    assert_eq!(script.run().len(), Limits::OUT_FILES_MAX as usize);
}

fn paths_are_bounded_however_they_are_made() {
    let name = "n".repeat(255);
    let mut script = Script::in_out();
    // Folder below folder by descriptors: 16 names of 255 bytes and their slashes.
    for depth in 0..16 {
        script.call(0, "path_create_directory", &[I(4 + depth), path(&name)]);
        script.opens(5 + depth, 4 + depth, &name, FOLDER, ALL, 0);
    }
    script.call(NAMETOOLONG, "path_create_directory", &[I(20), path("x")]);
    script.open(NAMETOOLONG, 20, "x", CREATE, READ, 0);
    script.touch(4, "x", 21);
    script.call(NAMETOOLONG, "path_rename", &[I(4), path("x"), I(20), path("x")]);
    // Or by moving a folder that holds a long path.
    script.call(0, "path_create_directory", &[I(4), path("a")]);
    let within = format!("a/{name}");
    script.call(NAMETOOLONG, "path_rename", &[I(4), path(&name), I(4), path(&within)]);
    script.call(0, "path_rename", &[I(4), path(&name), I(4), path("b")]);
    script.run();
    // 64 parts and no more.
    let mut script = Script::in_out();
    let deep = vec!["d"; 64].join("/");
    for depth in 1..=64 {
        script.call(0, "path_create_directory", &[I(4), path(&deep[..2 * depth - 1])]);
    }
    script.call(NAMETOOLONG, "path_create_directory", &[I(4), path(&(deep.clone() + "/d"))]);
    script.call(0, "path_create_directory", &[I(4), path("e")]);
    script.call(NAMETOOLONG, "path_rename", &[I(4), path("d"), I(4), path("e/d")]);
    script.run();
}

fn sixty_mebibytes_of_files_come_back_whole() {
    // Three files that grow by turns, so that none can grow in place, in steps of 1 MiB that start
    // with their number.
    let mut script = Script::new().with_out(Limits::OUT_MAX_BYTES - SMALL.output_max_bytes);
    for (fd, name) in [(4, "out/a"), (5, "out/b"), (6, "out/c")] {
        script.opens(fd, 3, name, CREATE, ALL, 0);
    }
    script.vectors(&[(LARGE, 1 << 20)]);
    script.code(&format!(
        "(loop $more
           (i32.store (i32.const {LARGE}) (local.get $n))
           (local.set $m (i32.or (local.get $m) (call $fd_write
             (i32.add (i32.const 4) (i32.rem_u (local.get $n) (i32.const 3)))
             (i32.const 64) (i32.const 1) (i32.const {TO}))))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $n) (i32.const 60))))
         (i32.store (i32.const {TO}) (local.get $m))"
    ));
    script.holds_u32(TO, 0);
    let files = script.run();
    assert_eq!(files.len(), 3);
    for (file, number) in files.iter().zip(0..) {
        assert_eq!(file.bytes.len(), 20 << 20);
        let (steps, _) = file.bytes.as_chunks::<{ 1 << 20 }>();
        for (step, at) in steps.iter().zip(0..) {
            assert_eq!(step[..4], u32::to_le_bytes(3 * at + number));
        }
    }
}

fn the_worst_files_that_fit_come_back() {
    // As many empty files as there may be, with paths as long as the quota allows.
    let mut script = Script::new().with_out(Limits::OUT_MAX_BYTES - SMALL.output_max_bytes);
    let name = "n".repeat(255);
    script.call(0, "path_create_directory", &[I(3), path(&format!("out/{name}"))]);
    script.opens(4, 3, &format!("out/{name}"), FOLDER, ALL, 0);
    script.code(&makes_many(20_000));
    script.holds_u32(TO + 16, Limits::OUT_FILES_MAX - 1);
    let files = script.run();
    assert!(files.iter().all(|file| file.path.len() == 260 && file.bytes.is_empty()));
    assert_eq!(files.len(), Limits::OUT_FILES_MAX as usize - 1);
}

/// Numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.next()).unwrap() % choices.len()]
    }
}

fn no_argument_whatever_harms_the_child() {
    let names = ["out", "out/a", "a", "b/../c", "..", ".", "/", "a/", "", "out/b/c", "b", "input"];
    for seed in 0..12 {
        let mut chance = Chance(seed);
        let mut script = Script::in_out().with_file("input", b"words");
        // Names lie where the calls may find them, and vectors that lead anywhere.
        let at: Vec<(u64, u64)> = (names.iter())
            .map(|name| {
                let at = script.keep(name.as_bytes());
                (u64::from(at), name.len() as u64)
            })
            .collect();
        for _ in 0..600 {
            let (name, parameters) = chance.of(&CALLS);
            let mut words: Vec<u64> = Vec::new();
            while words.len() < parameters.len() {
                match chance.next() % 8 {
                    0..=2 => words.push(chance.of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
                    3 | 4 => {
                        let (place, length) = chance.of(&at);
                        words.extend([place, length]);
                    }
                    5 => words.push(chance.of(&[u64::from(TO), 64, u64::from(LARGE), 16, 24, 48])),
                    6 => words.push(chance.of(&[
                        u64::MAX,
                        1 << 63,
                        1 << 32,
                        (1 << 31) - 1,
                        0x27_ffff,
                    ])),
                    _ => words.push(1 << (chance.next() % 64)),
                }
            }
            script.tries(name, &words);
        }
        let run = go(&mut script.runner(), &[], b"input");
        let RunReport::Done { .. } = run.report else { panic!("seed {seed}: {:?}", run.report) };
        // And it is the same once more, in a fresh child if this one's guest broke a rule.
        let again = go(&mut script.runner(), &[], b"input");
        assert_eq!((again.report, again.stderr), (run.report, run.stderr), "seed {seed}");
    }
}
