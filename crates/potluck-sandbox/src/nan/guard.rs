//! The code of a guard, and a body with guards in it.

use std::ops::Range;

use wasmparser::FunctionBody;

use super::graph::{F32, Guard, Place, Shape};
use super::operator::{NAN_32, NAN_64};

/// A body with guards in it.
pub(super) struct Guarded {
    /// The same bytes, with the guards between them and with up to three more locals for what they
    /// look at.
    pub(super) bytes: Vec<u8>,
    /// Where the guards branch, and whether they mostly do: that keeps what is never run out of
    /// the way of what is.
    pub(super) hints: Vec<(u32, bool)>,
}

/// The body with `guards` in it.
pub(super) fn insert(
    wasm: &[u8],
    body: &FunctionBody<'_>,
    locals: u32,
    mut guards: Vec<Guard>,
) -> wasmparser::Result<Guarded> {
    guards.sort_by_key(|guard| (offset(guard), local(guard)));
    let scratch = Scratch::new(locals, &guards);
    let groups = body.get_locals_reader()?;
    let operators = body.get_operators_reader()?.original_position();
    let mut out = Vec::with_capacity(body.range().len() + guards.len() * GUARD_BYTES);
    unsigned(&mut out, groups.get_count() + scratch.groups());
    copy(&mut out, wasm, groups.original_position()..operators);
    scratch.declare(&mut out);
    let mut copied = operators;
    let mut hints = Vec::with_capacity(guards.len());
    for guard in &guards {
        let at = offset(guard) as usize;
        copy(&mut out, wasm, copied..at);
        copied = at;
        match guard.place {
            Place::Local(_, local) => hints.push(check(&mut out, guard, local)),
            Place::Stack(_) | Place::None => {
                let local = scratch.of(guard.shape);
                with_local(&mut out, LOCAL_SET, local);
                hints.push(check(&mut out, guard, local));
                with_local(&mut out, LOCAL_GET, local);
            }
        }
    }
    copy(&mut out, wasm, copied..body.range().end);
    Ok(Guarded { bytes: out, hints })
}

/// `if !(x >= x) { x = canonical }`, as a branch that is never taken by honest numbers: a select
/// would put four operations on the path between one result and the next. Returns where it
/// branches and whether it mostly does.
fn check(out: &mut Vec<u8>, guard: &Guard, local: u32) -> (u32, bool) {
    let get = |out: &mut Vec<u8>| with_local(out, LOCAL_GET, local);
    let here = |out: &Vec<u8>| u32::try_from(out.len()).unwrap_or(u32::MAX);
    if guard.shape != Shape::V128 {
        out.extend(BLOCK);
    }
    get(out);
    get(out);
    let hint = match (guard.shape, guard.lanes) {
        (Shape::F32, _) => {
            out.push(F32_GE);
            let at = here(out);
            out.extend(BR_IF_0);
            nan_32(out);
            (at, true)
        }
        (Shape::F64, _) => {
            out.push(F64_GE);
            let at = here(out);
            out.extend(BR_IF_0);
            nan_64(out);
            (at, true)
        }
        (Shape::V128, lanes) => {
            let (unequal, splat) =
                if lanes == F32 { (F32X4_NE, F32X4_SPLAT) } else { (F64X2_NE, F64X2_SPLAT) };
            out.extend(unequal);
            out.extend(I32X4_BITMASK);
            let at = here(out);
            out.extend(IF);
            if lanes == F32 {
                nan_32(out)
            } else {
                nan_64(out)
            }
            out.extend(splat);
            get(out);
            get(out);
            get(out);
            out.extend(unequal);
            out.extend(V128_BITSELECT);
            (at, false)
        }
    };
    with_local(out, LOCAL_SET, local);
    out.push(END);
    hint
}

fn nan_32(out: &mut Vec<u8>) {
    out.push(F32_CONST);
    out.extend(NAN_32.to_le_bytes());
}

fn nan_64(out: &mut Vec<u8>) {
    out.push(F64_CONST);
    out.extend(NAN_64.to_le_bytes());
}

/// The locals that guards on the stack use: one of each shape that is needed.
struct Scratch {
    first: u32,
    shapes: Vec<Shape>,
}

impl Scratch {
    fn new(first: u32, guards: &[Guard]) -> Scratch {
        let on_stack = |shape: &Shape| {
            guards
                .iter()
                .any(|guard| guard.shape == *shape && matches!(guard.place, Place::Stack(_)))
        };
        let shapes = [Shape::F32, Shape::F64, Shape::V128].into_iter().filter(on_stack).collect();
        Scratch { first, shapes }
    }

    fn groups(&self) -> u32 {
        u32::try_from(self.shapes.len()).unwrap_or(u32::MAX)
    }

    fn of(&self, shape: Shape) -> u32 {
        let before = (self.first..).zip(&self.shapes).find(|(_, found)| **found == shape);
        before.map_or(self.first, |(local, _)| local)
    }

    fn declare(&self, out: &mut Vec<u8>) {
        for shape in &self.shapes {
            let ty = match shape {
                Shape::F32 => 0x7d,
                Shape::F64 => 0x7c,
                Shape::V128 => 0x7b,
            };
            out.extend([1, ty]);
        }
    }
}

fn offset(guard: &Guard) -> u32 {
    match guard.place {
        Place::None => 0,
        Place::Stack(at) | Place::Local(at, _) => at,
    }
}

fn local(guard: &Guard) -> u32 {
    match guard.place {
        Place::None | Place::Stack(_) => 0,
        Place::Local(_, local) => local,
    }
}

fn copy(out: &mut Vec<u8>, wasm: &[u8], range: Range<usize>) {
    out.extend(wasm.get(range).unwrap_or_default());
}

fn with_local(out: &mut Vec<u8>, operator: u8, local: u32) {
    out.push(operator);
    unsigned(out, local);
}

/// A number as wasm writes it: seven bits a byte, the lowest first.
pub(super) fn unsigned(out: &mut Vec<u8>, mut number: u32) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// About the length of the longest guard.
const GUARD_BYTES: usize = 48;

const BLOCK: [u8; 2] = [0x02, 0x40];
const END: u8 = 0x0b;
const IF: [u8; 2] = [0x04, 0x40];
const BR_IF_0: [u8; 2] = [0x0d, 0];
const LOCAL_GET: u8 = 0x20;
const LOCAL_SET: u8 = 0x21;
const F32_CONST: u8 = 0x43;
const F64_CONST: u8 = 0x44;
/// `x >= x` is one conditional jump on x86, where `x == x` is two.
const F32_GE: u8 = 0x60;
const F64_GE: u8 = 0x66;
const F32X4_SPLAT: [u8; 2] = [0xfd, 0x13];
const F64X2_SPLAT: [u8; 2] = [0xfd, 0x14];
const F32X4_NE: [u8; 2] = [0xfd, 0x42];
const F64X2_NE: [u8; 2] = [0xfd, 0x48];
const V128_BITSELECT: [u8; 2] = [0xfd, 0x52];
/// The sign of each lane: one instruction less on x86 than asking whether any bit is set.
const I32X4_BITMASK: [u8; 3] = [0xfd, 0xa4, 0x01];
