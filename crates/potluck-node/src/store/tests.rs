//! What a data folder promises.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use potluck_unit::Signed;

use super::*;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Store {
        Store::open(self.0.path()).unwrap().0
    }

    fn refusal(&self) -> String {
        Store::open(self.0.path()).unwrap_err().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn keep(place: u8, bytes: &[u8]) -> Change {
    Change::Keep { id: RecordId([place; 32]), bytes: bytes.into() }
}

fn note(key: &str, value: &str) -> Change {
    Change::Note { key: key.into(), value: value.into() }
}

fn blob(bytes: &[u8]) -> Wanted {
    Wanted::Blob(BlobId::of(bytes))
}

fn result(bytes: &[u8]) -> ResultHash {
    BlobId::of(bytes).result_hash()
}

fn file_of(place: &Place, bytes: &[u8]) -> PathBuf {
    let name = BlobId::of(bytes).to_string();
    place.path("blobs").join(&name[..2]).join(name)
}

#[test]
fn records_come_back_in_the_order_they_were_kept() {
    let place = Place::new();
    let store = place.open();
    store.commit(&[keep(9, b"first"), keep(1, b"second"), keep(5, b"third")]).unwrap();
    store.commit(&[keep(1, b"second"), keep(0, b"fourth")]).unwrap();
    store.commit(&[Change::Forget { id: RecordId([5; 32]) }]).unwrap();
    store.commit(&[Change::Forget { id: RecordId([7; 32]) }, keep(5, b"third again")]).unwrap();
    drop(store);
    let records = place.open().records().unwrap();
    let expected: [&[u8]; 4] = [b"first", b"second", b"fourth", b"third again"];
    assert_eq!(records.iter().map(|bytes| &**bytes).collect::<Vec<_>>(), expected);
}

#[test]
fn notes_are_set_replaced_and_dropped() {
    let place = Place::new();
    let store = place.open();
    store.commit(&[note("b", "1"), note("a", "2"), note("b", "3")]).unwrap();
    assert_eq!(store.notes().unwrap(), [("a", "2"), ("b", "3")].map(|(k, v)| (k.into(), v.into())));
    store.commit(&[note("a", ""), note("never", "")]).unwrap();
    assert_eq!(store.notes().unwrap(), [(b"b".to_vec(), b"3".to_vec())]);
}

#[test]
fn a_commit_with_something_too_long_changes_nothing() {
    let place = Place::new();
    let store = place.open();
    let long_body =
        Change::Body { result: ResultHash([0; 16]), bytes: vec![0; Store::BODY_BYTES_MAX + 1] };
    for (long, text) in [
        (keep(2, &vec![0; Signed::BYTES_MAX + 1]), "a record of 65537 bytes is longer"),
        (long_body, "a body of 4097 bytes is longer than the 4096 that are kept"),
        (note(&"k".repeat(Store::NOTE_KEY_BYTES_MAX + 1), "v"), "the name of a note of 257"),
        (note("k", &"v".repeat(Store::NOTE_BYTES_MAX + 1)), "a note of 65537 bytes"),
    ] {
        let error = store.commit(&[keep(1, b"fine"), long]).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    assert!(store.records().unwrap().is_empty());
    assert!(store.notes().unwrap().is_empty());
}

#[test]
fn bodies_are_found_by_their_result_wherever_they_are() {
    let place = Place::new();
    let store = place.open();
    let (small, large) = (b"small".to_vec(), vec![1; Store::BODY_BYTES_MAX + 1]);
    store.commit(&[Change::Body { result: result(&small), bytes: small.clone() }]).unwrap();
    store.put_blob(&large).unwrap();
    for body in [&small, &large] {
        assert_eq!(store.read(&Wanted::Body(result(body))).as_ref(), Some(body));
        assert_eq!(store.read(&blob(body)).as_ref(), Some(body));
        assert!(store.has(&Wanted::Body(result(body))) && store.has(&blob(body)));
    }
    store.commit(&[Change::ForgetBody { result: result(&small) }]).unwrap();
    assert_eq!(store.sweep(&Needed::default(), Duration::ZERO).unwrap(), 1);
    for body in [&small, &large] {
        assert_eq!(store.read(&Wanted::Body(result(body))), None);
        assert!(!store.has(&Wanted::Body(result(body))) && !store.has(&blob(body)));
    }
}

#[test]
fn bodies_too_large_for_a_receipt_are_listed_with_their_length_and_dropped_one_by_one() {
    let place = Place::new();
    let store = place.open();
    let bodies: Vec<Vec<u8>> = [10, 1024, 1025, 4096, 4097].map(|bytes| vec![3; bytes]).to_vec();
    for body in &bodies {
        if body.len() > Store::BODY_BYTES_MAX {
            store.put_blob(body).unwrap();
        } else {
            store.commit(&[Change::Body { result: result(body), bytes: body.clone() }]).unwrap();
        }
    }
    let found = || {
        let mut found = place_bytes(&store);
        found.sort_unstable();
        found
    };
    assert_eq!(found(), [1025, 4096, 4097]);
    for (body, bytes) in bodies.iter().zip([None, None, Some(1025), Some(4096), Some(4097)]) {
        assert_eq!(store.body_bytes(&result(body)), bytes);
    }
    store.drop_body(&result(&bodies[2])).unwrap();
    store.drop_body(&result(&bodies[4])).unwrap();
    store.drop_body(&result(b"never kept")).unwrap();
    assert_eq!(found(), [4096]);
    assert!(store.has(&Wanted::Body(result(&bodies[0]))));
}

fn place_bytes(store: &Store) -> Vec<u64> {
    store.bodies().unwrap().into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn a_body_that_is_not_what_its_result_says_is_not_handed_out() {
    let place = Place::new();
    let store = place.open();
    let wrong = Change::Body { result: result(b"right"), bytes: b"wrong".to_vec() };
    store.commit(&[wrong]).unwrap();
    assert_eq!(store.read(&Wanted::Body(result(b"right"))), None);
}

#[test]
fn blobs_are_kept_once_counted_and_removed() {
    let place = Place::new();
    let store = place.open();
    let empty = store.usage();
    for _ in 0..2 {
        assert_eq!(store.put_blob(b"a blob").unwrap(), BlobId::of(b"a blob"));
        assert_eq!(store.usage(), empty + 6);
    }
    store.put_blob(b"").unwrap();
    assert_eq!(store.read(&blob(b"")), Some(vec![]));
    drop(store);
    let store = place.open();
    assert_eq!(store.usage(), empty + 6);
    assert_eq!(store.sweep(&Needed::default(), Duration::ZERO).unwrap(), 2);
    assert_eq!((store.usage(), store.read(&blob(b"a blob"))), (empty, None));
}

#[test]
fn a_damaged_blob_is_removed_and_can_be_kept_again() {
    let place = Place::new();
    let store = place.open();
    let empty = store.usage();
    for damage in [b"a blub".as_slice(), b"a", b""] {
        store.put_blob(b"a blob").unwrap();
        std::fs::write(file_of(&place, b"a blob"), damage).unwrap();
        assert_eq!(store.read(&blob(b"a blob")), None);
        assert!(!file_of(&place, b"a blob").exists());
    }
    store.put_blob(b"a blob").unwrap();
    // What was cut short is noticed when it is put again, too.
    std::fs::write(file_of(&place, b"a blob"), b"a b").unwrap();
    store.put_blob(b"a blob").unwrap();
    assert_eq!(store.read(&blob(b"a blob")).unwrap(), b"a blob");
    drop(store);
    assert_eq!(place.open().usage(), empty + 6);
}

#[test]
fn what_a_kill_left_unfinished_is_cleared_away() {
    let place = Place::new();
    drop(place.open());
    std::fs::write(place.path("blobs/unfinished/0123"), b"half a bl").unwrap();
    let store = place.open();
    assert_eq!(std::fs::read_dir(place.path("blobs/unfinished")).unwrap().count(), 0);
    assert_eq!(store.put_blob(b"half a blob").unwrap(), BlobId::of(b"half a blob"));
}

#[test]
fn a_blob_that_cannot_be_written_leaves_nothing() {
    let place = Place::new();
    let store = place.open();
    let folder = file_of(&place, b"a blob").parent().unwrap().to_owned();
    std::fs::write(&folder, b"in the way").unwrap();
    let error = store.put_blob(b"a blob").unwrap_err().to_string();
    assert!(error.starts_with("cannot write ") && error.contains("/blobs/"), "{error}");
    assert_eq!(std::fs::read_dir(place.path("blobs/unfinished")).unwrap().count(), 0);
    assert!(!store.has(&blob(b"a blob")));
    std::fs::remove_file(folder).unwrap();
    store.put_blob(b"a blob").unwrap();
}

#[test]
fn many_threads_can_keep_the_same_blob() {
    let place = Place::new();
    let store = place.open();
    let empty = store.usage();
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                for byte in 0..5 {
                    store.put_blob(&[byte; 1000]).unwrap();
                }
            });
        }
    });
    assert_eq!(store.usage(), empty + 5000);
}

#[test]
fn one_node_at_a_time_uses_a_folder() {
    let place = Place::new();
    let store = place.open();
    let expected = format!(
        "data folder {} is in use by another running node (pid {})",
        place.0.path().display(),
        std::process::id()
    );
    assert_eq!(place.refusal(), expected);
    let clone = store.clone();
    drop(store);
    assert_eq!(place.refusal(), expected);
    drop(clone);
    place.open();
}

#[test]
fn a_key_is_made_once_and_readable_by_its_owner_alone() {
    let place = Place::new();
    let (store, key) = Store::open(&place.path("deep/data")).unwrap();
    drop(store);
    let (_store, again) = Store::open(&place.path("deep/data")).unwrap();
    assert_eq!(key.id(), again.id());
    let path = place.path("deep/data/key");
    assert_eq!(read_key(&path).unwrap().id(), key.id());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim().len(), 64);
    let names = std::fs::read_dir(place.path("deep/data")).unwrap();
    assert_eq!(names.count(), 4, "blobs, key, lock and store.redb");
    let mode = std::fs::metadata(place.path("deep/data")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_key_made_by_many_at_once_is_one_key() {
    let place = Place::new();
    let path = place.path("key");
    let keys: Vec<_> = std::thread::scope(|threads| {
        let make = || threads.spawn(|| read_or_create_key(&path).unwrap().id());
        let made: Vec<_> = (0..8).map(|_| make()).collect();
        made.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[test]
fn a_key_that_cannot_be_trusted_is_refused_with_advice_and_left_alone() {
    let place = Place::new();
    let path = place.path("key");
    drop(place.open());
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("(mode 0644); run chmod 600"), "{refusal}");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for text in ["", "12ab", &"g".repeat(64), &"0".repeat(66), &"0".repeat(1 << 20)] {
        std::fs::write(&path, text).unwrap();
        assert!(place.refusal().contains("does not hold 64 hexadecimal digits"), "{text:.9}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    assert!(read_key(&place.path("none")).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn a_database_that_is_none_is_said_so() {
    let place = Place::new();
    std::fs::write(place.path("store.redb"), b"this is no database".repeat(1000)).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("store.redb"), "{refusal}");
}

/// Where `TMPDIR` points to. Run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_long_a_commit_takes() {
    let place = Place::new();
    let store = place.open();
    let mut id = 0_u64;
    for records in [1, 100] {
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                let changes: Vec<_> = (0..records)
                    .map(|_| {
                        id += 1;
                        let name = *blake3::hash(&id.to_le_bytes()).as_bytes();
                        Change::Keep { id: RecordId(name), bytes: vec![7; 2048].into() }
                    })
                    .collect();
                let began = Instant::now();
                store.commit(&changes).unwrap();
                began.elapsed()
            })
            .collect();
        times.sort();
        eprintln!("{records} records: median {:?}, worst {:?}", times[100], times[199]);
    }
    let began = Instant::now();
    assert_eq!(store.records().unwrap().len() as u64, id);
    eprintln!("{id} records in {} bytes, read in {:?}", store.usage(), began.elapsed());
}

#[test]
fn a_sweep_drops_what_nobody_names_and_spares_what_is_young() {
    let place = Place::new();
    let store = place.open();
    let bodies: Vec<Vec<u8>> = [10, 10_000].map(|bytes| vec![7; bytes]).to_vec();
    store.put_blob(b"module").unwrap();
    store.put_blob(b"forgotten").unwrap();
    store.put_blob(&bodies[1]).unwrap();
    let keep = |bytes: &Vec<u8>| Change::Body { result: result(bytes), bytes: bytes.clone() };
    store.commit(&[keep(&bodies[0]), keep(&b"stale".to_vec())]).unwrap();
    let needed = Needed {
        blobs: [BlobId::of(b"module")].into(),
        results: bodies.iter().map(|body| result(body)).collect(),
    };
    // The stale body goes at once: its job is gone. The file is too young to tell.
    assert_eq!(store.sweep(&needed, Store::SWEEP_AGE).unwrap(), 1);
    assert_eq!(store.sweep(&needed, Duration::ZERO).unwrap(), 1);
    assert_eq!(store.sweep(&needed, Duration::ZERO).unwrap(), 0);
    assert!(store.has(&blob(b"module")) && !store.has(&blob(b"forgotten")));
    assert!(bodies.iter().all(|body| store.has(&Wanted::Body(result(body)))));
    assert!(!store.has(&Wanted::Body(result(b"stale"))));
}

/// What the files and folders below a path take on disk.
fn du(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let about = std::fs::symlink_metadata(path).unwrap();
    let below = if about.is_dir() {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| du(&entry.unwrap().path())).sum()
    } else {
        0
    };
    about.blocks() * 512 + below
}

#[test]
fn the_account_of_the_disk_is_never_below_what_du_says_and_not_far_above() {
    let place = Place::new();
    let store = place.open();
    for n in 0..300_u32 {
        store.put_blob(&vec![7; n as usize * 37]).unwrap();
        store.commit(&[keep(n.to_le_bytes()[0], &n.to_le_bytes())]).unwrap();
    }
    let check = |store: &Store| {
        let (used, du) = (store.disk(0).used, du(place.0.path()));
        assert!(du <= used, "du says {du}, the account {used}");
        assert!(used <= du + du / 2 + (4 << 20), "du says {du}, the account {used}");
    };
    check(&store);
    assert_eq!(store.sweep(&Needed::default(), Duration::ZERO).unwrap(), 300);
    check(&store);
    drop(store);
    check(&place.open());
}

#[test]
fn a_full_disk_refuses_before_it_writes_and_takes_again_when_there_is_room() {
    let place = Place::new();
    let store = place.open();
    store.set_disk_max(24 << 20);
    let megabyte = |n: u8| vec![n; 1 << 20];
    let mut kept = 0_u8;
    let refused = loop {
        match store.put_blob(&megabyte(kept)) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { bytes: 1_048_576, .. }), "{refused}");
    assert!(refused.to_string().contains("raise disk in potluck.toml"), "{refused}");
    assert!(kept >= 8 && du(place.0.path()) <= 24 << 20);
    assert!(store.disk(0).full.is_some() && store.pressed().is_some());
    // What is acknowledged goes into the database, which has room of its own.
    store.commit(&[keep(1, &[7; 60_000]), note("a", "b")]).unwrap();
    // What is young stays; what is older and not needed goes, and no more than it takes.
    let needed = Needed { blobs: [BlobId::of(&megabyte(0))].into(), ..Needed::default() };
    assert!(!store.make_room(2 << 20, &needed).unwrap());
    for n in 0..kept {
        let at = std::time::SystemTime::now() - Duration::from_secs(1000 - u64::from(n));
        let file = std::fs::File::options().write(true).open(file_of(&place, &megabyte(n)));
        file.unwrap().set_modified(at).unwrap();
    }
    assert!(store.make_room(2 << 20, &needed).unwrap());
    let left: Vec<u8> = (0..kept).filter(|n| store.has(&blob(&megabyte(*n)))).collect();
    assert!(left.contains(&0) && !left.contains(&1) && left.contains(&(kept - 1)), "{left:?}");
    store.put_blob(&vec![99; 2 << 20]).unwrap();
    drop(store);
    assert_eq!(place.open().records().unwrap().len(), 1);
}

#[test]
fn a_database_that_may_not_grow_keeps_what_it_has_and_goes_on_when_it_may() {
    let place = Place::new();
    let store = place.open();
    store.commit(&[note("first", "kept")]).unwrap();
    store.set_disk_max(16 << 20);
    let large = |n: u64| {
        let id = RecordId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        Change::Keep { id, bytes: vec![7; 60_000].into() }
    };
    let mut kept = 0;
    let error = loop {
        match store.commit(&[large(kept)]) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_full() && kept > 10, "{error}");
    assert!(du(place.0.path()) <= 16 << 20);
    assert_eq!(store.records().unwrap().len() as u64, kept);
    assert_eq!(store.notes().unwrap().len(), 1);
    store.set_disk_max(64 << 20);
    store.commit(&[large(kept)]).unwrap();
    assert_eq!(store.records().unwrap().len() as u64, kept + 1);
}

#[test]
fn a_database_that_has_emptied_gives_its_file_back() {
    let place = Place::new();
    let store = place.open();
    let id = |n: u32| RecordId(*blake3::hash(&n.to_le_bytes()).as_bytes());
    for turn in 0..20 {
        let keep = |n: u32| Change::Keep { id: id(turn * 20 + n), bytes: vec![7; 60_000].into() };
        store.commit(&(0..20).map(keep).collect::<Vec<_>>()).unwrap();
    }
    let full = store.0.records.bytes();
    let gone: Vec<_> = (1..400).map(|n| Change::Forget { id: id(n) }).collect();
    store.commit(&gone).unwrap();
    store.sweep(&Needed::default(), Duration::ZERO).unwrap();
    let after = store.0.records.bytes();
    assert!(full > 24 << 20 && after <= full / 2, "{after} of {full} bytes are left");
    assert_eq!(store.records().unwrap().len(), 1);
}
