//! The world of Potluck: many peers in one thread with a virtual clock, a faulty network, cheats and
//! an oracle.
//!
//! Everything here follows from a [`Scenario`], its seed included: two runs of one scenario have the
//! same [`Trace`], so a failing seed is a bug report. The peers are the production code; only what
//! surrounds them (machines, network, guests) is made up, and made to fail.

mod scenario;
mod world;
mod fate;
mod machine;
mod guest;
mod network;
mod oracle;
mod trace;
mod crowd;

pub use crowd::{Crowd, Fared};
pub use oracle::Failure;
pub use scenario::{Blow, Churn, Conduct, Faults, MachineSpec, Scenario};
pub use trace::Trace;
pub use world::{Summary, World, run};
