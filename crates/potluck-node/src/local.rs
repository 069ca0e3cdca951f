//! Running a program on this machine alone: in the very sandbox that units of the grid run in, with
//! no node and nothing on disk but the cache of compiled modules.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use potluck_sandbox::{Artefact, InputFile, Output, Run, Runner, Sandbox, Unit, check_files};
use potluck_unit::{JobId, Limits, ModuleId, RunReport, UnitId};

use crate::node::program;

/// A program that is ready to run, again and again.
#[derive(Debug)]
pub struct Local {
    sandbox: Sandbox,
    artefact: Result<Artefact, Run>,
    limits: Limits,
    files: Vec<InputFile>,
    runner: Option<Runner>,
}

impl Local {
    /// Compiles `wasm`, unless the data folder has it compiled, and checks what it is to run with:
    /// each of `files` is a path and what is in it. Blocks. The error is one sentence for a person.
    pub fn new(
        data: &Path,
        wasm: &[u8],
        limits: Limits,
        files: Vec<(String, Vec<u8>)>,
    ) -> Result<Local, String> {
        let files: Vec<InputFile> = (files.into_iter())
            .map(|(path, bytes)| InputFile { path, bytes: bytes.into() })
            .collect();
        check_files(&files, &limits).map_err(|error| error.to_string())?;
        // As a node would make it, so that one that comes later finds it as it should be.
        DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(|error| {
            format!(
                "cannot make the data folder {}: {error}; give another with --data",
                data.display()
            )
        })?;
        let program = program().map_err(|error| error.to_string())?;
        let sandbox = Sandbox::new(program, data.join("artefacts"));
        let artefact = sandbox
            .prepare(&ModuleId::of(wasm), wasm)
            .map_err(|refusal| nothing_ran(refusal.report(), &refusal));
        Ok(Local { sandbox, artefact, limits, files, runner: None })
    }

    /// Runs it once to its end, as unit `number` of a job whose id is all zeros: that is where its
    /// random bytes come from. `output`, if any, is told standard output as it comes. Blocks.
    pub fn run(
        &mut self,
        number: u32,
        args: &[String],
        stdin: &[u8],
        output: Option<Output<'_>>,
    ) -> Run {
        self.run_unit(UnitId::of(&JobId([0; 32]), number), args, stdin, output)
    }

    /// Runs it once to its end as this unit, with that unit's random bytes.
    pub(crate) fn run_unit(
        &mut self,
        id: UnitId,
        args: &[String],
        stdin: &[u8],
        output: Option<Output<'_>>,
    ) -> Run {
        let artefact = match &self.artefact {
            Ok(artefact) => artefact,
            Err(run) => return run.clone(),
        };
        let mut runner = match self.runner.take() {
            Some(runner) => runner,
            None => match self.sandbox.start_with(artefact, &self.limits, &self.files) {
                Ok(runner) => runner,
                Err(error) => return nothing_ran(error.report(), &error),
            },
        };
        let unit = Unit { id, args, stdin };
        let run = match output {
            Some(output) => runner.run_aloud(&unit, output),
            None => runner.run(&unit),
        };
        self.runner = Some(runner).filter(|runner| !runner.is_spent());
        run
    }

    /// Runs what comes next in a fresh child.
    pub fn renew(&mut self) {
        self.runner = None;
    }
}

/// What to report when no child ran; the reason stands where the program's own words would.
fn nothing_ran(report: RunReport, why: &impl ToString) -> Run {
    Run { report, stderr: (why.to_string() + "\n").into_bytes(), cpu: None }
}
