//! The pass against the engine's own canonicalisation, which it must equal bit for bit.

mod fuzz;
#[expect(clippy::cast_possible_truncation, reason = "random bits are cut to size")]
#[expect(clippy::wildcard_enum_match_arm, reason = "tables with a default")]
mod generator;
#[expect(clippy::cast_possible_truncation, reason = "random bits are cut to size")]
mod hostile;
mod operators;
mod rules;
