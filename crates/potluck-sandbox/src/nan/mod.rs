//! Makes NaNs canonical where somebody could see their bits, from wasm to wasm.
//!
//! Processors differ in the bits of the NaNs that arithmetic makes. The engine can make every such
//! NaN the canonical one right after each operator, which costs five times the running time of
//! loops over floats. This pass leaves the same behind for little, because hardly any of those NaNs
//! is ever looked at. The *reference* is what that setting of the engine does; `docs/nan.md` states
//! it, and the rule of the pass.
//!
//! Why a module runs alike before the pass under the reference and after it on any processor: take
//! both runs side by side. Of each value `flow` says either that it is *exact* (the same bits in
//! both runs) or that it is *loose* for one width of lanes: lane by lane the same bits, or a NaN in
//! both. This holds at each operator if it held before it:
//!
//! - arithmetic finds the same numbers, or NaNs where there are NaNs, so its result is the same
//!   number or a NaN in both: loose;
//! - comparisons and conversions to integers answer the same for every NaN: exact;
//! - what moves whole lanes (locals, `select`, labels, shuffles, `abs`, `neg`) leaves exact what was
//!   exact, and loose what was loose;
//! - everything else *sees* bits, and only ever gets exact values: an operand that is loose there
//!   went through a guard. A guard makes every NaN canonical, so it may stand only where every NaN
//!   of the reference is canonical, and then its result is exact. Where that is not known, because
//!   a loaded NaN may come the same way or `neg` has changed the sign, the operands are guarded.
//!
//! So both runs take the same branches, trap alike, and leave the same memory, globals and output.
//! Loose values of both widths can't meet in one value that somebody uses: each use sees the lanes
//! of at least one width, so at least one of the two was guarded before.
//!
//! The bytes are a stranger's, checked by `profile`. The time is linear in their number, and there
//! is no recursion: a bound on how many values are merged at labels says when locals are no longer
//! followed from place to place (`flow`).

mod flow;
mod graph;
mod guard;
mod operator;

use std::borrow::Cow;
use std::ops::Range;

use wasmparser::{CompositeInnerType, FuncType, FunctionBody, Parser, Payload, TypeRef};

use graph::Guard;
use guard::Guarded;

/// Part of the engine's fingerprint: an artefact depends on where its guards are. Whoever changes
/// what the pass makes of some module counts it up.
pub(crate) const VERSION: u8 = 1;

/// The module with guards, or as it is when it needs none.
///
/// # Errors
///
/// When the bytes are not a module; those that the profile has accepted are.
pub(crate) fn canonicalise(wasm: &[u8]) -> wasmparser::Result<Cow<'_, [u8]>> {
    rewrite(wasm, flow::merges_max, |_| true)
}

/// How many guards a module gets; none if it is not one.
pub(crate) fn guards(wasm: &[u8]) -> u64 {
    let mut guards = 0;
    let count = |_: &Guard| {
        guards += 1;
        true
    };
    let rewritten = rewrite(wasm, flow::merges_max, count).is_ok();
    if rewritten { guards } else { 0 }
}

/// The module with guards, with this `effort` for a body's size, and with only the guards that `keep` wants.
fn rewrite(
    wasm: &[u8],
    effort: fn(usize) -> usize,
    mut keep: impl FnMut(&Guard) -> bool,
) -> wasmparser::Result<Cow<'_, [u8]>> {
    let mut types = Types::default();
    let mut code = Code::default();
    let mut section_end = HEADER_BYTES;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if let Payload::CodeSectionStart { count, range, .. } = &payload {
            code.section = section_end..range.end;
            code.stale.push(code.section.clone());
            code.count = *count;
            section_end = range.end;
        } else if let Payload::CodeSectionEntry(body) = &payload {
            let (guards, locals) = match types.defined(code.done) {
                Some(ty) => flow::guards(&types, ty, body, effort(body.range().len()))?,
                None => Default::default(),
            };
            let guards = guards.into_iter().filter(&mut keep).collect();
            code.body(wasm, &types, body, guards, locals)?;
        } else if let Some((_, range)) = payload.as_section() {
            types.learn(&payload)?;
            if matches!(&payload, Payload::CustomSection(custom) if custom.name() == HINTS) {
                code.stale.push(section_end..range.end);
            }
            section_end = range.end;
        }
    }
    if code.hinted == 0 {
        return Ok(Cow::Borrowed(wasm));
    }
    let mut out = Vec::with_capacity(wasm.len() + code.bodies.len());
    let mut copied = 0;
    for section in code.stale {
        out.extend(wasm.get(copied..section.start).unwrap_or_default());
        copied = section.end;
        if section == code.section {
            let mut name = Vec::new();
            guard::unsigned(&mut name, length(HINTS.len()));
            name.extend(HINTS.as_bytes());
            write_section(&mut out, CUSTOM_SECTION, &name, code.hinted, &code.hints);
            write_section(&mut out, CODE_SECTION, &[], code.count, &code.bodies);
        }
    }
    out.extend(wasm.get(copied..).unwrap_or_default());
    Ok(Cow::Owned(out))
}

fn write_section(out: &mut Vec<u8>, id: u8, head: &[u8], count: u32, items: &[u8]) {
    let mut content = head.to_vec();
    guard::unsigned(&mut content, count);
    out.push(id);
    guard::unsigned(out, length(content.len() + items.len()));
    out.extend(content);
    out.extend(items);
}

/// The code section while it is written.
#[derive(Default)]
struct Code {
    /// All of the old section, its head included.
    section: Range<usize>,
    /// The old sections that are not copied: this one, and hints about where its branches were.
    stale: Vec<Range<usize>>,
    count: u32,
    bodies: Vec<u8>,
    /// How many functions have hints.
    hinted: u32,
    hints: Vec<u8>,
    done: usize,
}

impl Code {
    fn body(
        &mut self,
        wasm: &[u8],
        types: &Types,
        body: &FunctionBody<'_>,
        guards: Vec<Guard>,
        locals: u32,
    ) -> wasmparser::Result<()> {
        self.done += 1;
        if guards.is_empty() {
            guard::unsigned(&mut self.bodies, length(body.range().len()));
            self.bodies.extend(body.as_bytes());
        } else {
            let Guarded { bytes, hints } = guard::insert(wasm, body, locals, guards)?;
            guard::unsigned(&mut self.bodies, length(bytes.len()));
            self.bodies.extend(bytes);
            self.hint(length(types.imported + self.done - 1), &hints);
        }
        Ok(())
    }

    fn hint(&mut self, function: u32, hints: &[(u32, bool)]) {
        self.hinted += 1;
        guard::unsigned(&mut self.hints, function);
        guard::unsigned(&mut self.hints, length(hints.len()));
        for (at, taken) in hints {
            guard::unsigned(&mut self.hints, *at);
            self.hints.extend([1, u8::from(*taken)]);
        }
    }
}

/// The types of a module's functions.
#[derive(Debug, Default)]
struct Types {
    types: Vec<Option<FuncType>>,
    /// The type index of each function, imported ones first.
    functions: Vec<u32>,
    imported: usize,
}

impl Types {
    fn learn(&mut self, payload: &Payload<'_>) -> wasmparser::Result<()> {
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
                if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import?.ty {
                    self.functions.push(ty);
                    self.imported += 1;
                }
            }
        } else if let Payload::FunctionSection(section) = payload {
            for ty in section.clone() {
                self.functions.push(ty?);
            }
        }
        Ok(())
    }

    fn ty(&self, index: u32) -> Option<&FuncType> {
        self.types.get(index as usize)?.as_ref()
    }

    fn of(&self, function: u32) -> Option<&FuncType> {
        self.ty(*self.functions.get(function as usize)?)
    }

    fn defined(&self, number: usize) -> Option<&FuncType> {
        self.ty(*self.functions.get(self.imported + number)?)
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The magic number and the version.
const HEADER_BYTES: usize = 8;
const CUSTOM_SECTION: u8 = 0;
const CODE_SECTION: u8 = 10;
/// The custom section that says which way branches mostly go.
const HINTS: &str = "metadata.code.branch_hint";

#[cfg(test)]
mod tests;
