//! The words of Potluck: ids, keys, jobs, units, receipts, messages and their exact bytes.
//!
//! Nothing here decides, waits, reads a clock or touches a file. Whatever two peers must agree on
//! bit for bit is defined in this crate, and only here.

mod id;
mod time;
mod key;
mod draw;
mod identity;
mod limits;
mod inputs;
mod job;
mod claim;
mod files;
mod outcome;
mod receipt;
mod tree;
mod proof;
mod contact;
mod record;
mod message;
mod encoding;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;

pub use claim::{Claim, Piece};
pub use contact::Contact;
pub use draw::{Draw, DrawProof};
pub use encoding::DecodeError;
pub use files::{OutFile, PathError, check_path, files_length, read_files, write_files};
pub use id::{
    BlobId, IdError, JobId, Lot, ModuleId, PeerId, RecordId, ResultHash, UnitId, Witness,
    WorkDigest,
};
pub use identity::Identity;
pub use inputs::{InputIndex, InputTable, InputsError, PageRef, Row, rows_of_page};
pub use job::{Extra, Job, Quality};
pub use key::{Key, Signature};
pub use limits::{Limits, LimitsError};
pub use message::{Compare, Fingerprint, Hello, IdRange, IdSum, Listing, Message, Topic};
pub use outcome::{Fault, NoResult, Outcome, OutcomeError, RunReport};
pub use proof::Proof;
pub use receipt::{Receipt, ReceiptBatch, ReceiptHead, Seat, Statement};
pub use record::{Close, Record, Signed, id_of, results_root};
pub use time::Time;
