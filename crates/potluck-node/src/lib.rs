//! The body of Potluck: sockets, disk, clock, child processes and the local control interface.
//!
//! A node is one loop ([`hub`]) that waits for one thing, tells the peer, and carries out what the
//! peer wants done. Around it: [`net`] (QUIC), [`store`] (disk), [`fetch`] (getting blobs),
//! [`slots`] (running units in sandboxes) and [`control`] (the local user). Beside it [`Local`] runs
//! a program in a sandbox without any of that. What is decided is decided in `potluck-peer`; here
//! is no policy.

pub mod config;
mod options;
mod machine;
mod quantity;
mod node;
mod hub;
mod net;
mod store;
mod traffic;
mod notes;
mod fetch;
mod slots;
mod lender;
mod lending;
mod inputs;
mod local;
mod identity;
mod evidence;
mod giving;
pub mod control;
mod sensors;
mod checkup;

pub use checkup::{Checkup, Condition, Finding};
pub use control::api;
pub use evidence::{
    Contradiction, EVIDENCE_BYTES_MAX, Evidence, EvidenceError, FalseSeat, Progress, Proof, Report,
    Undecided, Unproven, Wrongdoing,
};
pub use giving::{
    GIVEN_EXPORT_BYTES_MAX, GIVEN_FAULTS_MAX, Given, GivenBy, GivenCheck, GivenInfo, GivenPart,
    check_given,
};
pub use identity::{Search, keep_identity, read_identity};
pub use local::Local;
pub use machine::Machine;
pub use node::{Node, StartError, StartErrorKind, control_socket, read_or_create_key};
pub use options::{Options, config_file, default_data_folder};
pub use potluck_sandbox::{FILES_MAX, FILES_MAX_BYTES, Lint, Output, Run, STDIN_MAX_BYTES, lint};
pub use quantity::{parse_duration, parse_rate, parse_size};
pub use slots::Lent;
#[doc(hidden)]
pub use slots::Rig;

use std::ffi::OsString;
use std::process::ExitCode;

/// Whether a module is one that the grid runs: a WASI preview-1 command within the profile. The
/// error is one sentence for a person.
pub fn check_module(wasm: &[u8]) -> Result<(), String> {
    potluck_sandbox::check(wasm).map(|_| ()).map_err(|error| error.to_string())
}

/// The hidden verb that makes this program a sandbox child, see [`sandbox_main`].
pub const SANDBOX_VERB: &str = "__sandbox";

/// What a sandbox child does: never returns to the program's other verbs. `args` are those after
/// [`SANDBOX_VERB`].
pub fn sandbox_main(args: impl Iterator<Item = OsString>) -> ExitCode {
    potluck_sandbox::child_main(args)
}

/// The software and its version, as peers tell each other.
pub const AGENT: &str = concat!("potluck/", env!("CARGO_PKG_VERSION"));
