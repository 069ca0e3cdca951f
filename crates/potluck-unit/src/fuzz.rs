//! What the fuzz target `record` in `tests/fuzz` calls: any bytes may be given, and a claim that fails
//! panics. The test below gives it the corpus.

use crate::receipt::ReceiptHead;
use crate::{
    InputIndex, JobId, Key, Message, NoResult, Outcome, Receipt, ReceiptBatch, Record, ResultHash,
    Seat, Signed, Statement, Time, WorkDigest, id_of, rows_of_page,
};

/// Bytes from a stranger: nothing panics, and whatever is read is written back as it was.
pub fn record(bytes: &[u8]) {
    let Some((what, bytes)) = bytes.split_first() else { return };
    match what % 4 {
        0 => signed(bytes),
        1 => message(bytes),
        2 => tail(bytes),
        _ => blobs(bytes),
    }
}

/// Signatures count as good here: no fuzzer can make one.
fn signed(bytes: &[u8]) {
    let strict = Signed::of_bytes(bytes);
    let Ok(read) = Signed::of_bytes_with(bytes, |_, _, _| true) else {
        assert!(strict.is_err(), "good signatures make nothing worse");
        return;
    };
    assert_eq!(&**read.bytes(), bytes);
    assert_eq!(id_of(bytes), Some(read.id()));
    let key = Key::of_secret(&[1; 32]);
    let again = Signed::sign(&key, read.record().clone());
    let head = Signed::of_bytes_with(again.bytes(), |_, _, _| true).map(|again| {
        assert_eq!(again.record(), read.record());
        again.bytes().len()
    });
    assert_eq!(head, Ok(bytes.len()), "the same head and tail");
    if let Record::Proof(proof) = read.record() {
        let _ = proof.check();
    }
    if let Record::Job(job) = read.record() {
        assert!(job.chunks() > 0 && job.units_of(job.chunks() - 1).end == job.units);
        let _ = job.unknown_requirement();
    }
}

fn message(bytes: &[u8]) {
    if let Ok(read) = Message::of_bytes(bytes) {
        assert_eq!(read.to_bytes(), bytes);
        if let Message::Records(records) = read {
            records.iter().for_each(|record| signed(record));
        }
    }
}

/// A tail under a head that vouches for whatever it holds.
fn tail(bytes: &[u8]) {
    let Some(([count, rest_of_count], tail)) = bytes.split_first_chunk() else { return };
    let entries = u16::from_le_bytes([*count, *rest_of_count]);
    let batch = ReceiptBatch {
        receipts: receipts(entries, tail),
        ..ReceiptBatch::new(JobId([1; 32]), Time(1), Seat::Public)
    };
    let head = ReceiptHead { entries, ..batch.head() };
    match ReceiptBatch::of_tail(&head, tail) {
        Ok(read) => assert_eq!(read.tail(), tail),
        Err(_) => {
            let own = batch.tail();
            let whole = (1..=ReceiptBatch::ENTRIES_MAX).contains(&batch.receipts.len());
            let read = ReceiptBatch::of_tail(&batch.head(), &own);
            assert_eq!(read.is_ok(), whole, "what is written is read");
        }
    }
}

/// The receipts that a tail begins with, read as loosely as can be.
fn receipts(count: u16, mut tail: &[u8]) -> Vec<Receipt> {
    let (mut receipts, mut next) = (Vec::new(), 0u32);
    for _ in 0..count {
        let Some((code, rest)) = tail.split_first() else { break };
        let Some(index) = next.checked_add(u32::from(code >> 1)) else { break };
        let statement = if code & 1 == 1 {
            let Some((code, after)) = rest.split_first() else { break };
            tail = after;
            NoResult::of_code(*code).map(Statement::NoResult)
        } else {
            let Some((said, after)) = rest.split_first_chunk::<32>() else { break };
            tail = after;
            let (mut result, mut digest) = (ResultHash([0; 16]), WorkDigest([0; 16]));
            result.0.copy_from_slice(&said[..16]);
            digest.0.copy_from_slice(&said[16..]);
            Some(Statement::Outcome { result, digest })
        };
        let Some(statement) = statement else { break };
        receipts.push(Receipt { index, statement });
        next = index + 1;
    }
    receipts
}

/// Blobs that peers fetch from each other.
fn blobs(bytes: &[u8]) {
    let Some((what, bytes)) = bytes.split_first() else { return };
    match what % 3 {
        0 => {
            if let Ok(outcome) = Outcome::of_body(bytes) {
                assert_eq!(outcome.to_body(), bytes);
            }
        }
        1 => {
            if let Ok(index) = InputIndex::of_blob(bytes) {
                let first = index.pages().first();
                assert_eq!(index.page_of(0), first.copied());
            }
        }
        _ => drop(rows_of_page(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_corpus_of_records_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/record");
        let mut inputs = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            super::record(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs >= 20, "{inputs} inputs");
    }

    /// Writes the inputs to begin with: `cargo test -p potluck-unit seeds_of_records -- --ignored`
    #[test]
    #[ignore = "writes into tests/fuzz/corpus"]
    fn seeds_of_records() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/record");
        std::fs::create_dir_all(&folder).unwrap();
        let write = |kind: u8, bytes: &[u8]| {
            let input = [&[kind], bytes].concat();
            let name = blake3::hash(&input).to_hex();
            std::fs::write(folder.join(&name[..16]), input).unwrap();
        };
        for record in crate::record::tests::samples() {
            let signed = crate::Signed::sign(&crate::Key::of_secret(&[7; 32]), record);
            write(0, signed.bytes());
            let message = crate::Message::Records(vec![signed.bytes().clone()]);
            write(1, &message.to_bytes());
            if let crate::Record::Receipts(batch) = signed.record() {
                let count = u16::try_from(batch.receipts.len()).unwrap().to_le_bytes();
                write(2, &[&count[..], &batch.tail()].concat());
            }
        }
        for message in crate::message::tests::samples() {
            write(1, &message.to_bytes());
        }
        for text in ["", "168\n"] {
            write(3, &[&[0], &crate::receipt::tests::outcome(text).to_body()[..]].concat());
        }
        let rows = [crate::Row { args: vec!["a".to_owned()], stdin: vec![1, 2, 3] }];
        let table = crate::InputTable::of_rows(&rows).unwrap();
        write(3, &[&[1], &table.index[..]].concat());
        write(3, &[&[2], &table.pages[0][..]].concat());
    }
}
