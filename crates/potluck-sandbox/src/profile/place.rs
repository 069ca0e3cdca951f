//! Where in a module something is, in words that its author can use.

use std::fmt;

use wasmparser::{ExternalKind, KnownCustom, Name, Parser, Payload, TypeRef};

use super::clip;

/// A byte of a module, and the function around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The offset from the module's start.
    pub at: u64,
    /// The function's index, imported functions counted first.
    pub function: Option<u32>,
    /// The function's name, by the name section or an export.
    pub name: Option<String>,
}

impl Place {
    /// Finds out where byte `at` is.
    pub(super) fn of(wasm: &[u8], at: usize) -> Place {
        let function = function_at(wasm, at);
        let name = function.and_then(|index| function_name(wasm, index));
        Place { at: at as u64, function, name }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.function {
            write!(f, "in function {index} ")?;
        }
        if let Some(name) = &self.name {
            write!(f, "`{name}` ")?;
        }
        write!(f, "at byte {}", self.at)
    }
}

fn function_at(wasm: &[u8], at: usize) -> Option<u32> {
    let mut index = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        if let Ok(Payload::ImportSection(section)) = &payload {
            let imports = section.clone().into_imports().map_while(Result::ok);
            let functions = imports
                .filter(|import| matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
            index = u32::try_from(functions.count()).ok()?;
        } else if let Ok(Payload::CodeSectionEntry(body)) = &payload {
            // An error may be found at the very end of a body.
            if body.range().contains(&at) || body.range().end == at {
                return Some(index);
            }
            index = index.checked_add(1)?;
        } else if payload.is_err() {
            return None;
        }
    }
    None
}

fn function_name(wasm: &[u8], index: u32) -> Option<String> {
    let mut exported = None;
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        if let Payload::ExportSection(section) = payload {
            let mut exports = section.into_iter().map_while(Result::ok);
            let is_it = |kind, at| kind == ExternalKind::Func && at == index;
            let export = exports.find(|export| is_it(export.kind, export.index));
            exported = export.map(|export| clip(export.name));
        } else if let Payload::CustomSection(section) = payload
            && let KnownCustom::Name(names) = section.as_known()
        {
            for name in names.into_iter().map_while(Result::ok) {
                let Name::Function(map) = name else { continue };
                let mut namings = map.into_iter().map_while(Result::ok);
                if let Some(naming) = namings.find(|naming| naming.index == index) {
                    return Some(clip(naming.name));
                }
            }
        }
    }
    exported
}
