//! Claims about the calls of preview 1 that take a descriptor or none, along the topics of the public
//! WASI test suite.

use crate::claims;
use crate::script::*;

claims![
    random_bytes_fill_a_large_buffer,
    clocks_never_go_back,
    the_environment_is_empty_and_arguments_are_there,
    yielding_is_fine_and_raising_is_not_supported,
    the_root_is_the_only_preopen_and_has_a_name,
    a_closed_preopen_is_gone,
    a_preopen_can_be_written_over,
    streams_are_no_terminals_and_can_be_renumbered,
    a_renumbered_descriptor_closes_what_was_there,
    polling_finds_streams_and_files_ready,
    folders_are_neither_read_nor_sought,
    a_file_that_is_no_folder_leads_nowhere,
    opening_creates_or_refuses_as_asked,
    reading_and_writing_follow_the_rights_asked_for,
    rights_can_only_be_given_up,
    truncation_needs_its_right,
    descriptor_flags_are_kept_and_append_appends,
    seeking_and_telling_agree,
    reads_and_writes_at_an_offset_leave_the_position,
    all_vectors_are_filled_and_written,
    truncating_and_growing_leave_zeros,
    allocating_only_grows,
    advice_changes_nothing,
    times_are_set_and_conflicting_wishes_refused,
    descriptors_are_the_lowest_free_and_bounded,
];

/// Types of nodes.
const DIR: u8 = 3;
const FILE: u8 = 4;

fn random_bytes_fill_a_large_buffer() {
    let mut script = Script::new();
    script.call(0, "random_get", &[I(LARGE), I(1 << 20)]);
    script.call(0, "random_get", &[I(LARGE), I(0)]);
    script.call(FAULT, "random_get", &[I(LARGE), I(u32::MAX)]);
    script.run();
}

fn clocks_never_go_back() {
    let mut script = Script::new();
    for id in 0..4 {
        script.call(0, "clock_res_get", &[I(id), I(TO)]);
        script.holds_u64(TO, 1000);
        script.call(0, "clock_time_get", &[I(id), L(1), I(TO)]);
    }
    script.holds_u64(TO, 1_000_003_000);
    script.call(INVAL, "clock_res_get", &[I(4), I(TO)]);
    script.run();
}

fn the_environment_is_empty_and_arguments_are_there() {
    let mut script = Script::new();
    script.call(0, "environ_sizes_get", &[I(TO), I(TO + 4)]);
    script.holds_u64(TO, 0);
    script.call(0, "environ_get", &[I(TO), I(TO)]);
    script.call(0, "args_sizes_get", &[I(TO), I(TO + 4)]);
    script.holds_u32(TO, 1);
    script.holds_u32(TO + 4, 10);
    script.call(0, "args_get", &[I(TO), I(TO + 8)]);
    script.holds_u32(TO, TO + 8);
    script.holds(TO + 8, b"task.wasm\0");
    script.run();
}

fn yielding_is_fine_and_raising_is_not_supported() {
    let mut script = Script::new();
    script.call(0, "sched_yield", &[]);
    script.call(NOTSUP, "proc_raise", &[I(6)]);
    script.call(NOTSOCK, "sock_accept", &[I(0), I(0), I(TO)]);
    script.call(BADF, "sock_shutdown", &[I(9), I(0)]);
    script.run();
}

fn the_root_is_the_only_preopen_and_has_a_name() {
    let mut script = Script::new().with_out(1000);
    script.call(0, "fd_prestat_get", &[I(3), I(TO)]);
    script.holds_u64(TO, 1 << 32);
    script.call(0, "fd_prestat_dir_name", &[I(3), I(TO), I(1)]);
    script.holds(TO, b"/");
    script.call(0, "fd_prestat_dir_name", &[I(3), I(TO), I(9)]);
    script.call(NAMETOOLONG, "fd_prestat_dir_name", &[I(3), I(TO), I(0)]);
    script.call(FAULT, "fd_prestat_get", &[I(3), I(u32::MAX - 4)]);
    for fd in [0, 1, 2, 4, u32::MAX] {
        script.call(BADF, "fd_prestat_get", &[I(fd), I(TO)]);
        script.call(BADF, "fd_prestat_dir_name", &[I(fd), I(TO), I(1)]);
    }
    // What is opened below it is no preopen.
    script.opens(4, 3, ".", FOLDER, ALL, 0);
    script.call(BADF, "fd_prestat_get", &[I(4), I(TO)]);
    script.run();
    // Without files and without a folder of its own a unit has none.
    let mut script = Script::new();
    script.call(BADF, "fd_prestat_get", &[I(3), I(TO)]);
    script.open(BADF, 3, "x", 0, READ, 0);
    script.run();
}

fn a_closed_preopen_is_gone() {
    let mut script = Script::in_out();
    script.call(0, "fd_close", &[I(3)]);
    script.call(BADF, "fd_close", &[I(3)]);
    script.call(BADF, "fd_prestat_get", &[I(3), I(TO)]);
    script.open(BADF, 3, "out", FOLDER, ALL, 0);
    // Its number is free again.
    script.opens(3, 4, "x", CREATE, READ, 0);
    script.run();
}

fn a_preopen_can_be_written_over() {
    let mut script = Script::in_out();
    script.call(0, "fd_filestat_get", &[I(4), I(TO)]);
    script.call(0, "fd_renumber", &[I(4), I(3)]);
    script.call(0, "fd_filestat_get", &[I(3), I(TO + 64)]);
    script.holds_u64(TO + 72, 2);
    script.call(BADF, "fd_fdstat_get", &[I(4), I(TO)]);
    script.call(BADF, "fd_prestat_get", &[I(3), I(TO)]);
    script.run();
}

fn streams_are_no_terminals_and_can_be_renumbered() {
    let mut script = Script::in_out();
    for fd in 0..3 {
        script.call(0, "fd_fdstat_get", &[I(fd), I(TO)]);
        script.holds(TO, &[0, 0, 0, 0]);
        script.call(SPIPE, "fd_tell", &[I(fd), I(TO)]);
        script.call(SPIPE, "fd_seek", &[I(fd), L(0), I(1), I(TO)]);
        script.call(SPIPE, "fd_advise", &[I(fd), L(0), L(0), I(0)]);
        script.call(SPIPE, "fd_allocate", &[I(fd), L(0), L(1)]);
        script.call(INVAL, "fd_sync", &[I(fd)]);
        script.call(INVAL, "fd_datasync", &[I(fd)]);
        script.call(INVAL, "fd_filestat_set_size", &[I(fd), L(0)]);
        script.call(NOTSUP, "fd_filestat_set_times", &[I(fd), L(0), L(0), I(0)]);
        script.call(0, "fd_filestat_get", &[I(fd), I(TO)]);
        script.holds(TO, &[0; 64]);
    }
    script.reads_not(SPIPE, 0, Some(0));
    script.reads_not(BADF, 1, None);
    script.writes(SPIPE, 1, Some(0), b"x");
    script.writes(BADF, 0, None, b"x");
    // Standard input and error move to a file's number; output is needed for the comparison.
    for from in [0, 2] {
        script.opens(5, 4, "file", CREATE, 0, 0);
        script.call(0, "fd_renumber", &[I(from), I(5)]);
        script.call(0, "fd_fdstat_get", &[I(5), I(TO)]);
        script.call(BADF, "fd_fdstat_get", &[I(from), I(TO)]);
        if from == 0 {
            script.reads(5, None, b"input");
        } else {
            script.writes(0, 5, None, b"to the log");
        }
        script.call(0, "path_unlink_file", &[I(4), path("file")]);
        script.call(0, "fd_renumber", &[I(5), I(5)]);
        script.call(0, "fd_close", &[I(5)]);
        script.opens(from, 4, "in the way", CREATE, 0, 0);
    }
    let (run, _) = script.ends();
    assert_eq!(run.stderr, b"to the log");
}

fn a_renumbered_descriptor_closes_what_was_there() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file1", CREATE, READ | WRITE, APPEND);
    script.opens(6, 4, "file2", CREATE, READ, 0);
    script.call(0, "fd_fdstat_get", &[I(5), I(TO)]);
    script.call(0, "fd_renumber", &[I(5), I(6)]);
    script.call(BADF, "fd_close", &[I(5)]);
    script.call(0, "fd_fdstat_get", &[I(6), I(TO)]);
    script.holds(TO, &[FILE, 0, 1, 0]);
    script.holds_u64(TO + 8, READ | WRITE);
    script.call(BADF, "fd_renumber", &[I(6), I(5)]);
    script.call(BADF, "fd_renumber", &[I(5), I(6)]);
    script.call(BADF, "fd_renumber", &[I(6), I(1000)]);
    script.writes(0, 6, None, b"one");
    script.is_there(4, "file1", FILE, 3);
    script.is_there(4, "file2", FILE, 0);
    script.run();
}

fn polling_finds_streams_and_files_ready() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, READ | WRITE, 0);
    script.writes(0, 5, None, b"123");
    script.opens(6, 4, "file", 0, READ, 0);
    // Four subscriptions: reading 0, writing 1, reading the file, writing what is not open.
    for (at, kind, fd) in [(0, 1, 0), (1, 2, 1), (2, 1, 6), (3, 2, 77)] {
        let at = LARGE + at * 48;
        script.put(at, u64::from(at));
        script.put(at + 8, kind);
        script.put(at + 16, fd);
    }
    script.call(0, "poll_oneoff", &[I(LARGE), I(TO), I(4), I(TO + 200)]);
    script.holds_u32(TO + 200, 4);
    for (at, kind, errno, bytes) in [(0, 1, 0, 5), (1, 2, 0, 0), (2, 1, 0, 3), (3, 2, 8, 0)] {
        script.holds_u64(TO + at * 32, u64::from(LARGE + at * 48));
        script.holds(TO + at * 32 + 8, &[errno, 0, kind]);
        script.holds_u64(TO + at * 32 + 16, bytes);
    }
    script.run();
}

fn folders_are_neither_read_nor_sought() {
    let mut script = Script::in_out();
    for fd in [3, 4] {
        script.call(0, "fd_fdstat_get", &[I(fd), I(TO)]);
        script.holds(TO, &[DIR, 0, 0, 0]);
        // Every path right, reading the folder, its status and times; nothing that is a file's.
        script.holds_u64(TO + 8, 0x6bf_e619);
        script.holds_u64(TO + 16, 0xeff_e7ff);
        script.reads_not(ISDIR, fd, None);
        script.reads_not(ISDIR, fd, Some(0));
        script.writes(ISDIR, fd, None, b"x");
        script.writes(ISDIR, fd, Some(0), b"x");
        for whence in 0..3 {
            script.call(ISDIR, "fd_seek", &[I(fd), L(0), I(whence), I(TO)]);
        }
        script.call(ISDIR, "fd_tell", &[I(fd), I(TO)]);
        script.call(ISDIR, "fd_allocate", &[I(fd), L(0), L(1)]);
        script.call(ISDIR, "fd_filestat_set_size", &[I(fd), L(0)]);
        script.call(ISDIR, "fd_advise", &[I(fd), L(0), L(0), I(0)]);
        script.call(0, "fd_sync", &[I(fd)]);
        script.call(0, "fd_datasync", &[I(fd)]);
    }
    script.run();
}

fn a_file_that_is_no_folder_leads_nowhere() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, 0);
    for fd in [0, 5] {
        let way = [I(fd), path("x")];
        script.open(NOTDIR, fd, "x", 0, READ, 0);
        script.call(NOTDIR, "path_create_directory", &way);
        script.call(NOTDIR, "path_remove_directory", &way);
        script.call(NOTDIR, "path_unlink_file", &way);
        script.call(NOTDIR, "path_filestat_get", &[I(fd), I(0), path("x"), I(TO)]);
        script.call(NOTDIR, "path_rename", &[I(fd), path("x"), I(4), path("y")]);
        script.call(NOTDIR, "path_rename", &[I(4), path("file"), I(fd), path("y")]);
        script.call(NOTDIR, "path_readlink", &[I(fd), path("x"), I(TO), I(9), I(TO)]);
        script.call(NOTDIR, "fd_readdir", &[I(fd), I(TO), I(9), L(0), I(TO)]);
    }
    script.open(NOTDIR, 4, "file/x", 0, READ, 0);
    script.open(NOTDIR, 4, "file/..", 0, READ, 0);
    script.open(NOTDIR, 4, "file/.", 0, READ, 0);
    script.open(BADF, 9, "x", 0, READ, 0);
    script.run();
}

fn opening_creates_or_refuses_as_asked() {
    let mut script = Script::in_out();
    script.open(NOENT, 4, "file", 0, READ, 0);
    script.open(NOENT, 4, "file", TRUNCATE, WRITE, 0);
    script.open(NOENT, 4, "dir/file", CREATE, WRITE, 0);
    script.opens(5, 4, "file", CREATE | EXCLUSIVE, WRITE, 4);
    script.writes(0, 5, None, b"words");
    script.open(EXIST, 4, "file", CREATE | EXCLUSIVE, WRITE, 0);
    script.opens(6, 4, "file", CREATE, READ, 0);
    script.reads(6, None, b"words");
    script.opens(7, 4, "file", CREATE | TRUNCATE, WRITE, 0);
    script.has_size_of(4, "file", 0);
    script.open(NOTDIR, 4, "file", FOLDER, READ, 0);
    script.open(INVAL, 4, "file", FOLDER | CREATE, READ, 0);
    script.open(INVAL, 4, "file", 16, READ, 0);
    script.open(INVAL, 4, "file", 0, READ, 32);
    script.call(0, "path_create_directory", &[I(4), path("dir")]);
    script.open(ISDIR, 4, "dir", 0, WRITE, 0);
    script.open(ISDIR, 4, "dir", CREATE, READ, 0);
    script.open(ISDIR, 4, "dir", TRUNCATE, READ, 0);
    script.open(EXIST, 4, "dir", CREATE | EXCLUSIVE, READ, 0);
    // Who says that it is a folder gets one, whatever rights it asks for by habit.
    script.opens(8, 4, "dir", FOLDER, ALL, 0);
    script.opens(9, 4, "dir", 0, READ, 0);
    let left = script.run();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].path.as_str(), &left[0].bytes[..]), ("file", &b""[..]));
}

fn reading_and_writing_follow_the_rights_asked_for() {
    let mut script = Script::in_out();
    script.touch(4, "file", 5);
    script.opens(5, 4, "file", 0, READ | SEEK, 0);
    script.writes(BADF, 5, None, b"x");
    script.writes(BADF, 5, Some(0), b"x");
    script.reads(5, None, b"");
    script.call(NOTCAPABLE, "fd_filestat_get", &[I(5), I(TO)]);
    script.call(NOTCAPABLE, "fd_filestat_set_size", &[I(5), L(1)]);
    script.call(NOTCAPABLE, "fd_allocate", &[I(5), L(0), L(1)]);
    script.call(NOTCAPABLE, "fd_advise", &[I(5), L(0), L(1), I(0)]);
    script.call(NOTCAPABLE, "fd_sync", &[I(5)]);
    script.call(NOTCAPABLE, "fd_datasync", &[I(5)]);
    script.call(NOTCAPABLE, "fd_fdstat_set_flags", &[I(5), I(0)]);
    script.call(NOTCAPABLE, "fd_filestat_set_times", &[I(5), L(0), L(0), I(0)]);
    script.opens(6, 4, "file", 0, WRITE, 0);
    script.reads_not(BADF, 6, None);
    script.writes(0, 6, None, b"fifty");
    script.writes(NOTCAPABLE, 6, Some(0), b"x");
    script.call(NOTCAPABLE, "fd_tell", &[I(6), I(TO)]);
    script.call(NOTCAPABLE, "fd_seek", &[I(6), L(1), I(1), I(TO)]);
    script.reads(5, None, b"fifty");
    script.opens(7, 4, "file", 0, READ | TELL, 0);
    script.call(0, "fd_tell", &[I(7), I(TO)]);
    script.call(0, "fd_seek", &[I(7), L(0), I(1), I(TO)]);
    script.call(NOTCAPABLE, "fd_seek", &[I(7), L(0), I(0), I(TO)]);
    script.reads_not(NOTCAPABLE, 7, Some(0));
    script.run();
}

fn rights_can_only_be_given_up() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, READ | WRITE | SEEK, 0);
    script.writes(0, 5, None, b"abcd");
    script.call(NOTCAPABLE, "fd_fdstat_set_rights", &[I(5), L(READ | TELL), L(0)]);
    script.call(0, "fd_fdstat_set_rights", &[I(5), L(SEEK), L(0)]);
    script.call(0, "fd_fdstat_get", &[I(5), I(TO)]);
    script.holds_u64(TO + 8, SEEK);
    script.reads_not(BADF, 5, None);
    script.writes(BADF, 5, None, b"x");
    script.seeks(5, 0, 0, 0);
    script.call(NOTCAPABLE, "fd_fdstat_set_rights", &[I(5), L(SEEK | READ), L(0)]);
    script.call(BADF, "fd_fdstat_set_rights", &[I(9), L(0), L(0)]);
    // What a folder can't give is not had below it.
    script.call(0, "fd_fdstat_set_rights", &[I(4), L(1 << 13), L(READ)]);
    script.open(NOTCAPABLE, 4, "file", 0, READ | WRITE, 0);
    script.open(NOTCAPABLE, 4, "new", CREATE, READ, 0);
    script.opens(6, 4, "file", 0, READ, 0);
    script.reads(6, None, b"abcd");
    script.call(NOTCAPABLE, "path_create_directory", &[I(4), path("d")]);
    script.call(NOTCAPABLE, "path_unlink_file", &[I(4), path("file")]);
    script.call(NOTCAPABLE, "path_remove_directory", &[I(4), path("d")]);
    script.call(NOTCAPABLE, "path_rename", &[I(4), path("file"), I(4), path("f")]);
    script.call(NOTCAPABLE, "path_filestat_get", &[I(4), I(0), path("file"), I(TO)]);
    script.call(NOTCAPABLE, "fd_readdir", &[I(4), I(TO), I(9), L(0), I(TO)]);
    // Streams too.
    script.call(0, "fd_fdstat_set_rights", &[I(0), L(0), L(0)]);
    script.reads_not(BADF, 0, None);
    script.run();
}

fn truncation_needs_its_right() {
    let mut script = Script::in_out();
    script.touch(4, "file", 5);
    script.opens(5, 4, "file", TRUNCATE, 0, 0);
    let path_set_size = 1 << 19;
    script.call(0, "fd_fdstat_set_rights", &[I(4), L(0x6bf_e619 & !path_set_size), L(0)]);
    script.open(NOTCAPABLE, 4, "file", TRUNCATE, 0, 0);
    script.opens(6, 4, "file", 0, 0, 0);
    script.run();
}

fn descriptor_flags_are_kept_and_append_appends() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, APPEND);
    script.writes(0, 5, None, b"000");
    script.seeks(5, 0, 0, 0);
    script.reads(5, None, b"000");
    script.seeks(5, 0, 0, 0);
    script.writes(0, 5, None, b"111");
    script.call(0, "fd_tell", &[I(5), I(TO)]);
    script.holds_u64(TO, 6);
    script.call(0, "fd_fdstat_set_flags", &[I(5), I(0)]);
    script.seeks(5, 0, 0, 0);
    script.writes(0, 5, None, b"22");
    script.reads(5, Some(0), b"220111");
    for fd in [1, 5] {
        script.call(0, "fd_fdstat_set_flags", &[I(fd), I(31)]);
        script.call(0, "fd_fdstat_get", &[I(fd), I(TO)]);
        script.holds(TO + 2, &[31, 0]);
        script.call(INVAL, "fd_fdstat_set_flags", &[I(fd), I(32)]);
    }
    // Non-blocking is no different, because nothing blocks.
    script.opens(6, 4, "file", 0, READ, 4);
    script.reads(6, None, b"220111");
    script.run();
}

fn seeking_and_telling_agree() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, 0);
    script.seeks(5, 0, 1, 0);
    script.writes(0, 5, None, &[7; 100]);
    script.seeks(5, 0, 1, 100);
    script.seeks(5, -50, 1, 50);
    script.seeks(5, 0, 0, 0);
    script.seeks(5, 1000, 1, 1000);
    script.seeks(5, -10, 2, 90);
    script.call(INVAL, "fd_seek", &[I(5), L((-2000_i64).cast_unsigned()), I(1), I(TO)]);
    script.call(INVAL, "fd_seek", &[I(5), L(i64::MIN.cast_unsigned()), I(2), I(TO)]);
    script.call(INVAL, "fd_seek", &[I(5), L(i64::MAX.cast_unsigned()), I(1), I(TO)]);
    script.call(INVAL, "fd_seek", &[I(5), L(0), I(3), I(TO)]);
    script.call(FAULT, "fd_seek", &[I(5), L(0), I(0), I(u32::MAX)]);
    // None of these has moved it.
    script.seeks(5, 0, 1, 90);
    script.reads(5, None, &[7; 10]);
    script.reads(5, None, b"");
    script.run();
}

fn reads_and_writes_at_an_offset_leave_the_position() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, 0);
    script.writes(0, 5, Some(2), b"abcd");
    script.reads(5, Some(0), b"\0\0abcd");
    script.reads(5, Some(4), b"cd");
    script.reads(5, Some(6), b"");
    script.reads(5, Some(u64::MAX), b"");
    script.writes(0, 5, Some(1), b"xyz");
    script.reads(5, None, b"\0xyzcd");
    script.writes(NOSPC, 5, Some(u64::MAX), b"x");
    script.writes(NOSPC, 5, Some(i64::MAX.cast_unsigned()), b"x");
    script.has_size(5, 6);
    // Nothing at all is no write, wherever it is.
    script.writes(0, 5, Some(u64::MAX), b"");
    script.has_size(5, 6);
    script.run();
}

fn all_vectors_are_filled_and_written() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, 0);
    script.writes(0, 5, None, b"abcdefgh");
    script.seeks(5, 0, 0, 0);
    let five = [(TO + 8, 3), (TO + 16, 0), (TO + 24, 2), (TO + 32, 100), (TO + 40, 9)];
    script.vectors(&five);
    script.call(0, "fd_read", &[I(5), I(64), I(5), I(TO)]);
    script.holds_u32(TO, 8);
    script.holds(TO + 8, b"abc");
    script.holds(TO + 24, b"de");
    script.holds(TO + 32, b"fgh\0");
    script.holds(TO + 40, b"\0");
    script.vectors(&[(TO + 24, 2), (TO + 8, 3), (TO + 8, 0), (TO + 32, 1)]);
    script.call(0, "fd_pwrite", &[I(5), I(64), I(4), L(1), I(TO)]);
    script.holds_u32(TO, 6);
    script.reads(5, Some(0), b"adeabcfh");
    // A vector that is no good is found before anything is written.
    script.vectors(&[(TO + 24, 2), (u32::MAX, 2)]);
    script.call(FAULT, "fd_pwrite", &[I(5), I(64), I(2), L(0), I(TO)]);
    script.call(FAULT, "fd_write", &[I(5), I(u32::MAX), I(1), I(TO)]);
    script.call(FAULT, "fd_read", &[I(5), I(u32::MAX), I(1), I(TO)]);
    script.reads(5, Some(0), b"adeabcfh");
    script.run();
}

fn truncating_and_growing_leave_zeros() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, 0);
    script.writes(0, 5, None, b"abcdef");
    script.call(0, "fd_filestat_set_size", &[I(5), L(2)]);
    script.has_size(5, 2);
    script.call(0, "fd_filestat_set_size", &[I(5), L(4)]);
    script.reads(5, Some(0), b"ab\0\0");
    // The position stays where it was, beyond the end.
    script.writes(0, 5, None, b"g");
    script.reads(5, Some(0), b"ab\0\0\0\0g");
    script.call(NOSPC, "fd_filestat_set_size", &[I(5), L(u64::MAX)]);
    script.has_size(5, 7);
    script.run();
}

fn allocating_only_grows() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, 0);
    script.call(0, "fd_allocate", &[I(5), L(0), L(100)]);
    script.has_size(5, 100);
    script.call(0, "fd_allocate", &[I(5), L(10), L(10)]);
    script.has_size(5, 100);
    script.call(0, "fd_allocate", &[I(5), L(90), L(20)]);
    script.has_size(5, 110);
    script.call(INVAL, "fd_allocate", &[I(5), L(0), L(0)]);
    script.call(NOSPC, "fd_allocate", &[I(5), L(u64::MAX), L(u64::MAX)]);
    script.has_size(5, 110);
    script.run();
}

fn advice_changes_nothing() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, 0);
    for advice in 0..=5 {
        script.call(0, "fd_advise", &[I(5), L(u64::MAX), L(u64::MAX), I(advice)]);
    }
    script.call(INVAL, "fd_advise", &[I(5), L(0), L(0), I(6)]);
    script.call(BADF, "fd_advise", &[I(6), L(0), L(0), I(0)]);
    script.call(0, "fd_sync", &[I(5)]);
    script.call(0, "fd_datasync", &[I(5)]);
    script.has_size(5, 0);
    script.run();
}

fn times_are_set_and_conflicting_wishes_refused() {
    let start = 1_767_225_600_000_000_000;
    let times = |script: &mut Script, accessed: u64, modified: u64| {
        script.holds_u64(TO + 40, accessed);
        script.holds_u64(TO + 48, modified);
    };
    let mut script = Script::in_out().with_file("input", b"x");
    script.opens(5, 4, "file", CREATE, ALL, 0);
    script.has_size(5, 0);
    times(&mut script, start, start);
    script.call(0, "fd_filestat_set_times", &[I(5), L(1), L(2), I(1 | 4)]);
    script.has_size(5, 0);
    times(&mut script, 1, 2);
    script.call(0, "clock_time_get", &[I(0), L(0), I(TO)]);
    script.call(0, "fd_filestat_set_times", &[I(5), L(1), L(2), I(2)]);
    script.has_size(5, 0);
    times(&mut script, start + 1000, 2);
    // Writing and making dates a file and its folder by the guest's own clock.
    script.writes(0, 5, None, b"x");
    script.has_size(5, 1);
    times(&mut script, start + 1000, start + 1000);
    let at = |flags| [I(4), I(0), path("file"), L(3), L(4), I(flags)];
    script.call(0, "path_filestat_set_times", &at(4));
    script.is_there(4, "file", FILE, 1);
    times(&mut script, start + 1000, 4);
    for flags in [3, 12, 15, 16, u32::MAX] {
        script.call(INVAL, "path_filestat_set_times", &at(flags));
        script.call(INVAL, "fd_filestat_set_times", &[I(5), L(1), L(2), I(flags)]);
    }
    script.is_there(4, "file", FILE, 1);
    times(&mut script, start + 1000, 4);
    script.is_there(3, "input", FILE, 1);
    times(&mut script, start, start);
    let missing = [I(4), I(0), path("missing"), L(0), L(0), I(1)];
    script.call(NOENT, "path_filestat_set_times", &missing);
    let input = [I(3), I(0), path("input"), L(0), L(0), I(1)];
    script.call(ROFS, "path_filestat_set_times", &input);
    script.run();
}

fn descriptors_are_the_lowest_free_and_bounded() {
    let mut script = Script::in_out();
    script.touch(4, "file", 5);
    for fd in 5..1024 {
        script.opens(fd, 4, "file", 0, READ, 0);
    }
    script.open(MFILE, 4, "file", 0, READ, 0);
    script.open(MFILE, 4, "new", CREATE, READ, 0);
    script.is_missing(4, "new");
    for fd in [700, 6, 1023] {
        script.call(0, "fd_close", &[I(fd)]);
    }
    for fd in [6, 700, 1023] {
        script.opens(fd, 4, "file", 0, READ, 0);
    }
    script.open(MFILE, 4, "file", 0, READ, 0);
    script.run();
}
