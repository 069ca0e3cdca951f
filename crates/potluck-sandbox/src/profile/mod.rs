//! The profile `potluck-wasm-1`: which modules are units' programs at all.
//!
//! An allow-list of wasm features, limits on the shape of a module, the imports that exist and the
//! export that must. All of it is decided from the bytes alone with `wasmparser`, so every machine
//! says the same, and "not in the profile" is an outcome that is voted on like any other.

mod feature;
mod limits;
mod place;
mod survey;

#[cfg(test)]
mod tests;

use wasmparser::WasmFeatures;

pub use feature::Feature;
pub use place::Place;

pub(crate) use limits::{TABLE_ELEMENTS_MAX, TABLES_MAX};

use limits::MODULE_MAX_BYTES;
use survey::Survey;

/// The features a module may use. Engines' defaults grow; this list does not. What is left out, and
/// why, is [`Feature`].
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
    #[error("the module is not valid, {place}: {reason}")]
    NotValid {
        /// Where.
        place: Place,
        /// What the validator said.
        reason: String,
    },
    /// It uses a feature that is not in the profile.
    #[error("uses {feature}{}, {place}: {}; {}", in_brackets(.instruction), .feature.reason(), .feature.advice())]
    Feature {
        /// Which.
        feature: Feature,
        /// The instruction that uses it, if it is one.
        instruction: Option<String>,
        /// Where it is first used.
        place: Place,
    },
    /// An import that does not exist here.
    #[error(
        "imports {module}.{name}, which Potluck does not offer: only the functions of \
         wasi_snapshot_preview1 can be imported{}",
        origin_of(.module)
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
    #[error("{what}: {found}, and the limit is {max}{}", after_comma(.place))]
    OverLimit {
        /// What is too large.
        what: &'static str,
        /// How large it is, as far as it was counted.
        found: u64,
        /// How large it may be.
        max: u64,
        /// The function that is, if it is one.
        place: Option<Place>,
    },
}

/// Whether this is a module that Potluck runs. Reads every byte, compiles nothing.
///
/// # Errors
///
/// The first reason found, in the order of the bytes; the exports are looked at last.
pub fn check(wasm: &[u8]) -> Result<ModuleInfo, ModuleError> {
    preliminary(wasm)?;
    Survey::strict(wasm).walk(FEATURES).map_err(|stop| stop.reason(wasm, FEATURES))
}

/// Everything about a module that keeps it from being run, as far as it can be told; nothing if
/// [`check`] accepts it.
pub(crate) fn reasons(wasm: &[u8]) -> Vec<ModuleError> {
    if let Err(error) = preliminary(wasm) {
        return vec![error];
    }
    let (mut features, mut reasons) = (FEATURES, Vec::new());
    loop {
        // What the last walk notes is all there is to note; each walk gets further than the one
        // before, because each feature is met only once.
        let mut survey = Survey::tolerant(wasm);
        let stop = survey.walk(features).err();
        let stop = stop.map(|stop| stop.reason(wasm, features));
        if let Some(ModuleError::Feature { feature, .. }) = &stop
            && feature.with(features) != features
        {
            features = feature.with(features);
            reasons.extend(stop);
            continue;
        }
        reasons.extend(survey.into_noted());
        reasons.extend(stop);
        return reasons;
    }
}

/// What can be said before the first section.
fn preliminary(wasm: &[u8]) -> Result<(), ModuleError> {
    let (what, found, max) = ("bytes of a module", wasm.len() as u64, MODULE_MAX_BYTES);
    if found > max {
        return Err(ModuleError::OverLimit { what, found, max, place: None });
    }
    magic(wasm)
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

/// What an error of the validator says about a module that was read with `features`.
fn parse_error(error: &wasmparser::Error, wasm: &[u8], features: WasmFeatures) -> ModuleError {
    if is_truncated(wasm) {
        return ModuleError::Truncated { at: wasm.len() as u64 };
    }
    let at = error.offset();
    let place = Place::of(wasm, at);
    match Feature::behind(wasm, features, at) {
        Some(feature) => {
            let instruction = feature::instruction(wasm, at);
            ModuleError::Feature { feature, instruction, place }
        }
        None => ModuleError::NotValid { place, reason: clip(error.message()) },
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

/// Names come from strangers: none is printed longer than this.
pub(crate) fn clip(name: &str) -> String {
    const SHOWN_MAX: usize = 200;
    name.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect()
}

fn in_brackets(word: &Option<String>) -> String {
    word.as_ref().map_or_else(String::new, |word| format!(" ({word})"))
}

fn after_comma(place: &Option<Place>) -> String {
    place.as_ref().map_or_else(String::new, |place| format!(", {place}"))
}

/// A word on where modules with such imports come from.
fn origin_of(module: &str) -> &'static str {
    match module {
        "wasi_unstable" => "; this one is for preview 0: rebuild it with a newer toolchain",
        "env" => {
            "; `env` is what was left undefined when linking, or Emscripten's: build for wasm32-wasip1"
        }
        "wasi" => "; this one starts threads: build for wasm32-wasip1",
        _ if module.starts_with("__wbindgen") || module == "wbg" => {
            "; this one is for browsers: build for wasm32-wasip1"
        }
        _ => "",
    }
}
