//! Claims about the calls of preview 1 that take a path, and about listing folders, along the topics
//! of the public WASI test suite. Where this sandbox answers otherwise than a system with links
//! would, the claim says so.

use crate::claims;
use crate::script::*;

claims![
    paths_are_followed_and_never_out_of_the_folder,
    trailing_slashes_mean_folders,
    removing_and_unlinking_are_not_the_same,
    an_unlinked_file_lives_until_it_is_closed,
    a_removed_folder_stays_open_and_empty,
    renaming_replaces_what_may_be_replaced,
    a_folder_never_moves_into_itself,
    folders_list_in_order_and_go_on_at_a_cookie,
    a_listing_goes_on_although_its_last_entry_is_gone,
    there_are_no_links,
];

/// Types of nodes.
const DIR: u8 = 3;
const FILE: u8 = 4;

fn paths_are_followed_and_never_out_of_the_folder() {
    let mut script = Script::in_out();
    script.call(0, "path_create_directory", &[I(4), path("dir")]);
    script.call(0, "path_create_directory", &[I(4), path("dir/nested")]);
    script.touch(4, "dir/nested/file", 5);
    script.opens(5, 4, "dir/.//nested/../../dir/nested/../nested///./file", 0, READ, 0);
    script.open(PERM, 4, "/dir/nested/file", 0, READ, 0);
    script.open(PERM, 4, "/", 0, READ, 0);
    script.open(PERM, 4, "..", 0, READ, 0);
    script.open(PERM, 4, "dir/nested/../../../out/dir", 0, READ, 0);
    script.open(PERM, 3, "../out", 0, READ, 0);
    script.open(NOENT, 4, "missing/../dir", 0, READ, 0);
    script.open(NOENT, 4, "", 0, READ, 0);
    script.open(INVAL, 4, "dir/nested/file\0", 0, READ, 0);
    script.open(INVAL, 4, "\0", CREATE, READ, 0);
    let not_text = [I(4), I(0), B(b"dir\xff"), I(TO)];
    script.call(ILSEQ, "path_filestat_get", &not_text);
    script.call(FAULT, "path_unlink_file", &[I(4), I(u32::MAX), I(1)]);
    script.call(FAULT, "path_unlink_file", &[I(4), I(TO), I(u32::MAX)]);
    let name = "n".repeat(255);
    script.touch(4, &name, 6);
    script.open(NAMETOOLONG, 4, &(name.clone() + "n"), CREATE, READ, 0);
    script.open(NAMETOOLONG, 4, &format!("{name}n/.."), 0, READ, 0);
    script.opens(6, 4, &"./".repeat(2048), 0, READ, 0);
    script.open(NAMETOOLONG, 4, &(".".to_owned() + &"./".repeat(2048)), 0, READ, 0);
    // Names are bytes: another spelling is another file.
    script.touch(4, "\u{e9}", 7);
    script.is_missing(4, "e\u{301}");
    script.is_missing(4, "DIR");
    script.is_there(4, "dir/nested", DIR, 0);
    script.call(INVAL, "path_filestat_get", &[I(4), I(2), path("dir"), I(TO)]);
    script.call(0, "path_filestat_get", &[I(4), I(1), path("dir"), I(TO)]);
    script.run();
}

fn trailing_slashes_mean_folders() {
    let mut script = Script::in_out();
    let pair = |a: &'static str, b: &'static str| [I(4), path(a), I(4), path(b)];
    script.call(0, "path_create_directory", &[I(4), path("dir/")]);
    script.touch(4, "file", 5);
    script.opens(5, 4, "dir/", 0, READ, 0);
    script.opens(6, 4, "dir///", 0, READ, 0);
    script.open(NOTDIR, 4, "file/", 0, READ, 0);
    script.open(NOTDIR, 4, "file///", 0, READ, 0);
    script.open(NOENT, 4, "new/", 0, READ, 0);
    script.open(ISDIR, 4, "new/", CREATE, READ, 0);
    script.call(NOTDIR, "path_filestat_get", &[I(4), I(0), path("file/"), I(TO)]);
    script.call(EXIST, "path_create_directory", &[I(4), path("dir/")]);
    script.call(NOTDIR, "path_unlink_file", &[I(4), path("file/")]);
    script.call(ISDIR, "path_unlink_file", &[I(4), path("dir/")]);
    script.call(NOTDIR, "path_remove_directory", &[I(4), path("file/")]);
    script.call(0, "path_rename", &pair("dir/", "other"));
    script.call(0, "path_rename", &pair("other", "dir/"));
    script.call(0, "path_rename", &pair("dir/", "other/"));
    script.call(NOTDIR, "path_rename", &pair("file/", "x"));
    script.call(NOTDIR, "path_rename", &pair("file", "x/"));
    script.call(NOTDIR, "path_rename", &pair("other", "file/"));
    script.call(0, "path_remove_directory", &[I(4), path("other/")]);
    script.call(0, "path_unlink_file", &[I(4), path("file")]);
    assert!(script.run().is_empty());
}

fn removing_and_unlinking_are_not_the_same() {
    let mut script = Script::in_out();
    script.call(0, "path_create_directory", &[I(4), path("dir")]);
    script.call(EXIST, "path_create_directory", &[I(4), path("dir")]);
    script.call(EXIST, "path_create_directory", &[I(4), path(".")]);
    script.call(NOENT, "path_create_directory", &[I(4), path("a/b")]);
    script.touch(4, "dir/file", 5);
    script.call(EXIST, "path_create_directory", &[I(4), path("dir/file")]);
    script.call(NOTDIR, "path_create_directory", &[I(4), path("dir/file/x")]);
    script.call(NOTEMPTY, "path_remove_directory", &[I(4), path("dir")]);
    script.call(NOTDIR, "path_remove_directory", &[I(4), path("dir/file")]);
    script.call(INVAL, "path_remove_directory", &[I(4), path(".")]);
    script.call(INVAL, "path_remove_directory", &[I(4), path("dir/..")]);
    script.call(NOENT, "path_remove_directory", &[I(4), path("missing")]);
    script.call(ISDIR, "path_unlink_file", &[I(4), path("dir")]);
    script.call(NOENT, "path_unlink_file", &[I(4), path("missing")]);
    script.call(0, "path_unlink_file", &[I(4), path("dir/file")]);
    script.call(NOENT, "path_unlink_file", &[I(4), path("dir/file")]);
    script.call(0, "path_remove_directory", &[I(4), path("dir")]);
    script.is_missing(4, "dir");
    assert!(script.run().is_empty());
}

fn an_unlinked_file_lives_until_it_is_closed() {
    let mut script = Script::in_out();
    script.opens(5, 4, "file", CREATE, ALL, 0);
    script.call(0, "path_unlink_file", &[I(4), path("file")]);
    script.is_missing(4, "file");
    script.writes(0, 5, None, b"still here");
    script.reads(5, Some(0), b"still here");
    script.has_size(5, 10);
    // No name leads there.
    script.holds_u64(TO + 24, 0);
    // Another file of its name is another file.
    script.opens(6, 4, "file", CREATE | EXCLUSIVE, ALL, 0);
    script.has_size(6, 0);
    script.writes(0, 6, None, b"new");
    script.reads(5, Some(0), b"still here");
    script.call(0, "fd_close", &[I(5)]);
    let left = script.run();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].bytes, b"new");
}

fn a_removed_folder_stays_open_and_empty() {
    let mut script = Script::in_out();
    script.call(0, "path_create_directory", &[I(4), path("dir")]);
    script.opens(5, 4, "dir", FOLDER, ALL, 0);
    script.call(0, "path_remove_directory", &[I(4), path("dir")]);
    script.call(0, "fd_filestat_get", &[I(5), I(TO)]);
    script.open(NOENT, 5, "file", CREATE, ALL, 0);
    script.call(NOENT, "path_create_directory", &[I(5), path("sub")]);
    script.touch(4, "file", 6);
    script.call(NOENT, "path_rename", &[I(4), path("file"), I(5), path("file")]);
    script.call(0, "fd_close", &[I(5)]);
    script.call(BADF, "fd_close", &[I(5)]);
    script.call(0, "path_create_directory", &[I(4), path("dir")]);
    script.run();
}

fn renaming_replaces_what_may_be_replaced() {
    let mut script = Script::in_out();
    let pair = |a: &'static str, b: &'static str| [I(4), path(a), I(4), path(b)];
    let make = |script: &mut Script, name: &'static str| {
        script.call(0, "path_create_directory", &[I(4), path(name)]);
    };
    make(&mut script, "source");
    script.call(0, "path_rename", &pair("source", "target"));
    script.is_missing(4, "source");
    script.is_there(4, "target", DIR, 0);
    // A folder over an empty one, and over one that is not.
    make(&mut script, "source");
    script.touch(4, "source/file", 5);
    script.call(0, "path_rename", &pair("source", "target"));
    script.is_there(4, "target/file", FILE, 0);
    make(&mut script, "source");
    script.call(NOTEMPTY, "path_rename", &pair("source", "target"));
    script.call(NOTDIR, "path_rename", &pair("source", "target/file"));
    script.call(0, "path_rename", &pair("target/file", "file"));
    script.call(ISDIR, "path_rename", &pair("file", "target"));
    // A file over a file, which lives on where it is open.
    script.opens(5, 4, "over", CREATE, ALL, 0);
    script.writes(0, 5, None, b"old");
    script.call(0, "path_rename", &pair("file", "over"));
    script.is_there(4, "over", FILE, 0);
    script.is_missing(4, "file");
    script.reads(5, Some(0), b"old");
    script.call(0, "path_rename", &pair("over", "over"));
    script.call(0, "path_rename", &pair("over", "./target/../over"));
    script.call(NOENT, "path_rename", &pair("missing", "x"));
    script.call(NOENT, "path_rename", &pair("over", "missing/x"));
    script.call(BUSY, "path_rename", &pair(".", "x"));
    script.call(BUSY, "path_rename", &pair("over", "target/."));
    // From one folder's descriptor to another's.
    script.opens(6, 4, "source", FOLDER, ALL, 0);
    script.call(0, "path_rename", &[I(4), path("over"), I(6), path("moved")]);
    let left = script.run();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].path, "source/moved");
}

fn a_folder_never_moves_into_itself() {
    let mut script = Script::in_out();
    let pair = |a: &'static str, b: &'static str| [I(4), path(a), I(4), path(b)];
    script.call(0, "path_create_directory", &[I(4), path("a")]);
    script.call(0, "path_create_directory", &[I(4), path("a/b")]);
    script.call(INVAL, "path_rename", &pair("a", "a/c"));
    script.call(INVAL, "path_rename", &pair("a", "a/b/c"));
    script.call(INVAL, "path_rename", &pair("a", "a/b"));
    script.call(NOTEMPTY, "path_rename", &pair("a/b", "a"));
    script.call(0, "path_rename", &pair("a/b", "ab"));
    script.call(0, "path_rename", &pair("a", "ab/a"));
    script.is_there(4, "ab/a", DIR, 0);
    script.run();
}

/// An entry of a listing as the guest finds it.
fn entry(next: u64, inode: u64, name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = [next.to_le_bytes(), inode.to_le_bytes()].concat();
    bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(name.as_bytes());
    bytes
}

fn folders_list_in_order_and_go_on_at_a_cookie() {
    let mut script = Script::in_out().with_file("data/b", b"").with_file("data/a", b"");
    let list = |fd, room, cookie| [I(fd), I(TO), I(room), L(cookie), I(TO + 500)];
    // The root is 1; `data`, `a` and `b` come next, then `out`, and then what is made.
    let dots = [entry(1, 1, ".", DIR), entry(2, 1, "..", DIR)].concat();
    let root = [dots, entry(4, 2, "data", DIR), entry(7, 5, "out", DIR)].concat();
    script.call(0, "fd_readdir", &list(3, 300, 0));
    script.holds_u32(TO + 500, 25 + 26 + 28 + 27);
    script.holds(TO, &root);
    script.opens(5, 3, "data", FOLDER, ALL, 0);
    script.call(0, "fd_readdir", &list(5, 300, 2));
    script.holds(TO, &[entry(5, 3, "a", FILE), entry(6, 4, "b", FILE)].concat());
    // In /out, in the order of names and not of making.
    for name in ["zeta", "alpha", "mid"] {
        script.touch(4, name, 6);
    }
    let [alpha, mid] = [entry(9, 7, "alpha", FILE), entry(10, 8, "mid", FILE)];
    let zeta = entry(8, 6, "zeta", FILE);
    let all = [entry(1, 5, ".", DIR), entry(2, 1, "..", DIR), alpha, mid.clone(), zeta.clone()];
    let all = all.concat();
    script.call(0, "fd_readdir", &list(4, 300, 0));
    script.holds(TO, &all);
    // What does not fit is cut, and the buffer is full.
    for room in [0, 1, 24, 25, 30, 79, 80, 81] {
        script.call(0, "fd_readdir", &list(4, room, 0));
        script.holds_u32(TO + 500, room);
        script.holds(TO, &all[..room as usize]);
    }
    script.call(0, "fd_readdir", &list(4, 300, 9));
    script.holds(TO, &[mid, zeta.clone()].concat());
    script.call(0, "fd_readdir", &list(4, 300, 10));
    script.holds(TO, &zeta);
    script.call(0, "fd_readdir", &list(4, 300, 8));
    script.holds_u32(TO + 500, 0);
    // A cookie of another folder, and of nothing.
    for cookie in [5, 99, u64::MAX] {
        script.call(INVAL, "fd_readdir", &list(4, 300, cookie));
    }
    script.call(FAULT, "fd_readdir", &[I(4), I(u32::MAX), I(9), L(0), I(TO)]);
    script.run();
}

fn a_listing_goes_on_although_its_last_entry_is_gone() {
    let mut script = Script::in_out();
    for name in ["a", "b", "c", "d"] {
        script.touch(4, name, 5);
    }
    // Room for `.`, `..` and `a` as a whole, and a piece of `b`.
    script.call(0, "fd_readdir", &[I(4), I(TO), I(90), L(0), I(TO + 500)]);
    script.call(0, "path_unlink_file", &[I(4), path("a")]);
    script.call(0, "path_unlink_file", &[I(4), path("c")]);
    script.call(0, "fd_readdir", &[I(4), I(TO), I(300), L(5), I(TO + 500)]);
    script.holds(TO, &[entry(6, 4, "b", FILE), entry(8, 6, "d", FILE)].concat());
    script.holds_u32(TO + 500, 50);
    script.run();
}

fn there_are_no_links() {
    let mut script = Script::in_out();
    script.touch(4, "file", 5);
    let link = |follow, a: &'static str, b: &'static str| [I(4), I(follow), path(a), I(4), path(b)];
    script.call(NOTSUP, "path_link", &link(0, "file", "link"));
    script.call(NOTSUP, "path_link", &link(1, "file", "link"));
    script.call(NOTSUP, "path_symlink", &[path("file"), I(4), path("link")]);
    script.call(NOTSUP, "path_symlink", &[path("file"), I(4), path("link/")]);
    script.call(BADF, "path_symlink", &[path("file"), I(9), path("link")]);
    script.call(NOENT, "path_symlink", &[path("file"), I(4), path("")]);
    script.is_missing(4, "link");
    // What is there is no link, and that is what realpath goes by.
    let read = |name: &'static str| [I(4), path(name), I(TO), I(9), I(TO + 16)];
    script.call(INVAL, "path_readlink", &read("file"));
    script.call(INVAL, "path_readlink", &read("."));
    script.call(NOENT, "path_readlink", &read("link"));
    script.run();
}
