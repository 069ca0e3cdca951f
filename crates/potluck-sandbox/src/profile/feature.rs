//! The wasm features that the profile leaves out, each with its reason and what an author can do.
//!
//! The validator says what it met, in its own words. Which *feature* that is we find out by
//! validating again with one more allowed: the one with which the validator gets further is meant.

use std::fmt;

use wasmparser::{OperatorsReader, Parser, Payload, ValidPayload, Validator, WasmFeatures};

/// A wasm feature outside the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Feature {
    /// Shared memory, atomics, and everything that is shared between threads.
    Threads,
    /// `try`, `catch`, `throw`, `try_table`, tags.
    Exceptions,
    /// SIMD instructions whose result the processor may choose.
    RelaxedSimd,
    /// Memories and tables with 64-bit addresses.
    Memory64,
    /// More than one memory.
    MultiMemory,
    /// Memories with other pages than 64 KiB.
    CustomPageSizes,
    /// `memory.discard`.
    MemoryControl,
    /// Typed references to functions, `call_ref`.
    FunctionReferences,
    /// `externref`.
    HostReferences,
    /// Structs, arrays, `anyref` and what belongs to them.
    GarbageCollection,
    /// Continuations.
    StackSwitching,
    /// Imports in a shorter form.
    CompactImports,
    /// Descriptors of types at run time.
    CustomDescriptors,
}

/// Every feature outside the profile. Of two that explain the same bytes the first is named.
pub(super) const ALL: [Feature; 13] = [
    Feature::Threads,
    Feature::Exceptions,
    Feature::RelaxedSimd,
    Feature::Memory64,
    Feature::MultiMemory,
    Feature::CustomPageSizes,
    Feature::MemoryControl,
    Feature::FunctionReferences,
    Feature::HostReferences,
    Feature::GarbageCollection,
    Feature::StackSwitching,
    Feature::CompactImports,
    Feature::CustomDescriptors,
];

impl Feature {
    /// What a person calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Feature::Threads => "threads",
            Feature::Exceptions => "exceptions",
            Feature::RelaxedSimd => "relaxed SIMD",
            Feature::Memory64 => "64-bit memory",
            Feature::MultiMemory => "several memories",
            Feature::CustomPageSizes => "custom page sizes",
            Feature::MemoryControl => "memory control",
            Feature::FunctionReferences => "typed function references",
            Feature::HostReferences => "host references",
            Feature::GarbageCollection => "garbage collection",
            Feature::StackSwitching => "stack switching",
            Feature::CompactImports => "compact imports",
            Feature::CustomDescriptors => "custom descriptors",
        }
    }

    /// Why it is left out.
    pub fn reason(self) -> &'static str {
        match self {
            Feature::Threads => "with threads a result depends on which one is faster",
            Feature::Exceptions => {
                "the engine keeps exceptions in a garbage-collected heap that is young and whose \
                 bounds differ from machine to machine"
            }
            Feature::RelaxedSimd => "its results differ between processors",
            Feature::Memory64 => {
                "no unit may have more than 4 GiB, and it makes every access slower"
            }
            Feature::MultiMemory => "one memory is what a job's limit and a result's witness cover",
            Feature::CustomPageSizes => "it changes what memory sizes mean and is not standard yet",
            Feature::MemoryControl => "what discarded memory holds is for the machine to say",
            Feature::FunctionReferences => "it is young, and no preview-1 toolchain needs it",
            Feature::HostReferences => "there is nothing on the host that a unit could refer to",
            Feature::GarbageCollection => {
                "when a heap is full and how large it may get differ from machine to machine"
            }
            Feature::StackSwitching => "it is not standard yet",
            Feature::CompactImports | Feature::CustomDescriptors => "it is not standard yet",
        }
    }

    /// What the author of the module can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Feature::Threads => {
                "build for wasm32-wasip1, not wasm32-wasip1-threads, without -pthread and \
                 -matomics, and make more units instead"
            }
            Feature::Exceptions => {
                "rebuild C++ with -fno-exceptions and C without -mllvm -wasm-enable-sjlj, Rust \
                 with panic = \"abort\""
            }
            Feature::RelaxedSimd => "rebuild with -msimd128 but without -mrelaxed-simd",
            Feature::Memory64 => "build for wasm32-wasip1",
            Feature::MultiMemory => "build without multi-memory and don't merge modules",
            Feature::CustomPageSizes => "build with pages of 64 KiB",
            Feature::MemoryControl => "build without memory-control",
            Feature::FunctionReferences => {
                "build without typed function references (wasm-opt --disable-gc may help)"
            }
            Feature::HostReferences => "build without externref: a command needs none",
            Feature::GarbageCollection => {
                "use a toolchain that keeps its objects in linear memory, or run the program in \
                 an interpreter built for wasm32-wasip1"
            }
            Feature::StackSwitching => "build without stack switching",
            Feature::CompactImports => "build with imports in their long form",
            Feature::CustomDescriptors => "build without custom descriptors",
        }
    }

    /// The parser's flags for it, with those it stands on.
    fn flags(self) -> WasmFeatures {
        match self {
            Feature::Threads => WasmFeatures::THREADS | WasmFeatures::SHARED_EVERYTHING_THREADS,
            Feature::Exceptions => WasmFeatures::EXCEPTIONS | WasmFeatures::LEGACY_EXCEPTIONS,
            Feature::RelaxedSimd => WasmFeatures::RELAXED_SIMD,
            Feature::Memory64 => WasmFeatures::MEMORY64,
            Feature::MultiMemory => WasmFeatures::MULTI_MEMORY,
            Feature::CustomPageSizes => WasmFeatures::CUSTOM_PAGE_SIZES,
            Feature::MemoryControl => WasmFeatures::MEMORY_CONTROL,
            Feature::FunctionReferences => WasmFeatures::FUNCTION_REFERENCES,
            Feature::HostReferences => WasmFeatures::GC_TYPES,
            Feature::GarbageCollection => {
                WasmFeatures::GC | WasmFeatures::GC_TYPES | WasmFeatures::FUNCTION_REFERENCES
            }
            Feature::StackSwitching => {
                WasmFeatures::STACK_SWITCHING
                    | WasmFeatures::FUNCTION_REFERENCES
                    | WasmFeatures::GC_TYPES
            }
            Feature::CompactImports => WasmFeatures::COMPACT_IMPORTS,
            Feature::CustomDescriptors => {
                Feature::GarbageCollection.flags() | WasmFeatures::CUSTOM_DESCRIPTORS
            }
        }
    }

    /// The feature that explains the error which validating with `features` met at byte `at`: the
    /// one with which it gets furthest.
    pub(super) fn behind(wasm: &[u8], features: WasmFeatures, at: usize) -> Option<Feature> {
        let reach = |flags| first_error(wasm, features | flags, at).unwrap_or(usize::MAX);
        let missing = || ALL.into_iter().filter(|it| !features.contains(it.flags()));
        let mut furthest = (at, None);
        for feature in missing() {
            let reach = reach(feature.flags());
            if reach > furthest.0 {
                furthest = (reach, Some(feature));
            }
        }
        if furthest.1.is_some() {
            return furthest.1;
        }
        // Bytes that need two features at once: with all but one of those it still stops here.
        let all = missing().fold(WasmFeatures::empty(), |all, feature| all | feature.flags());
        let without = |feature: Feature| all.difference(feature.flags().difference(features));
        let is_needed = |feature: &Feature| reach(without(*feature)) <= at;
        if reach(all) > at { missing().find(is_needed) } else { None }
    }

    /// `features` and this one.
    pub(super) fn with(self, features: WasmFeatures) -> WasmFeatures {
        features | self.flags()
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where validating with `features` stops. Of the function bodies only the one around byte `at` is
/// looked at: this is done once for each feature.
fn first_error(wasm: &[u8], features: WasmFeatures, at: usize) -> Option<usize> {
    let mut validator = Validator::new_with_features(features);
    let mut parser = Parser::new(0);
    parser.set_features(features);
    for payload in parser.parse_all(wasm) {
        let checked = payload.and_then(|payload| match validator.payload(&payload)? {
            ValidPayload::Func(function, body) if body.range().contains(&at) => {
                function.into_validator(Default::default()).validate(&body)
            }
            ValidPayload::Func(..)
            | ValidPayload::Ok
            | ValidPayload::Parser(_)
            | ValidPayload::End(_) => Ok(()),
        });
        if let Err(error) = checked {
            return Some(error.offset());
        }
    }
    None
}

/// The instruction at byte `at`, such as `try_table`, if that is inside a function.
pub(super) fn instruction(wasm: &[u8], at: usize) -> Option<String> {
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(Payload::CodeSectionEntry(body)) = payload else { continue };
        if !body.range().contains(&at) {
            continue;
        }
        let mut operators = OperatorsReader::new(body.get_binary_reader_for_operators().ok()?);
        while !operators.eof() {
            let operator = operators.read().ok()?;
            if operators.original_position() > at {
                return Some(snake(&format!("{operator:?}")));
            }
        }
    }
    None
}

/// `TryTable { .. }` as `try_table`.
fn snake(debug: &str) -> String {
    let mut name = String::new();
    for letter in debug.chars().take_while(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
