//! Guests: what units come to, as a pure function of the unit, and what cheats say instead.

use std::sync::Arc;

use potluck_peer::{Chance, Report};
use potluck_unit::{BlobId, Fault, NoResult, Outcome, ReceiptBatch, ResultHash, UnitId, Witness};

/// Bytes of the outcomes that are too long to travel inside a receipt.
pub(crate) const BODY_BYTES: usize = 1500;

/// One unit's run.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) body: Arc<[u8]>,
    pub(crate) result: ResultHash,
    pub(crate) witness: Witness,
}

impl Guest {
    /// What every honest machine finds. Most outcomes are short, some too long to travel inside a
    /// receipt, some are faults.
    pub(crate) fn of(unit: &UnitId, index: u32) -> Guest {
        let outcome = match index % 11 {
            3 => Outcome::Result {
                exit_code: 1,
                stdout: unit.0.repeat(BODY_BYTES / 32 + 1)[..BODY_BYTES].to_vec(),
                files: vec![],
            },
            7 => Outcome::Fault(Fault::IntegerDivisionByZero),
            _ => Outcome::Result {
                exit_code: 0,
                stdout: format!("{index} of {:?}\n", &unit.0[..8]).into_bytes(),
                files: vec![],
            },
        };
        Guest::with(&outcome, *blake3::hash(&unit.0).as_bytes())
    }

    /// What a liar of this pact, or a lone one with a number of its own, makes up.
    pub(crate) fn lie(unit: &UnitId, index: u32, liar: u64) -> Guest {
        let stdout = format!("{index} of {:?} or so, says {liar}\n", &unit.0[..8]).into_bytes();
        let outcome = Outcome::Result { exit_code: 0, stdout, files: vec![] };
        Guest::with(&outcome, *blake3::hash(&liar.to_le_bytes()).as_bytes())
    }

    fn with(outcome: &Outcome, witness: [u8; 32]) -> Guest {
        let body: Arc<[u8]> = outcome.to_body().into();
        Guest { result: BlobId::of(&body).result_hash(), body, witness: Witness(witness) }
    }

    /// What the machine tells its peer of it.
    pub(crate) fn report(&self, index: u32) -> Report {
        let body = Some(self.body.clone());
        Report {
            index,
            result: Ok((self.result, self.witness)),
            body: body.filter(|body| body.len() <= ReceiptBatch::BODY_BYTES_MAX),
        }
    }
}

/// The report of a run that has nothing to say.
pub(crate) fn no_result(index: u32) -> Report {
    Report { index, result: Err(NoResult::HostMemory), body: None }
}

/// How long a unit takes at full speed, in microseconds. The same for everybody.
pub(crate) fn cost_us(seed: u64, index: u32, (least_us, most_us): (u64, u64)) -> u64 {
    let mut chance = Chance::of_seed(seed ^ u64::from(index).wrapping_mul(0x9e37_79b9));
    least_us + chance.below(most_us - least_us + 1)
}

/// Whether a unit fails on this machine, and only there.
pub(crate) fn fails_here(seed: u64, machine: usize, index: u32, per_mille: u64) -> bool {
    let mix = (machine as u64) << 32 | u64::from(index);
    Chance::of_seed(seed ^ mix.wrapping_mul(0xd1b5_4a32_d192_ed03)).happens(per_mille)
}
