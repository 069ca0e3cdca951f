//! The rules of seats, claims and audits as plain arithmetic, for models coarser than a peer.

pub use crate::audits::{DELAY_MS as AUDIT_DELAY_MS, rate as audit_rate};
pub use crate::claims::RENEW_MS;
pub use crate::runs::FLUSH_AFTER_MS;
pub use crate::schedule::{
    CLAIM_SETTLED_US_MAX, LAST_UNITS, LEASE_EXTRA_MS, OVERDUE_EXTRA_MS, OVERDUE_TIMES,
    PATIENCE_EXTRA_MS, PATIENCE_TIMES, SETTLE_MS, guided,
};
pub use crate::seats::{LEVEL_MAX, SETTLERS, Windows, drained};
