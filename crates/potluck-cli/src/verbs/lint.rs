//! `potluck lint`: whether modules can be run, before anybody is asked to.

use std::path::{Path, PathBuf};

use potluck_node::Lint;
use serde_json::json;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::module;
use crate::print::count;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The modules: WebAssembly, or its text form
    #[arg(value_name = "MODULE", required = true)]
    modules: Vec<PathBuf>,
}

/// Looks at one module after another; fails if one of them can't be run.
pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    for path in &args.modules {
        match module::wasm(path) {
            Ok(wasm) => {
                let lint = potluck_node::lint(&wasm);
                context.printer.answer(&value(path, &lint), || text(path, &lint))?;
                if !lint.fits() {
                    exit = Exit::Input;
                }
            }
            Err(failure) => {
                context.printer.failure(&failure);
                exit = failure.exit;
            }
        }
    }
    Ok(exit)
}

fn text(path: &Path, lint: &Lint) -> String {
    let shown = path.display();
    let size = count(lint.size_bytes, "byte");
    let head = match &lint.info {
        Some(info) => {
            let functions = count(info.functions, "function");
            format!("{shown}: fits {PROFILE} ({size}, {functions})")
        }
        None => format!("{shown}: does not fit {PROFILE} ({size})"),
    };
    let reasons = lint.reasons.iter().map(|reason| format!("  - {reason}"));
    let advice = lint.advice.iter().map(|advice| format!("  note: {advice}"));
    std::iter::once(head).chain(reasons).chain(advice).map(|line| line + "\n").collect()
}

fn value(path: &Path, lint: &Lint) -> serde_json::Value {
    let reasons: Vec<String> = lint.reasons.iter().map(ToString::to_string).collect();
    let advice = lint.advice.iter();
    let advice: Vec<_> =
        advice.map(|advice| json!({ "kind": advice.kind(), "text": advice.to_string() })).collect();
    json!({
        "module": path.display().to_string(),
        "profile": PROFILE,
        "fits": lint.fits(),
        "bytes": lint.size_bytes,
        "functions": lint.info.map(|info| info.functions),
        "memory_min_bytes": lint.info.map(|info| info.memory_min_bytes),
        "reasons": reasons,
        "advice": advice,
    })
}

const PROFILE: &str = "potluck-wasm-1";
