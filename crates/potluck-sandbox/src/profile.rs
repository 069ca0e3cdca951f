//! The profile `potluck-wasm-1`: which modules are units' programs at all.
//!
//! An allow-list of wasm features, limits on the shape of a module, the imports that exist and the
//! export that must. All of it is decided from the bytes alone with `wasmparser`, so every machine
//! says the same, and "not in the profile" is an outcome that is voted on like any other.

use wasmparser::{
    CompositeInnerType, ExternalKind, FuncToValidate, FuncValidatorAllocations, FunctionBody,
    Operator, OperatorsReader, Parser, Payload, TypeRef, ValidPayload, Validator,
    ValidatorResources, WasmFeatures,
};

use crate::preview1;

/// The features a module may use. Engines' defaults grow; this list does not.
///
/// Left out with intent: threads (races), relaxed SIMD (differs between processors), memory64,
/// multiple memories, GC, exceptions, stack switching, components.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::FLOATS
    .union(WasmFeatures::MUTABLE_GLOBAL)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::WIDE_ARITHMETIC);

/// What a worker must know of a module before it runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleInfo {
    /// The linear memory it starts with, in bytes.
    pub memory_min_bytes: u64,
    /// How many functions it defines.
    pub functions: u32,
}

/// Why a module is not one that Potluck runs. Every machine says the same; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// The first bytes are not those of a wasm module.
    #[error("not a wasm module (it starts with {starts})")]
    NotWasm {
        /// The first bytes, printable.
        starts: String,
    },
    /// A component, as newer toolchains make by default.
    #[error("a wasm component, not a core module: build it for wasm32-wasip1")]
    Component,
    /// The bytes end too early.
    #[error("the module is truncated at byte {at}")]
    Truncated {
        /// Where more was expected.
        at: u64,
    },
    /// It does not validate under any set of features.
    #[error("the module is not valid at byte {at}: {reason}")]
    NotValid {
        /// Where.
        at: u64,
        /// What the validator said.
        reason: String,
    },
    /// It validates, but not with the features of the profile.
    #[error("the module uses a wasm feature that is not in the profile, at byte {at}: {reason}")]
    Feature {
        /// Where.
        at: u64,
        /// What the validator said.
        reason: String,
    },
    /// An import that does not exist here.
    #[error(
        "imports {module}.{name}, which Potluck does not offer: only the functions of \
         wasi_snapshot_preview1 can be imported"
    )]
    UnknownImport {
        /// The module it is imported from.
        module: String,
        /// Its name there.
        name: String,
    },
    /// An import that exists, but not like this.
    #[error("imports {module}.{name} with another type: {asked} where Potluck offers {offered}")]
    ImportType {
        /// The module it is imported from.
        module: String,
        /// Its name there.
        name: String,
        /// The type that was asked for.
        asked: String,
        /// The type there is.
        offered: String,
    },
    /// A library, or a program for another host.
    #[error("does not export `_start`: not a WASI command")]
    NoStart,
    /// `_start` is something else than a function without parameters and results.
    #[error("exports a `_start` that is not a function without parameters and results")]
    StartType,
    /// It is larger in some way than the profile allows.
    #[error("{what}: {found}, and the limit is {max}")]
    OverLimit {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        max: u64,
    },
}

/// Whether this is a module that Potluck runs. Reads every byte, compiles nothing.
///
/// # Errors
///
/// The first reason found, in the order of the bytes; the exports are looked at last.
pub fn check(wasm: &[u8]) -> Result<ModuleInfo, ModuleError> {
    bound("the module's size in bytes", wasm.len() as u64, MODULE_MAX_BYTES)?;
    magic(wasm)?;
    let mut survey = Survey::default();
    let mut validator = Validator::new_with_features(FEATURES);
    let mut parser = Parser::new(0);
    parser.set_features(FEATURES);
    for payload in parser.parse_all(wasm) {
        let payload = payload.map_err(|error| parse_error(&error, wasm))?;
        survey.look(&payload).map_err(|error| error.of(wasm))?;
        match validator.payload(&payload).map_err(|error| parse_error(&error, wasm))? {
            ValidPayload::Func(function, body) => {
                survey.function(function, &body).map_err(|error| error.of(wasm))?;
            }
            ValidPayload::Ok | ValidPayload::Parser(_) | ValidPayload::End(_) => {}
        }
    }
    survey.finish()
}

/// What has been seen of a module so far.
#[derive(Default)]
struct Survey {
    types: Vec<Option<wasmparser::FuncType>>,
    /// The type index of every function, imported ones first.
    functions: Vec<u32>,
    bodies: u32,
    memory_min_bytes: u64,
    br_table_targets: u64,
    start: Option<(ExternalKind, u32)>,
    allocations: FuncValidatorAllocations,
}

impl Survey {
    fn look(&mut self, payload: &Payload<'_>) -> Result<(), Stop> {
        if let Payload::TypeSection(section) = payload {
            for group in section.clone() {
                self.types.extend(group?.into_types().map(|ty| match ty.composite_type.inner {
                    CompositeInnerType::Func(ty) => Some(ty),
                    CompositeInnerType::Array(_)
                    | CompositeInnerType::Struct(_)
                    | CompositeInnerType::Cont(_) => None,
                }));
            }
        } else if let Payload::ImportSection(section) = payload {
            for import in section.clone().into_imports() {
                self.import(&import?)?;
            }
        } else if let Payload::FunctionSection(section) = payload {
            bound("functions", section.count().into(), FUNCTIONS_MAX)?;
            for ty in section.clone() {
                self.functions.push(ty?);
            }
        } else if let Payload::TableSection(section) = payload {
            bound("tables", section.count().into(), TABLES_MAX.into())?;
            for table in section.clone() {
                bound("elements of a table", table?.ty.initial, TABLE_ELEMENTS_MAX as u64)?;
            }
        } else if let Payload::MemorySection(section) = payload {
            for memory in section.clone() {
                self.memory_min_bytes = memory?.initial.saturating_mul(PAGE_BYTES);
            }
        } else if let Payload::GlobalSection(section) = payload {
            bound("globals", section.count().into(), GLOBALS_MAX)?;
        } else if let Payload::ExportSection(section) = payload {
            for export in section.clone() {
                let export = export?;
                if export.name == "_start" {
                    self.start = Some((export.kind, export.index));
                }
            }
        }
        Ok(())
    }

    fn import(&mut self, import: &wasmparser::Import<'_>) -> Result<(), ModuleError> {
        let names = || (clip(import.module), clip(import.name));
        let offered = match import.module {
            preview1::MODULE => preview1::signature(import.name),
            _ => None,
        };
        let Some(offered) = offered else {
            let (module, name) = names();
            return Err(ModuleError::UnknownImport { module, name });
        };
        let asked = match import.ty {
            TypeRef::Func(index) | TypeRef::FuncExact(index) => {
                self.functions.push(index);
                self.function_type(index).map_or_else(|| "an unknown type".into(), describe)
            }
            TypeRef::Table(_) => "a table".into(),
            TypeRef::Memory(_) => "a memory".into(),
            TypeRef::Global(_) => "a global".into(),
            TypeRef::Tag(_) => "a tag".into(),
        };
        if asked == offered {
            return Ok(());
        }
        let (module, name) = names();
        Err(ModuleError::ImportType { module, name, asked, offered })
    }

    fn function_type(&self, index: u32) -> Option<&wasmparser::FuncType> {
        self.types.get(index as usize)?.as_ref()
    }

    fn function(
        &mut self,
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
    ) -> Result<(), Stop> {
        self.bodies += 1;
        bound("bytes of a function", body.range().len() as u64, BODY_MAX_BYTES)?;
        let mut validator = function.into_validator(std::mem::take(&mut self.allocations));
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader)?;
        bound("locals of a function", validator.len_locals().into(), LOCALS_MAX)?;
        let mut operators = OperatorsReader::new(reader);
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset()?;
            validator.op(at, &operator)?;
            let depth = validator.control_stack_height().into();
            bound("nested blocks of a function", depth, NESTING_MAX)?;
            if let Operator::BrTable { targets } = &operator {
                self.br_table_targets += u64::from(targets.len());
                bound("branch table targets", self.br_table_targets, BR_TABLE_TARGETS_MAX)?;
            }
        }
        operators.finish()?;
        self.allocations = validator.into_allocations();
        Ok(())
    }

    fn finish(self) -> Result<ModuleInfo, ModuleError> {
        let (kind, index) = self.start.ok_or(ModuleError::NoStart)?;
        let ty = self.functions.get(index as usize).and_then(|ty| self.function_type(*ty));
        match (kind, ty) {
            (ExternalKind::Func, Some(ty)) if ty.params().is_empty() && ty.results().is_empty() => {
                Ok(ModuleInfo { memory_min_bytes: self.memory_min_bytes, functions: self.bodies })
            }
            _ => Err(ModuleError::StartType),
        }
    }
}

/// Why a survey stopped: the bytes are wrong, or the profile forbids them.
enum Stop {
    Parse(wasmparser::Error),
    Profile(ModuleError),
}

impl Stop {
    fn of(self, wasm: &[u8]) -> ModuleError {
        match self {
            Stop::Parse(error) => parse_error(&error, wasm),
            Stop::Profile(error) => error,
        }
    }
}

impl From<wasmparser::Error> for Stop {
    fn from(error: wasmparser::Error) -> Stop {
        Stop::Parse(error)
    }
}

impl From<ModuleError> for Stop {
    fn from(error: ModuleError) -> Stop {
        Stop::Profile(error)
    }
}

fn bound(what: &'static str, found: u64, max: u64) -> Result<(), ModuleError> {
    if found > max { Err(ModuleError::OverLimit { what, found, max }) } else { Ok(()) }
}

fn magic(wasm: &[u8]) -> Result<(), ModuleError> {
    let start = &wasm[..wasm.len().min(8)];
    if start.len() >= 4 && !start.starts_with(b"\0asm") {
        return Err(ModuleError::NotWasm { starts: format!("`{}`", start.escape_ascii()) });
    }
    match start {
        [] => Err(ModuleError::NotWasm { starts: "nothing: it is empty".into() }),
        [_, _, _, _, _, _, 1, 0] => Err(ModuleError::Component),
        _ => Ok(()),
    }
}

fn parse_error(error: &wasmparser::Error, wasm: &[u8]) -> ModuleError {
    if is_truncated(wasm) {
        return ModuleError::Truncated { at: wasm.len() as u64 };
    }
    let (at, reason) = (error.offset() as u64, clip(error.message()));
    match Validator::new_with_features(WasmFeatures::all()).validate_all(wasm) {
        Ok(_) => ModuleError::Feature { at, reason },
        Err(_) => ModuleError::NotValid { at, reason },
    }
}

/// Whether a section says that it goes on beyond the last byte.
fn is_truncated(wasm: &[u8]) -> bool {
    let Some(mut rest) = wasm.get(8..) else { return true };
    while let [_id, tail @ ..] = rest {
        let size_bytes = tail.iter().take(4).take_while(|byte| **byte >= 0x80).count() + 1;
        let Some((size, tail)) = tail.split_at_checked(size_bytes) else { return true };
        let size = size.iter().rev().fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
        let Some(next) = tail.get(size..) else { return true };
        rest = next;
    }
    false
}

/// What a function type looks like in a message: `(i32, i64) -> i32`.
fn describe(ty: &wasmparser::FuncType) -> String {
    let list = |types: &[wasmparser::ValType]| {
        types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    match ty.results() {
        [] => format!("({})", list(ty.params())),
        results => format!("({}) -> {}", list(ty.params()), list(results)),
    }
}

/// Names come from strangers: none is printed longer than this.
fn clip(name: &str) -> String {
    const SHOWN_MAX: usize = 200;
    name.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect()
}

const PAGE_BYTES: u64 = 64 << 10;
/// Real programs are under 20 MB; above this, sending and compiling cost more than running.
const MODULE_MAX_BYTES: u64 = 32 << 20;
/// The largest real function that was measured has 29 KB.
const BODY_MAX_BYTES: u64 = 256 << 10;
/// The most that was measured is 46. Compile time grows with locals times blocks.
const LOCALS_MAX: u64 = 4096;
/// The deepest that was measured is 278.
const NESTING_MAX: u64 = 1000;
/// Each costs the compiler about 5 KB.
const FUNCTIONS_MAX: u64 = 100_000;
/// A guess: real programs have a handful.
const GLOBALS_MAX: u64 = 100_000;
/// Branch tables are copied by the compiler; the sum over all functions.
const BR_TABLE_TARGETS_MAX: u64 = 1_000_000;
/// Toolchains emit one table.
pub(crate) const TABLES_MAX: u32 = 16;
/// One element per function is what toolchains need. `table.grow` above it answers -1.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(wat: &str) -> String {
        check(&wat::parse_str(wat).unwrap()).unwrap_err().to_string()
    }

    fn with_start(fields: &str) -> String {
        format!("(module {fields} (func (export \"_start\")))")
    }

    #[test]
    fn a_command_is_accepted_and_surveyed() {
        let wasm = wat::parse_str(with_start(
            r#"(import "wasi_snapshot_preview1" "fd_write"
                 (func (param i32 i32 i32 i32) (result i32)))
               (memory (export "memory") 3)"#,
        ));
        let info = ModuleInfo { memory_min_bytes: 3 * PAGE_BYTES, functions: 1 };
        assert_eq!(check(&wasm.unwrap()), Ok(info));
    }

    #[test]
    fn each_refusal_is_one_clear_sentence() {
        assert_eq!(
            check(b"#!/bin/sh\n").unwrap_err().to_string(),
            "not a wasm module (it starts with `#!/bin/s`)"
        );
        assert_eq!(
            check(b"").unwrap_err().to_string(),
            "not a wasm module (it starts with nothing: it is empty)"
        );
        assert_eq!(check(b"\0asm\x0d\0\x01\0"), Err(ModuleError::Component));
        assert_eq!(refusal("(module)"), "does not export `_start`: not a WASI command");
        assert_eq!(
            refusal(r#"(module (func (export "_start") (param i32)))"#),
            "exports a `_start` that is not a function without parameters and results"
        );
        assert_eq!(
            refusal(r#"(module (memory (export "_start") 1))"#),
            "exports a `_start` that is not a function without parameters and results"
        );
        let env = with_start(r#"(import "env" "foo" (func))"#);
        assert_eq!(
            refusal(&env),
            "imports env.foo, which Potluck does not offer: only the functions of \
             wasi_snapshot_preview1 can be imported"
        );
        let write =
            with_start(r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i64)))"#);
        assert_eq!(
            refusal(&write),
            "imports wasi_snapshot_preview1.fd_write with another type: (i64) where Potluck \
             offers (i32, i32, i32, i32) -> i32"
        );
    }

    #[test]
    fn a_module_cut_anywhere_is_truncated_unless_a_section_ended_there() {
        let fields = r#"(memory (export "memory") 1) (data (i32.const 0) "hello")
            (func (result i32) i32.const 7 i32.const 8 i32.add)"#;
        let wasm = wat::parse_str(with_start(fields)).unwrap();
        let mut ends = 0;
        for length in 1..wasm.len() {
            if check(&wasm[..length]) != Err(ModuleError::Truncated { at: length as u64 }) {
                ends += 1;
            }
        }
        // The header, then types, functions, memory, exports and code; data is last.
        assert_eq!(ends, 6);
        let last = check(&wasm[..wasm.len() - 1]).unwrap_err().to_string();
        assert_eq!(last, format!("the module is truncated at byte {}", wasm.len() - 1));
    }

    #[test]
    fn features_outside_the_profile_are_named() {
        for fields in [
            "(memory 1 1 shared)",
            "(memory i64 1)",
            "(memory 1) (memory 1)",
            "(tag)",
            "(type (struct))",
            "(func (param externref))",
            "(func (param v128) (result v128)
               local.get 0 local.get 0 local.get 0 f32x4.relaxed_madd)",
        ] {
            let error = refusal(&with_start(fields));
            assert!(error.contains("not in the profile"), "{fields}: {error}");
        }
    }

    #[test]
    fn features_of_the_profile_are_accepted() {
        for fields in [
            "(func (param v128) (result v128) local.get 0 local.get 0 i32x4.add)",
            "(func $f return_call $f)",
            "(memory 1) (func i32.const 0 i32.const 0 i32.const 0 memory.fill)",
            "(table 1 funcref) (func ref.null func i32.const 1 table.grow drop)",
            "(func (param i64 i64) (result i64 i64) local.get 0 local.get 1 i64.mul_wide_u)",
        ] {
            let wasm = wat::parse_str(with_start(fields)).unwrap();
            assert!(check(&wasm).is_ok(), "{fields}: {:?}", check(&wasm));
        }
    }

    type Shape<'a> = &'a dyn Fn(usize) -> String;

    #[test]
    fn one_past_each_static_limit_is_refused_and_the_limit_is_not() {
        let fields = |fields: String| with_start(&fields);
        let nested = |n: usize| format!("(func {} {})", "block ".repeat(n), "end ".repeat(n));
        let locals = |n: usize| format!("(func (local{}))", " i32".repeat(n));
        let body = |n: usize| format!("(func {})", "nop ".repeat(n));
        let funcs = |n: usize| "(func)".repeat(n);
        let globals = |n: usize| "(global i32 (i32.const 0))".repeat(n);
        let tables = |n: usize| "(table 1 funcref)".repeat(n);
        let elements = |n: usize| format!("(table {n} funcref)");
        let targets = |n: usize| {
            format!("(func (block i32.const 0 br_table{}))", " 0".repeat(n + 1)).repeat(10)
        };
        // The function's own block counts, a body has a count of locals and an `end`, and
        // `_start` is a function.
        let max = |limit: u64| usize::try_from(limit).unwrap();
        let cases: [(Shape<'_>, usize, &str); 8] = [
            (&locals, max(LOCALS_MAX), "locals"),
            (&nested, max(NESTING_MAX) - 1, "nested blocks"),
            (&body, max(BODY_MAX_BYTES) - 2, "bytes of a function"),
            (&funcs, max(FUNCTIONS_MAX) - 1, "functions"),
            (&globals, max(GLOBALS_MAX), "globals"),
            (&tables, max(TABLES_MAX.into()), "tables"),
            (&elements, TABLE_ELEMENTS_MAX, "elements"),
            (&targets, max(BR_TABLE_TARGETS_MAX) / 10, "branch table targets"),
        ];
        for (shape, max, what) in cases {
            let at_limit = check(&wat::parse_str(fields(shape(max))).unwrap());
            assert!(at_limit.is_ok(), "{what}: {at_limit:?}");
            assert!(refusal(&fields(shape(max + 1))).contains(what), "{what}");
        }
        let large = vec![0; max(MODULE_MAX_BYTES) + 1];
        assert!(check(&large).unwrap_err().to_string().contains("size in bytes"));
    }

    #[test]
    fn a_name_from_a_stranger_is_clipped() {
        let long = with_start(&format!(r#"(import "env" "{}" (func))"#, "\\n".repeat(5000)));
        assert!(refusal(&long).len() < 1000);
    }
}
