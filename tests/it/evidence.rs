//! Evidence: what one node gives away, and what others who have nothing else make of it.

use std::path::{Path, PathBuf};

use potluck_unit::{
    BlobId, Identity, InputTable, Job, JobId, Key, Limits, Outcome, Quality, Receipt, ReceiptBatch,
    Record, Row, Seat, Signed, Statement, Time, WorkDigest,
};
use serde_json::Value;

use crate::errors::refused;
use crate::grid::{Finished, Grid, finish, potluck, until};
use crate::jobs::ECHO;

/// Checks a file where no node runs and none has ever run.
fn verify(grid: &Grid, file: &Path, more: &[&str]) -> Finished {
    let file = file.to_str().unwrap();
    finish(potluck(&grid.path("stranger"), &[&["verify", "--file", file], more].concat()))
}

fn short(id: &str) -> &str {
    &id[..8]
}

#[test]
fn a_stranger_finds_out_who_cheated_from_a_file_alone() {
    let mut grid = Grid::of(2);
    let liar = grid.add(&["--cheat"]).id.clone();
    let echo = grid.file("echo.wat", ECHO);
    until("everybody knows three workers", || {
        grid.workers().all(|worker| worker.ask(&["status"])["workers"] == 3)
    });
    let file = grid.path("evidence");
    let path = file.to_str().unwrap();
    let id = grid.ok(&["submit", echo.to_str().unwrap(), "--array", "0-199"]).trim().to_owned();
    let worker = grid.worker(0).data.clone();
    let told = until_told(&worker, &id, path);
    assert!(told.contains("every accepted result stands"), "{told}");
    for number in 0..3 {
        grid.kill(number);
    }
    let found = verify(&grid, &file, &["--units", "random:3"]);
    assert_eq!(found.code, 0, "{}", found.err);
    let accused = found.out.lines().filter(|line| line.ends_with("proof of cheating"));
    for line in accused.clone() {
        assert!(line.contains(&format!("peer {} signed R=", short(&liar))), "{line}");
    }
    assert!(accused.count() > 0, "{}", found.out);
    let found = verify(&grid, &file, &["--json"]);
    let report: Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!((&report["accepted"], &report["job"]), (&200.into(), &id.as_str().into()));
    for proof in report["proofs"].as_array().unwrap() {
        assert_eq!(proof["peer"], liar.as_str());
        assert_ne!(proof["said"], proof["found"]);
    }
    // Neither a key nor anything else of a node has been made.
    assert!(!grid.path("stranger").join("key").exists());
}

#[test]
fn evidence_that_did_not_arrive_whole_is_refused_in_one_line() {
    let grid = Grid::of(1);
    let echo = grid.file("echo.wat", ECHO);
    grid.ok(&["run", echo.to_str().unwrap(), "--array", "0-9", "-k", "1"]);
    let file = grid.path("evidence");
    let told = grid.ok(&["verify", "last", "--export", file.to_str().unwrap(), "--units", "all"]);
    assert!(told.contains("ran again  10 units"), "{told}");
    let bytes = std::fs::read(&file).unwrap();
    let broken = |name: &str, bytes: &[u8]| grid.file(name, bytes);
    for at in [20, 40, bytes.len() / 2, bytes.len() - 40, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        let found = verify(&grid, &broken("flipped", &flipped), &[]);
        refused(&found, 2, &["flipped", "truncated or altered"]);
        assert_eq!(found.out, "");
    }
    for end in [17, 30, bytes.len() / 2, bytes.len() - 1] {
        let found = verify(&grid, &broken("cut", &bytes[..end]), &[]);
        refused(&found, 2, &["cut", "truncated or altered"]);
    }
    refused(&verify(&grid, &broken("longer", &[&bytes[..], b"x"].concat()), &[]), 2, &["altered"]);
    for (name, other) in [("empty", &b""[..]), ("text", b"hello"), ("module", &wasm())] {
        refused(&verify(&grid, &broken(name, other), &[]), 2, &[name, "no evidence", "--export"]);
    }
    let mut newer = bytes.clone();
    newer[16] = 9;
    refused(&verify(&grid, &broken("newer", &newer), &[]), 2, &["version 9", "version 1"]);
    refused(&verify(&grid, &grid.path("nowhere"), &[]), 2, &["nowhere", "cannot read"]);
    refused(&verify(&grid, &file, &["--units", "10"]), 2, &["unit 10", "0 to 9"]);
    // With a checksum of its own the change is no accident.
    let mut forged = bytes[..bytes.len() - 37].to_vec();
    forged[60] ^= 1;
    end(&mut forged);
    refused(&verify(&grid, &broken("forged", &forged), &[]), 8, &["forged", "signature"]);
}

fn wasm() -> Vec<u8> {
    wat::parse_str(ECHO).unwrap()
}

/// One part of a file, as `docs/evidence.md` has it.
fn part(file: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    file.push(kind);
    file.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
    file.extend_from_slice(bytes);
}

fn end(file: &mut Vec<u8>) {
    let hash = BlobId::of(file);
    part(file, 7, hash.as_bytes());
}

/// The evidence of a job of four units that two peers ran and lied about alike.
fn conspiracy(grid: &Grid, with_inputs: bool, identity: Identity) -> PathBuf {
    let rows: Vec<Row> = (0..4).map(|n| Row { args: vec![n.to_string()], stdin: vec![] }).collect();
    let (table, module) = (InputTable::of_rows(&rows).unwrap(), wasm());
    let job = Job {
        created: Time(1_700_000_000_000),
        expires: Time(1_700_000_000_000 + 3_600_000),
        nonce: 1,
        module: BlobId::of(&module),
        module_bytes: u32::try_from(module.len()).unwrap(),
        inputs: BlobId::of(&table.index),
        inputs_bytes: u32::try_from(table.index.len()).unwrap(),
        units: 4,
        limits: Limits::DEFAULT,
        copies: 2,
        quality: Quality::Standard,
        peers: 1,
        priority: Job::PRIORITY_USUAL,
        label: "conspiracy".to_owned(),
        identity,
        extras: vec![],
    };
    let job = Signed::sign(&Key::of_secret(&[1; 32]), Record::Job(job));
    let id = job.job_id().unwrap();
    let mut file = b"potluck evidence\x01".to_vec();
    part(&mut file, 1, job.bytes());
    for secret in [2, 3] {
        part(&mut file, 2, lies(&id, secret).bytes());
    }
    if with_inputs {
        part(&mut file, 4, &module);
        part(&mut file, 5, &table.index);
        table.pages.iter().for_each(|page| part(&mut file, 6, page));
    }
    end(&mut file);
    grid.file("evidence", file)
}

/// What one of them signs.
fn lies(job: &JobId, secret: u8) -> Signed {
    let lie = Outcome::Result { exit_code: 0, stdout: b"a lie".to_vec(), files: vec![] };
    let (result, digest) = (lie.result_hash(), WorkDigest([secret; 16]));
    let statement = Statement::Outcome { result, digest };
    let receipts = (0..4).map(|index| Receipt { index, statement }).collect();
    let batch = ReceiptBatch::new(*job, Time(1_700_000_000_500), Seat::Public);
    let record = Record::Receipts(ReceiptBatch { receipts, ..batch });
    Signed::sign(&Key::of_secret(&[secret; 32]), record)
}

#[test]
fn a_quorum_of_liars_is_found_out_by_whoever_runs_a_unit_again() {
    let grid = Grid::new();
    let file = conspiracy(&grid, true, Identity::NONE);
    // They agree, so the records alone look fine.
    let believed = verify(&grid, &file, &[]);
    assert_eq!(believed.code, 0, "{}", believed.err);
    assert!(believed.out.contains("accepted   4 of 4"), "{}", believed.out);
    let found = verify(&grid, &file, &["--units", "2"]);
    assert_eq!(found.code, 8, "{}", found.out);
    assert!(found.out.contains("wrong      unit 2"), "{}", found.out);
    for secret in [2, 3] {
        let peer = Key::of_secret(&[secret; 32]).id();
        let named = format!("peer {} signed R=", peer.short());
        assert!(found.out.contains(&named), "{}", found.out);
    }
}

#[test]
fn what_can_not_be_run_again_is_not_called_right() {
    let grid = Grid::new();
    let file = conspiracy(&grid, false, Identity::NONE);
    let found = verify(&grid, &file, &["--units", "all"]);
    refused(&found, 5, &["4 units", "could not be decided", "not in the evidence"]);
}
/// Waits until a worker has evidence of a lie, and answers what it says of it.
fn until_told(worker: &Path, id: &str, file: &str) -> String {
    let mut told = String::new();
    until("the evidence has a lie in it and is complete", || {
        let finished = finish(potluck(worker, &["verify", id, "--export", file]));
        assert_eq!(finished.code, 0, "{}", finished.err);
        told = finished.out;
        told.contains("accepted   200 of 200") && told.contains("proof of cheating")
    });
    told
}

#[test]
fn in_an_open_grid_keys_that_cost_nothing_carry_no_result() {
    let grid = Grid::new();
    let identity = Identity { born: Time(1), nonce: 0 };
    let file = conspiracy(&grid, true, identity);
    let found = verify(&grid, &file, &[]);
    assert_eq!(found.code, 0, "{}", found.err);
    for words in ["accepted   0 of 4", "grid       open", "whose key proves no work"] {
        assert!(found.out.contains(words), "{}", found.out);
    }
}

#[test]
fn whoever_joins_the_grid_can_check_a_job_of_somebody_else() {
    let grid = Grid::of(2);
    let echo = grid.file("echo.wat", ECHO);
    let id = grid.ok(&["submit", echo.to_str().unwrap(), "--array", "0-99"]).trim().to_owned();
    until("both workers have every unit", || {
        grid.workers().all(|worker| worker.ask(&["job", "info", &id])["accepted"] == 100)
    });
    let join = &grid.worker(1).listen;
    // It lends nothing and has neither module nor inputs, and gets them to run units.
    let args = ["verify", &id, "--join", join, "--units", "7-9"];
    let found = finish(potluck(&grid.path("stranger"), &args));
    assert_eq!(found.code, 0, "{}{}", found.out, found.err);
    for words in ["accepted   100 of 100", "ran again  3 units"] {
        assert!(found.out.contains(words), "{}", found.out);
    }
}
