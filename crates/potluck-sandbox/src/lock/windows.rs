//! Windows has no children yet. The pipes and their frames, spawning and signals here are those of
//! Unix, so the crate refuses to be built there (see `lib.rs`). What is to be written: named or
//! anonymous pipes under [`crate::pipe`]; a job object that kills on close, bounds memory and
//! processes and caps the processor's share; an AppContainer or a restricted token in place of the
//! domain; suspending by the job; idle priority class. There is nothing like the filter on system
//! calls.
