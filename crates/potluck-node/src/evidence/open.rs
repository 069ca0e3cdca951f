//! Reading an evidence file. Nothing in it is believed: the checksum says whether it arrived whole,
//! signatures and hashes say the rest.
//!
//! Records are held in memory, bounded; input pages stay in the file until a unit is run again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use potluck_unit::{
    BlobId, InputIndex, Job, JobId, PageRef, Record, RecordId, Row, Signed, rows_of_page,
};

use super::file::{
    Claim, EVIDENCE_BYTES_MAX, HEAD_BYTES, Kind, MAGIC, PART_HEAD_BYTES, RECORDS_BYTES_MAX,
    RECORDS_MAX, VERSION,
};

/// All that a file holds about a job. Exists only if every signature in it is good.
#[derive(Debug)]
pub struct Evidence {
    pub(super) job: Signed,
    pub(super) id: JobId,
    /// Receipts and closings, in the order of the file.
    pub(super) records: Vec<Signed>,
    /// What whoever wrote the file claims of each unit; none if it claims nothing.
    pub(super) claims: Option<Vec<Claim>>,
    pub(super) module: Option<Vec<u8>>,
    index: Option<InputIndex>,
    /// Where each page starts in the file.
    pages: BTreeMap<BlobId, u64>,
    /// The page last used: units that are run again are often neighbours.
    page: Option<(PageRef, Vec<Row>)>,
    file: BufReader<File>,
}

/// An evidence file can't be used. Displays as one sentence for a person; nothing has changed.
#[derive(Debug)]
pub enum EvidenceError {
    /// It can't be read, is no evidence file, or did not arrive whole.
    Unusable(String),
    /// It is whole, and somebody made it say what was never signed.
    Forged(String),
}

impl fmt::Display for EvidenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvidenceError::Unusable(why) | EvidenceError::Forged(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for EvidenceError {}

impl Evidence {
    /// Reads a file and checks everything in it that can be checked without running anything.
    /// Blocks.
    pub fn open(path: &Path) -> Result<Evidence, EvidenceError> {
        let mut reader = Reader::open(path)?;
        reader.check_sum()?;
        let mut loading = Loading::default();
        while let Some((kind, bytes)) = reader.part()? {
            loading.take(kind, bytes, &mut reader)?;
        }
        loading.finish(reader)
    }

    /// The job.
    pub fn job(&self) -> &Job {
        job_of(&self.job)
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The input of a unit, if it is in the file.
    pub(super) fn row(&mut self, unit: u32) -> Option<Row> {
        let page = self.index.as_ref()?.page_of(unit)?;
        if self.page.as_ref().is_none_or(|(held, _)| *held != page) {
            self.file.seek(SeekFrom::Start(*self.pages.get(&page.id)?)).ok()?;
            let mut bytes = vec![0; page.bytes as usize];
            self.file.read_exact(&mut bytes).ok()?;
            // The file may have changed since it was opened.
            (BlobId::of(&bytes) == page.id).then_some(())?;
            self.page = Some((page, rows_of_page(&bytes).ok()?));
        }
        let (_, rows) = self.page.as_ref()?;
        rows.get((unit - page.first_unit) as usize).cloned()
    }
}

fn job_of(record: &Signed) -> &Job {
    let Record::Job(job) = record.record() else {
        unreachable!("only a job's record has a job's id")
    };
    job
}

/// A file being read, part by part.
struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    bytes: u64,
    at: u64,
    kind: Option<Kind>,
}

impl Reader {
    fn open(path: &Path) -> Result<Reader, EvidenceError> {
        let shown = path.display();
        let unread = |error| {
            EvidenceError::Unusable(format!("cannot read {shown}: {error}; check the path"))
        };
        let file = File::open(path).map_err(unread)?;
        let metadata = file.metadata().map_err(unread)?;
        if !metadata.is_file() {
            return Err(EvidenceError::Unusable(format!("{shown} is not a file")));
        }
        let bytes = metadata.len();
        let file = BufReader::with_capacity(1 << 20, file);
        let mut reader = Reader { path: path.to_owned(), file, bytes, at: 0, kind: None };
        let mut head = [0; HEAD_BYTES];
        let (magic, version) = (&MAGIC[..], HEAD_BYTES - 1);
        if reader.file.read_exact(&mut head).is_err() || head[..version] != *magic {
            return Err(EvidenceError::Unusable(format!(
                "{shown} is no evidence of a job; make one with `potluck verify JOB --export FILE`"
            )));
        }
        if head[version] != VERSION {
            let other = head[version];
            return Err(EvidenceError::Unusable(format!(
                "{shown} is evidence of version {other}, and this program reads version {VERSION}; \
                 use one that is as new as the file"
            )));
        }
        if bytes > EVIDENCE_BYTES_MAX {
            let max = EVIDENCE_BYTES_MAX >> 30;
            return Err(EvidenceError::Unusable(format!(
                "{shown} is larger than any evidence can be, {max} GiB"
            )));
        }
        reader.at = HEAD_BYTES as u64;
        Ok(reader)
    }

    fn damaged(&self, what: &str) -> EvidenceError {
        let shown = self.path.display();
        EvidenceError::Unusable(format!(
            "{shown} is truncated or altered: {what}; get it once more from where it comes from"
        ))
    }

    fn forged(&self, what: impl fmt::Display) -> EvidenceError {
        let shown = self.path.display();
        EvidenceError::Forged(format!("{shown} is forged: {what}; do not rely on any of it"))
    }

    /// Compares the whole file with the checksum at its end, and goes back to the first part.
    fn check_sum(&mut self) -> Result<(), EvidenceError> {
        let end = (PART_HEAD_BYTES + 32) as u64;
        let body = self.bytes.checked_sub(end).filter(|body| *body >= self.at);
        let body = body.ok_or_else(|| self.damaged("it ends too soon"))?;
        match self.is_whole(body) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.damaged("its checksum is another")),
            Err(error) => Err(self.damaged(&error.to_string())),
        }
    }

    fn is_whole(&mut self, body: u64) -> std::io::Result<bool> {
        self.file.rewind()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader((&mut self.file).take(body))?;
        let mut last = [0; PART_HEAD_BYTES + 32];
        self.file.read_exact(&mut last)?;
        self.file.seek(SeekFrom::Start(self.at))?;
        Ok(last[0] == Kind::End as u8 && last[PART_HEAD_BYTES..] == *hasher.finalize().as_bytes())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EvidenceError> {
        self.file.read_exact(bytes).map_err(|error| self.damaged(&error.to_string()))
    }

    /// The next part; none at the end. With a good checksum, what is out of order was written so.
    fn part(&mut self) -> Result<Option<(Kind, Vec<u8>)>, EvidenceError> {
        let mut head = [0; PART_HEAD_BYTES];
        self.fill(&mut head)?;
        let [code, length @ ..] = head;
        let kind = Kind::of_code(code).filter(|kind| self.kind.is_none_or(|last| last <= *kind));
        let kind = kind.ok_or_else(|| self.forged(format_args!("a part of kind {code}")))?;
        self.at += PART_HEAD_BYTES as u64;
        self.kind = Some(kind);
        let length = u32::from_le_bytes(length) as usize;
        if length > kind.bytes_max() || self.at + length as u64 > self.bytes {
            let what = format!("{} is longer than it can be", kind.name());
            return Err(self.forged(what));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        self.at += length as u64;
        if kind != Kind::End {
            return Ok(Some((kind, bytes)));
        }
        if self.at == self.bytes { Ok(None) } else { Err(self.forged("it goes on after its end")) }
    }
}

/// What has been read so far.
#[derive(Default)]
struct Loading {
    job: Option<(Signed, JobId)>,
    records: Vec<Signed>,
    records_bytes: u64,
    seen: BTreeSet<RecordId>,
    claims: Vec<Claim>,
    module: Option<Vec<u8>>,
    index: Option<InputIndex>,
    pages: BTreeMap<BlobId, u64>,
    /// They come in the order of the index.
    pages_read: usize,
}

impl Loading {
    fn take(
        &mut self,
        kind: Kind,
        bytes: Vec<u8>,
        reader: &mut Reader,
    ) -> Result<(), EvidenceError> {
        let taken = match kind {
            Kind::Job => self.take_job(&bytes),
            Kind::Record => self.take_record(&bytes),
            Kind::Claims => self.take_claims(&bytes),
            Kind::Module => self.take_module(bytes),
            Kind::Index => self.take_index(&bytes),
            Kind::Page => self.take_page(&bytes, reader.at),
            Kind::End => Ok(()),
        };
        taken.map_err(|why| reader.forged(format_args!("{} {why}", kind.name())))
    }

    fn take_job(&mut self, bytes: &[u8]) -> Result<(), String> {
        let record = Signed::of_bytes(bytes).map_err(|error| error.to_string())?;
        let id = record.job_id().ok_or("is none")?;
        if self.job.replace((record, id)).is_some() {
            return Err("is there twice".to_owned());
        }
        Ok(())
    }

    fn known(&self) -> Result<(&Signed, JobId, &Job), String> {
        let (record, id) = self.job.as_ref().ok_or("comes without a job")?;
        Ok((record, *id, job_of(record)))
    }

    fn take_record(&mut self, bytes: &[u8]) -> Result<(), String> {
        let record = Signed::of_bytes(bytes).map_err(|error| error.to_string())?;
        let (about, id, job) = self.known()?;
        let fits = if let Record::Receipts(batch) = record.record() {
            batch.job == id
                && batch.receipts.last().is_some_and(|receipt| receipt.index < job.units)
        } else if let Record::Close(close) = record.record() {
            close.job == id && record.signer() == about.signer()
        } else {
            false
        };
        if !fits {
            return Err("is not about this job".to_owned());
        }
        self.records_bytes += bytes.len() as u64;
        if self.records.len() >= RECORDS_MAX || self.records_bytes > RECORDS_BYTES_MAX {
            return Err("is one too many".to_owned());
        }
        if self.seen.insert(record.id()) {
            self.records.push(record);
        }
        Ok(())
    }

    fn take_claims(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (first, claims) = Claim::read_part(bytes).ok_or("can't be read")?;
        let units = self.known()?.2.units as usize;
        if first as usize != self.claims.len() || self.claims.len() + claims.len() > units {
            return Err("do not follow one another".to_owned());
        }
        self.claims.extend(claims);
        Ok(())
    }

    fn take_module(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        if BlobId::of(&bytes) != self.known()?.2.module {
            return Err("is another than the job's".to_owned());
        }
        self.module = Some(bytes);
        Ok(())
    }

    fn take_index(&mut self, bytes: &[u8]) -> Result<(), String> {
        if BlobId::of(bytes) != self.known()?.2.inputs {
            return Err("is another than the job's".to_owned());
        }
        self.index = Some(InputIndex::of_blob(bytes).map_err(|error| error.to_string())?);
        Ok(())
    }

    fn take_page(&mut self, bytes: &[u8], end: u64) -> Result<(), String> {
        let index = self.index.as_ref().ok_or("comes without an index")?;
        let id = BlobId::of(bytes);
        let next = index.pages().get(self.pages_read);
        if next.is_none_or(|page| page.id != id || page.bytes as usize != bytes.len()) {
            return Err("is not the next of the index".to_owned());
        }
        self.pages_read += 1;
        self.pages.insert(id, end - bytes.len() as u64);
        Ok(())
    }

    fn finish(self, reader: Reader) -> Result<Evidence, EvidenceError> {
        let (job, id) = self.job.ok_or_else(|| reader.forged("it has no job"))?;
        let units = job_of(&job).units as usize;
        if !self.claims.is_empty() && self.claims.len() != units {
            return Err(reader.forged("it does not claim something of every unit"));
        }
        Ok(Evidence {
            job,
            id,
            records: self.records,
            claims: Some(self.claims).filter(|claims| !claims.is_empty()),
            module: self.module,
            index: self.index,
            pages: self.pages,
            page: None,
            file: reader.file,
        })
    }
}

#[cfg(test)]
mod tests {
    use potluck_unit::{
        Identity, InputTable, Key, Limits, Quality, Receipt, ReceiptBatch, ResultHash, Seat,
        Statement, Time, WorkDigest,
    };

    use super::super::file::{CLAIMS_MAX, Encoder, without_bodies};
    use super::*;

    const MODULE: &[u8] = b"module";

    fn table() -> InputTable {
        // Two pages, and both alike.
        let row = Row { args: vec![], stdin: vec![7; InputTable::PAGE_BYTES - 10] };
        InputTable::of_rows(&[row.clone(), row]).unwrap()
    }

    fn job() -> Signed {
        let (table, created) = (table(), Time(1_700_000_000_000));
        let job = Job {
            created,
            expires: created.plus_ms(1000),
            nonce: 1,
            module: BlobId::of(MODULE),
            module_bytes: 6,
            inputs: BlobId::of(&table.index),
            inputs_bytes: u32::try_from(table.index.len()).unwrap(),
            units: 2,
            limits: Limits::DEFAULT,
            copies: 1,
            quality: Quality::Bulk,
            peers: 1,
            priority: Job::PRIORITY_USUAL,
            label: String::new(),
            identity: Identity::NONE,
            extras: vec![],
        };
        Signed::sign(&Key::of_secret(&[1; 32]), Record::Job(job))
    }

    fn receipts(id: JobId, index: u32, bodies: Vec<Vec<u8>>) -> Signed {
        let result = bodies.first().map(|body| BlobId::of(body).result_hash());
        let (result, digest) = (result.unwrap_or(ResultHash([1; 16])), WorkDigest([2; 16]));
        let receipts = vec![Receipt { index, statement: Statement::Outcome { result, digest } }];
        let batch = ReceiptBatch::new(id, Time(5), Seat::Public);
        let record = Record::Receipts(ReceiptBatch { receipts, bodies, ..batch });
        Signed::sign(&Key::of_secret(&[2; 32]), record)
    }

    fn open(parts: &[(Kind, &[u8])]) -> Result<Evidence, EvidenceError> {
        let mut encoder = Encoder::default();
        let mut bytes = encoder.head();
        parts.iter().for_each(|(kind, part)| bytes.extend(encoder.part(*kind, part)));
        bytes.extend(encoder.end());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence");
        std::fs::write(&path, bytes).unwrap();
        Evidence::open(&path)
    }

    #[track_caller]
    fn forged(parts: &[(Kind, &[u8])], words: &str) {
        match open(parts) {
            Err(EvidenceError::Forged(why)) => assert!(why.contains(words), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rows_are_found_in_their_pages_even_if_pages_are_alike() {
        let (job, table) = (job(), table());
        assert_eq!((table.pages.len(), &table.pages[0]), (2, &table.pages[1]));
        let mut evidence = open(&[
            (Kind::Job, job.bytes()),
            (Kind::Module, MODULE),
            (Kind::Index, &table.index),
            (Kind::Page, &table.pages[0]),
            (Kind::Page, &table.pages[1]),
        ])
        .unwrap();
        assert_eq!(evidence.row(0).unwrap().stdin.len(), InputTable::PAGE_BYTES - 10);
        assert_eq!(evidence.row(1), evidence.row(0));
        assert_eq!(evidence.row(2), None);
    }

    #[test]
    fn what_belongs_to_another_job_or_place_is_forged() {
        let (job, table) = (job(), table());
        let id = job.job_id().unwrap();
        let job = (Kind::Job, &job.bytes()[..]);
        let other = receipts(JobId([9; 32]), 0, vec![]);
        let past = receipts(id, 2, vec![]);
        forged(&[], "no job");
        forged(&[job, job], "twice");
        forged(&[job, (Kind::Record, other.bytes())], "not about this job");
        forged(&[job, (Kind::Record, past.bytes())], "not about this job");
        forged(&[job, (Kind::Record, job.1)], "not about this job");
        forged(&[job, (Kind::Module, b"other")], "another than the job's");
        forged(&[job, (Kind::Index, b"other")], "another than the job's");
        forged(&[job, (Kind::Page, &table.pages[0])], "without an index");
        forged(&[job, (Kind::Index, &table.index), (Kind::Page, b"")], "not the next");
        forged(&[job, (Kind::Module, MODULE), (Kind::Claims, &[])], "a part of kind 3");
        forged(&[job, (Kind::Claims, &[0, 0])], "can't be read");
    }

    #[test]
    fn one_past_each_bound_is_forged() {
        let job = job();
        let job = (Kind::Job, &job.bytes()[..]);
        let long = vec![0; Kind::Module.bytes_max() + 1];
        forged(&[job, (Kind::Module, &long)], "longer than it can be");
        let long = vec![0; Kind::Record.bytes_max() + 1];
        forged(&[job, (Kind::Record, &long)], "longer than it can be");
        let long = vec![0; 4 + (CLAIMS_MAX + 1) * Claim::BYTES];
        forged(&[job, (Kind::Claims, &long)], "longer than it can be");
        // Claims on one unit too many and too few.
        for units in [1, 3] {
            forged(&[job, (Kind::Claims, &vec![0; 4 + units * Claim::BYTES])], "claim");
        }
    }

    #[test]
    fn a_record_without_its_bodies_is_the_same_record() {
        let id = job().job_id().unwrap();
        for bodies in [vec![], vec![b"body".to_vec()]] {
            let record = receipts(id, 0, bodies);
            let bare = Signed::of_bytes(without_bodies(&record)).unwrap();
            assert_eq!(bare.id(), record.id());
            let Record::Receipts(batch) = bare.record() else { panic!("other kind") };
            assert!(batch.bodies.is_empty());
        }
    }
}
