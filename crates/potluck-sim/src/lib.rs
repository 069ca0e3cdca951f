//! The world of Potluck: many peers in one thread with a virtual clock, a faulty network, cheats and
//! an oracle.
//!
//! Everything here follows from a [`Scenario`], its seed included: two runs of one scenario have the
//! same [`Trace`], so a failing seed is a bug report. The peers are the production code; only what
//! surrounds them (machines, network, guests) is made up, and made to fail. First everything fails that
//! the scenario says, then there is calm, in which all must become well; the cheats go on. An oracle
//! looks at every decision of every honest peer: `oracle.rs` says what must hold, `cheats.rs` who means
//! harm and how, `mix.rs` what the worlds of a seed are made of.
//!
//! | to | run |
//! | --- | --- |
//! | test a change | `cargo test -p potluck-sim` (1,000 mixed worlds, some 190 s of processor time) |
//! | look for more over night | `POTLUCK_SIM_FROM=1000 POTLUCK_SIM_SEEDS=100000 cargo test -p potluck-sim --test seeds mixed -- --nocapture` |
//! | repeat what failed | the command that the failure prints |
//! | leave more out of it | the same with other parts in `POTLUCK_SIM_WITHOUT`, see [`Part`] |

mod scenario;
mod mix;
mod shrink;
mod world;
mod fate;
mod mail;
mod machine;
mod work;
mod guest;
mod cheats;
mod cheap;
mod network;
mod rules;
mod oracle;
mod trace;
mod story;
mod crowd;
mod coarse;

pub use coarse::Coarse;
pub use crowd::{Crowd, Fared, Lived, Lives};
pub use oracle::Failure;
pub use scenario::{
    Blow, Churn, Conduct, Done, Faults, JobSpec, MachineSpec, Promises, Scenario, Varies,
};
pub use shrink::{Part, shrink};
pub use trace::Trace;
pub use world::{Summary, World, live, run};
