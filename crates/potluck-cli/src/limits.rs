//! The limits of a unit, as flags.

use std::time::Duration;

use potluck_unit::Limits;

use crate::exit::Failure;
use crate::quantity::{ms_of, parse_duration, parse_size};

/// What one unit may use.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LimitArgs {
    /// Memory that one unit may use
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = parse_size)]
    memory: u64,
    /// Bytes that one unit may write to standard output
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_size)]
    output_limit: u64,
    /// Bytes that one unit may keep in its folder /out, paths included [default: no such folder]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    out_limit: Option<u64>,
    /// How long one unit may run
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    deadline: Duration,
}

impl LimitArgs {
    /// What was asked for, if it can be asked for.
    pub(crate) fn limits(&self) -> Result<Limits, Failure> {
        self.limits_with_out(0)
    }

    /// The same with a folder `/out` of so many bytes, if nothing was said of one.
    pub(crate) fn limits_with_out(&self, otherwise_bytes: u64) -> Result<Limits, Failure> {
        let limits = Limits {
            memory_max_bytes: self.memory,
            output_max_bytes: self.output_limit,
            deadline_ms: ms_of(self.deadline),
            out_max_bytes: self.out_limit.unwrap_or(otherwise_bytes),
        };
        limits.check().map_err(|error| {
            let next = "change --memory, --output-limit, --out-limit or --deadline";
            Failure::input(format!("{error}; {next}"))
        })?;
        Ok(limits)
    }
}
