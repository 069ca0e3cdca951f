//! What an author wants to know of a module before it is sent: every reason why it does not fit the
//! profile, and what makes it slow or costly on strangers' machines.
//!
//! Nothing here decides anything. What counts is [`crate::check`], and `lint` agrees with it.

use potluck_unit::Limits;
use wasmparser::{FunctionBody, KnownCustom, Operator, Parser, Payload, TypeRef};

use crate::nan;
use crate::preview1;
use crate::profile::{self, ModuleError, ModuleInfo, clip};

/// What there is to say about a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lint {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// What was found out about it, if it fits `potluck-wasm-1`.
    pub info: Option<ModuleInfo>,
    /// Why it does not fit, as far as it can be told at once; empty if it does.
    pub reasons: Vec<ModuleError>,
    /// What else its author may want to know; empty if it does not fit.
    pub advice: Vec<Advice>,
}

impl Lint {
    /// Whether units of this module run.
    pub fn fits(&self) -> bool {
        self.info.is_some()
    }
}

/// Something that is allowed, and that its author may not want.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Advice {
    /// Float operations whose NaNs have other bits on other processors, so that these are checked
    /// for wherever they could be seen.
    #[error(
        "{operations} float operations can make a NaN, {in_loops} of them in loops: {guards} checks \
         make it the same on every processor; each value that is stored, passed or returned takes one"
    )]
    CanonicalNans {
        /// In the whole module.
        operations: u64,
        /// Inside a loop.
        in_loops: u64,
        /// Checks that compiling adds.
        guards: u64,
    },
    /// Loops over memory without a single vector instruction.
    #[error(
        "{loops} loops work on memory and none uses SIMD; if that is where the time goes, build with \
         -msimd128 (C) or -C target-feature=+simd128 (Rust)"
    )]
    NoSimd {
        /// How many loops have loads or stores.
        loops: u64,
    },
    /// Compiling it takes long enough to be felt on every machine that joins the job.
    #[error("every worker first compiles it, which takes about {seconds} s of processor time")]
    SlowToCompile {
        /// Processor time, in seconds.
        seconds: u64,
    },
    /// It starts with more memory than a job has by default.
    #[error(
        "starts with {found} bytes of memory, and a job has {default} by default: give the job \
         more with --memory"
    )]
    MemoryAboveDefault {
        /// What it starts with.
        found: u64,
        /// What a job has.
        default: u64,
    },
    /// Imports that exist, and whose every call is an error.
    #[error("calls to {} are errors here: there are no sockets, links and signals", .names.join(", "))]
    Stubbed {
        /// Their names.
        names: Vec<String>,
    },
    /// Sections that nothing here reads.
    #[error(
        "{names_bytes} bytes are names and {debug_bytes} are debug information, which travel to \
         every worker unread: -s strips them"
    )]
    Strippable {
        /// The name section.
        names_bytes: u64,
        /// Sections of DWARF and the like.
        debug_bytes: u64,
    },
}

impl Advice {
    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Advice::CanonicalNans { .. } => "canonical-nans",
            Advice::NoSimd { .. } => "no-simd",
            Advice::SlowToCompile { .. } => "slow-to-compile",
            Advice::MemoryAboveDefault { .. } => "memory-above-default",
            Advice::Stubbed { .. } => "stubbed",
            Advice::Strippable { .. } => "strippable",
        }
    }
}

/// Says all there is to say about `wasm`. Reads it a few times over, compiles nothing.
pub fn lint(wasm: &[u8]) -> Lint {
    let size_bytes = wasm.len() as u64;
    match profile::check(wasm) {
        Ok(info) => {
            let advice = Costs::of(wasm).advice(&info);
            Lint { size_bytes, info: Some(info), reasons: Vec::new(), advice }
        }
        Err(first) => {
            let mut reasons = profile::reasons(wasm);
            if reasons.is_empty() {
                reasons.push(first);
            }
            Lint { size_bytes, info: None, reasons, advice: Vec::new() }
        }
    }
}

/// What is counted in a module that fits.
#[derive(Debug, Default)]
struct Costs {
    code_bytes: u64,
    float_operations: u64,
    float_operations_in_loops: u64,
    guards: u64,
    simd_operations: u64,
    loops_on_memory: u64,
    names_bytes: u64,
    debug_bytes: u64,
    stubbed: Vec<String>,
}

impl Costs {
    fn of(wasm: &[u8]) -> Costs {
        let mut costs = Costs { guards: nan::guards(wasm), ..Costs::default() };
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            if let Payload::ImportSection(section) = payload {
                for import in section.into_imports().map_while(Result::ok) {
                    if matches!(import.ty, TypeRef::Func(_)) && preview1::is_stub(import.name) {
                        costs.stubbed.push(clip(import.name));
                    }
                }
            } else if let Payload::CodeSectionEntry(body) = payload {
                costs.body(&body);
            } else if let Payload::CustomSection(section) = payload {
                let bytes = section.range().len() as u64;
                if matches!(section.as_known(), KnownCustom::Name(_)) {
                    costs.names_bytes += bytes;
                } else if section.name().contains("debug") {
                    costs.debug_bytes += bytes;
                }
            }
        }
        costs
    }

    fn body(&mut self, body: &FunctionBody<'_>) {
        self.code_bytes += body.range().len() as u64;
        // One entry for each open block: whether it is a loop, and whether that works on memory.
        let mut blocks: Vec<(bool, bool)> = Vec::new();
        let Ok(operators) = body.get_operators_reader() else { return };
        for operator in operators.into_iter().map_while(Result::ok) {
            if matches!(operator, Operator::Loop { .. }) {
                blocks.push((true, false));
            } else if matches!(operator, Operator::Block { .. } | Operator::If { .. }) {
                blocks.push((false, false));
            } else if !matches!(operator, Operator::End) {
                self.count(&operator, &mut blocks);
            } else if let Some((true, true)) = blocks.pop() {
                self.loops_on_memory += 1;
            }
        }
    }

    fn count(&mut self, operator: &Operator<'_>, blocks: &mut [(bool, bool)]) {
        if makes_nan(operator) {
            self.float_operations += 1;
            if blocks.iter().any(|(is_loop, _)| *is_loop) {
                self.float_operations_in_loops += 1;
            }
        }
        if is_simd(operator) {
            self.simd_operations += 1;
        }
        if is_memory(operator)
            && let Some((_, on_memory)) = blocks.iter_mut().rev().find(|(is_loop, _)| *is_loop)
        {
            *on_memory = true;
        }
    }

    fn advice(self, info: &ModuleInfo) -> Vec<Advice> {
        let seconds = self.code_bytes.div_ceil(COMPILED_BYTES_PER_S);
        let (found, default) = (info.memory_min_bytes, Limits::DEFAULT.memory_max_bytes);
        let Costs { names_bytes, debug_bytes, .. } = self;
        let all = [
            (found > default).then_some(Advice::MemoryAboveDefault { found, default }),
            (!self.stubbed.is_empty()).then_some(Advice::Stubbed { names: self.stubbed }),
            (self.float_operations > 0).then_some(Advice::CanonicalNans {
                operations: self.float_operations,
                in_loops: self.float_operations_in_loops,
                guards: self.guards,
            }),
            (self.simd_operations == 0 && self.loops_on_memory > 0)
                .then_some(Advice::NoSimd { loops: self.loops_on_memory }),
            (seconds > 1).then_some(Advice::SlowToCompile { seconds }),
            (names_bytes + debug_bytes >= STRIPPABLE_MIN_BYTES)
                .then_some(Advice::Strippable { names_bytes, debug_bytes }),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Whether the result may be a NaN whose bits are the processor's choice. These are the operations
/// that the engine makes canonical.
fn makes_nan(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::F32Add
            | O::F32Sub
            | O::F32Mul
            | O::F32Div
            | O::F32Min
            | O::F32Max
            | O::F32Sqrt
            | O::F32Ceil
            | O::F32Floor
            | O::F32Trunc
            | O::F32Nearest
            | O::F32DemoteF64
            | O::F64Add
            | O::F64Sub
            | O::F64Mul
            | O::F64Div
            | O::F64Min
            | O::F64Max
            | O::F64Sqrt
            | O::F64Ceil
            | O::F64Floor
            | O::F64Trunc
            | O::F64Nearest
            | O::F64PromoteF32
            | O::F32x4Add
            | O::F32x4Sub
            | O::F32x4Mul
            | O::F32x4Div
            | O::F32x4Min
            | O::F32x4Max
            | O::F32x4Sqrt
            | O::F32x4Ceil
            | O::F32x4Floor
            | O::F32x4Trunc
            | O::F32x4Nearest
            | O::F32x4DemoteF64x2Zero
            | O::F64x2Add
            | O::F64x2Sub
            | O::F64x2Mul
            | O::F64x2Div
            | O::F64x2Min
            | O::F64x2Max
            | O::F64x2Sqrt
            | O::F64x2Ceil
            | O::F64x2Floor
            | O::F64x2Trunc
            | O::F64x2Nearest
            | O::F64x2PromoteLowF32x4
    )
}

/// Whether this is one of the vector instructions.
fn is_simd(operator: &Operator<'_>) -> bool {
    macro_rules! is_any_of {
        ($( @$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })?
            => $visit:ident ($($ann:tt)*) )*) => {
            matches!(operator, $(Operator::$op { .. })|*)
        };
    }
    wasmparser::for_each_visit_simd_operator!(is_any_of)
}

/// Whether this is a load or store of numbers.
fn is_memory(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::I32Load { .. }
            | O::I64Load { .. }
            | O::F32Load { .. }
            | O::F64Load { .. }
            | O::I32Load8S { .. }
            | O::I32Load8U { .. }
            | O::I32Load16S { .. }
            | O::I32Load16U { .. }
            | O::I32Store { .. }
            | O::I64Store { .. }
            | O::F32Store { .. }
            | O::F64Store { .. }
            | O::I32Store8 { .. }
            | O::I32Store16 { .. }
    )
}

/// What compilers of real programs were measured at, on one core.
const COMPILED_BYTES_PER_S: u64 = 900_000;
/// Less is not worth a word.
const STRIPPABLE_MIN_BYTES: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn lint_of(fields: &str) -> Lint {
        let text = format!("(module {fields} (func (export \"_start\")))");
        lint(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn a_small_integer_program_needs_no_advice() {
        let lint = lint_of("(memory 1) (func (loop (br_if 0 (i32.const 0))))");
        assert!(lint.fits());
        assert_eq!((lint.reasons, lint.advice), (vec![], vec![]));
    }

    #[test]
    fn float_operations_are_counted_inside_and_outside_loops() {
        let lint = lint_of(
            "(func (param f64 v128) (result f64)
               (drop (f64.add (local.get 0) (local.get 0)))
               (drop (f64.neg (f64.abs (f64.copysign (local.get 0) (local.get 0)))))
               (loop
                 (block (drop (f64x2.mul (local.get 1) (local.get 1))))
                 (drop (f64.promote_f32 (f32.demote_f64 (local.get 0)))))
               (f64.sqrt (local.get 0)))",
        );
        assert_eq!(lint.advice, [Advice::CanonicalNans { operations: 5, in_loops: 3, guards: 1 }]);
    }

    #[test]
    fn loops_on_memory_want_simd_unless_there_is_some() {
        let loops = "(memory 1) (func (loop (loop (drop (i32.load (i32.const 0))))
             (i64.store (i32.const 0) (i64.const 0))) (drop (i32.load (i32.const 0))))";
        assert_eq!(lint_of(loops).advice, [Advice::NoSimd { loops: 2 }]);
        let one = format!("{loops} (func (drop (v128.const i64x2 0 0)))");
        assert_eq!(lint_of(&one).advice, []);
    }

    #[test]
    fn stubs_memory_and_sections_nobody_reads_are_named() {
        let name = format!("$a{}", "a".repeat(2000));
        let lint = lint_of(&format!(
            r#"(import "wasi_snapshot_preview1" "sock_send"
                 (func (param i32 i32 i32 i32 i32) (result i32)))
               (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
               (memory 8193) (func {name})
               (@custom ".debug_info" "{}")"#,
            "d".repeat(500)
        ));
        let [Advice::MemoryAboveDefault { found, default }, Advice::Stubbed { names }, strippable] =
            &lint.advice[..]
        else {
            panic!("{lint:?}");
        };
        assert_eq!((*found, *default), (8193 << 16, 512 << 20));
        assert_eq!(names, &["sock_send"]);
        let Advice::Strippable { names_bytes, debug_bytes } = strippable else {
            panic!("{lint:?}");
        };
        assert!(*names_bytes > 2000 && (500..600).contains(debug_bytes), "{lint:?}");
    }

    #[test]
    fn much_code_is_slow_to_compile() {
        let function = format!("(func {})", "nop ".repeat(200_000));
        let lint = lint_of(&function.repeat(10));
        assert_eq!(lint.advice, [Advice::SlowToCompile { seconds: 3 }]);
    }

    #[test]
    fn a_module_that_does_not_fit_gets_every_reason_and_no_advice() {
        let lint = lint_of(
            r#"(import "env" "a" (func)) (import "env" "b" (func))
               (import "wasi_snapshot_preview1" "fd_close" (func (param i64)))
               (memory 1) (memory 1) (tag $t)
               (func $thrower (throw $t))
               (func (export "relaxed") (param v128) (result v128)
                 (f32x4.relaxed_madd (local.get 0) (local.get 0) (local.get 0)))
               (table 100001 funcref)"#,
        );
        assert!(!lint.fits());
        assert_eq!(lint.advice, []);
        let reasons: Vec<String> = lint.reasons.iter().map(ToString::to_string).collect();
        let begins = [
            "uses several memories, at byte",
            "uses exceptions, at byte",
            "uses relaxed SIMD (f32x4_relaxed_madd), in function 4 `relaxed` at byte",
            "imports env.a",
            "imports env.b",
            "imports wasi_snapshot_preview1.fd_close with another type",
            "elements of a table: 100001, and the limit is 100000",
        ];
        assert_eq!(reasons.len(), begins.len(), "{reasons:#?}");
        for (reason, begin) in reasons.iter().zip(begins) {
            assert!(reason.starts_with(begin), "{reason}");
        }
    }
}
