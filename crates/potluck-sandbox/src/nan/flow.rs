//! One walk over a function that finds where the bits of each float come from and go to.
//!
//! Values are followed through the stack, locals, and the operands of branches. A local is not one
//! value but as many as reach different places: compilers keep unrelated values in one local.
//! Code that is never reached is skipped: what it does with floats does not matter.

use wasmparser::{BlockType, BrTable, FuncType, FunctionBody, Operator, ValType};

use super::Types;
use super::graph::{
    self, BOTH, CLEAN, Graph, Guard, Lanes, MASK_32, MASK_64, Node, NodeId, Place, RAW, Shape,
    clean_lanes, either, is_fixed,
};
use super::operator::{Effect, NoModule, effect};

/// How many values may be merged at the labels of a body of so many bytes.
pub(super) fn merges_max(body_bytes: usize) -> usize {
    (MERGES_BASE + MERGES_PER_BYTE * body_bytes).min(MERGES_MAX)
}

/// The guards that `body` needs, and the number of its locals. Merges no more than `effort` values
/// at labels before it takes a coarser view.
pub(super) fn guards(
    types: &Types,
    ty: &FuncType,
    body: &FunctionBody<'_>,
    effort: usize,
) -> wasmparser::Result<(Vec<Guard>, u32)> {
    let mut walk = Walk::new(types, ty, body, Some(effort))?;
    if !walk.run(body)? {
        walk = Walk::new(types, ty, body, None)?;
        walk.run(body)?;
    }
    let locals = u32::try_from(walk.slots.len()).unwrap_or(u32::MAX);
    Ok((walk.graph.guards(), locals))
}

struct Walk<'a> {
    types: &'a Types,
    graph: Graph,
    stack: Vec<NodeId>,
    frames: Vec<Frame>,
    /// The current value of each local that can hold a float.
    locals: Vec<NodeId>,
    /// Which of `locals` a local is.
    slots: Vec<Option<usize>>,
    /// The reverse.
    names: Vec<(u32, Shape)>,
    /// How many blocks have been opened since the code became unreachable.
    dead: Option<u32>,
    depth: u16,
    labels: u32,
    /// How many more values may be merged at labels. Without it, each local is one value for the
    /// whole function and whatever passes a label is seen.
    effort: Option<usize>,
}

struct Frame {
    kind: Kind,
    label: u32,
    height: usize,
    params: usize,
    results: usize,
    /// What arrives at the label: operands and locals. For a loop they are there from the start.
    arriving: Option<State>,
    /// What an `if` started with, until its `else`.
    otherwise: Option<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Function,
    Block,
    Loop,
    If,
}

#[derive(Clone)]
struct State {
    operands: Vec<NodeId>,
    locals: Vec<NodeId>,
}

impl<'a> Walk<'a> {
    fn new(
        types: &'a Types,
        ty: &FuncType,
        body: &FunctionBody<'_>,
        effort: Option<usize>,
    ) -> wasmparser::Result<Walk<'a>> {
        let mut walk = Walk {
            types,
            graph: Graph::default(),
            stack: Vec::new(),
            frames: Vec::new(),
            locals: Vec::new(),
            slots: Vec::new(),
            names: Vec::new(),
            dead: None,
            depth: 0,
            labels: 0,
            effort,
        };
        for param in ty.params() {
            walk.declare(*param, RAW);
        }
        for group in body.get_locals_reader()? {
            let (count, ty) = group?;
            for _ in 0..count {
                walk.declare(ty, CLEAN);
            }
        }
        walk.open(Kind::Function, &[], ty.results().len());
        Ok(walk)
    }

    fn declare(&mut self, ty: ValType, first: NodeId) {
        let Some(shape) = shape(ty) else { return self.slots.push(None) };
        let name = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Some(self.locals.len()));
        self.names.push((name, shape));
        let value = match self.effort {
            Some(_) => first,
            None => self.merged(0, shape),
        };
        self.graph.pass(first, value, BOTH);
        self.locals.push(value);
    }

    /// Walks to the end, or returns false when that takes more than the effort allowed.
    fn run(&mut self, body: &FunctionBody<'_>) -> wasmparser::Result<bool> {
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            let end = u32::try_from(operators.original_position()).unwrap_or(u32::MAX);
            match self.dead {
                None => self.step(&operator, end)?,
                Some(nested) => self.skip(&operator, nested, end),
            }
            if self.effort == Some(0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest opens and closes nothing")]
    fn skip(&mut self, operator: &Operator<'_>, nested: u32, end: u32) {
        match operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                self.dead = Some(nested + 1);
            }
            Operator::Else if nested == 0 => self.otherwise(),
            Operator::End if nested == 0 => self.close(end),
            Operator::End => self.dead = Some(nested - 1),
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is in the table of effects")]
    fn step(&mut self, operator: &Operator<'_>, end: u32) -> wasmparser::Result<()> {
        match operator {
            Operator::LocalGet { local_index } => self.local_get(*local_index, end),
            Operator::LocalSet { local_index } => {
                let value = self.pop();
                self.local_set(*local_index, value);
            }
            Operator::LocalTee { local_index } => {
                let value = self.pop();
                self.local_set(*local_index, value);
                let copy = self.copy(value, Place::Stack(end));
                self.stack.push(copy);
            }
            Operator::Block { blockty } => self.block(Kind::Block, *blockty),
            Operator::Loop { blockty } => self.block(Kind::Loop, *blockty),
            Operator::If { blockty } => {
                self.pop();
                self.block(Kind::If, *blockty);
            }
            Operator::Else => {
                self.branch(0);
                self.otherwise();
            }
            Operator::End => {
                if self.frames.last().is_none_or(|frame| frame.kind != Kind::Loop) {
                    self.branch(0);
                }
                self.close(end);
            }
            Operator::Br { relative_depth } => {
                self.branch(*relative_depth);
                self.dead = Some(0);
            }
            Operator::BrIf { relative_depth } => {
                self.pop();
                self.branch(*relative_depth);
            }
            Operator::BrTable { targets } => self.branch_table(targets)?,
            Operator::Return => {
                self.branch(u32::try_from(self.frames.len() - 1).unwrap_or(u32::MAX));
                self.dead = Some(0);
            }
            Operator::Unreachable => self.dead = Some(0),
            Operator::Call { function_index } => self.call(self.types.of(*function_index)),
            Operator::CallIndirect { type_index, .. } => {
                self.pop();
                self.call(self.types.ty(*type_index));
            }
            Operator::ReturnCall { function_index } => {
                self.call(self.types.of(*function_index));
                self.dead = Some(0);
            }
            Operator::ReturnCallIndirect { type_index, .. } => {
                self.pop();
                self.call(self.types.ty(*type_index));
                self.dead = Some(0);
            }
            operator => self.plain(operator, end),
        }
        Ok(())
    }

    fn plain(&mut self, operator: &Operator<'_>, end: u32) {
        let (pops, pushes) = operator.operator_arity(&NoModule).unwrap_or_default();
        let operands = self.take(pops as usize);
        let result = self.result(effect(operator), &operands, Place::Stack(end));
        self.stack.extend((0..pushes).map(|_| result));
    }

    fn result(&mut self, effect: Effect, operands: &[NodeId], place: Place) -> NodeId {
        match (effect, operands) {
            (Effect::Sees(result), _) => self.asked(operands, 0, result),
            (Effect::Asks(lanes, result), _) => self.asked(operands, lanes, result),
            (Effect::Makes(asked, made, shape), _) => {
                self.asked(operands, asked, RAW);
                let node = self.node(shape, place, made);
                self.graph.add(Node { made, ..node })
            }
            (Effect::Passes { lanes, shape, stays_canonical }, _) => {
                let canonical = if stays_canonical { lanes } else { 0 };
                self.passed(operands, lanes, shape, canonical, place)
            }
            (Effect::Select, [one, other, _condition]) => {
                if is_fixed(*one) && is_fixed(*other) {
                    return either(*one, *other);
                }
                let shape = self.shape(*one).or_else(|| self.shape(*other));
                let shape = shape.unwrap_or(Shape::V128);
                self.passed(&[*one, *other], BOTH, shape, BOTH, place)
            }
            (Effect::CopySign(lanes, shape), [value, sign]) => {
                self.graph.see(*sign, BOTH);
                self.passed(&[*value], lanes, shape, 0, place)
            }
            (Effect::BitSelect, [one, other, mask]) if is_mask(*mask) => {
                let lanes = mask_lanes(*mask);
                self.passed(&[*one, *other], lanes, Shape::V128, lanes, place)
            }
            (Effect::And | Effect::AndNot | Effect::Bits, _)
                if operands.iter().all(|value| is_mask(*value)) =>
            {
                operands.iter().copied().reduce(either).unwrap_or(RAW)
            }
            // A lane that is masked out is zero, which is no NaN.
            (Effect::And, [mask, value]) | (Effect::And | Effect::AndNot, [value, mask])
                if is_mask(*mask) =>
            {
                let lanes = mask_lanes(*mask);
                self.passed(&[*value], lanes, Shape::V128, lanes, place)
            }
            _ => self.asked(operands, 0, RAW),
        }
    }

    /// An operator that asks about `lanes` and sees the rest.
    fn asked(&mut self, operands: &[NodeId], lanes: Lanes, result: NodeId) -> NodeId {
        for operand in operands {
            self.graph.see(*operand, BOTH & !lanes);
        }
        result
    }

    /// An operator that passes on bits in `lanes` and sees the rest.
    fn passed(
        &mut self,
        operands: &[NodeId],
        lanes: Lanes,
        shape: Shape,
        canonical: Lanes,
        place: Place,
    ) -> NodeId {
        if operands.iter().all(|operand| is_fixed(*operand)) {
            let clean = operands.iter().fold(canonical, |clean, fixed| clean & clean_lanes(*fixed));
            return NodeId::from(clean);
        }
        let node = self.node(shape, place, canonical);
        let result = self.graph.add(node);
        for operand in operands {
            self.graph.see(*operand, BOTH & !lanes);
            self.graph.pass(*operand, result, lanes);
        }
        result
    }

    fn node(&self, shape: Shape, place: Place, canonical: Lanes) -> Node {
        Node { shape, place, depth: self.depth, label: 0, made: 0, canonical, seen: 0 }
    }

    fn shape(&mut self, value: NodeId) -> Option<Shape> {
        self.graph.node(value).map(|node| node.shape)
    }

    /// The same value, where it could be guarded apart from its other uses.
    fn copy(&mut self, value: NodeId, place: Place) -> NodeId {
        match self.shape(value) {
            None => value,
            Some(shape) => self.passed(&[value], BOTH, shape, BOTH, place),
        }
    }

    fn local_get(&mut self, local: u32, end: u32) {
        let slot = self.slots.get(local as usize).copied().flatten();
        let value = slot.map_or(RAW, |slot| self.locals[slot]);
        let copy = self.copy(value, Place::Stack(end));
        self.stack.push(copy);
    }

    fn local_set(&mut self, local: u32, value: NodeId) {
        let Some(slot) = self.slots.get(local as usize).copied().flatten() else { return };
        match self.effort {
            Some(_) => self.locals[slot] = value,
            None => self.graph.pass(value, self.locals[slot], BOTH),
        }
    }

    fn call(&mut self, ty: Option<&FuncType>) {
        let (params, results) = ty.map_or((0, 0), |ty| (ty.params().len(), ty.results().len()));
        let arguments = self.take(params);
        self.asked(&arguments, 0, RAW);
        self.stack.extend((0..results).map(|_| RAW));
    }

    fn block(&mut self, kind: Kind, ty: BlockType) {
        let types = self.types;
        match ty {
            BlockType::Empty => self.open(kind, &[], 0),
            BlockType::Type(_) => self.open(kind, &[], 1),
            BlockType::FuncType(ty) => {
                let ty = types.ty(ty);
                let params = ty.map_or(&[][..], FuncType::params);
                self.open(kind, params, ty.map_or(0, |ty| ty.results().len()));
            }
        }
    }

    fn open(&mut self, kind: Kind, params: &[ValType], results: usize) {
        self.labels += 1;
        let label = self.labels;
        let mut frame = Frame {
            kind,
            label,
            height: self.stack.len().saturating_sub(params.len()),
            params: params.len(),
            results,
            arriving: None,
            otherwise: None,
        };
        match kind {
            Kind::Function | Kind::Block => {}
            Kind::If => frame.otherwise = Some(self.state(params.len())),
            Kind::Loop => {
                self.depth = self.depth.saturating_add(1);
                let start = self.loop_start(label, params);
                self.stack.truncate(frame.height);
                self.stack.extend(&start.operands);
                if self.effort.is_some() {
                    self.locals.clone_from(&start.locals);
                }
                frame.arriving = Some(start);
            }
        }
        self.frames.push(frame);
    }

    /// A value of its own for every float that a loop starts with, into which goes what is there
    /// now, and later what comes back.
    fn loop_start(&mut self, label: u32, params: &[ValType]) -> State {
        let mut start = self.state(params.len());
        for (value, ty) in start.operands.iter_mut().zip(params) {
            let merged = match shape(*ty) {
                Some(shape) if self.effort.is_some() => self.merged(label, shape),
                _ => RAW,
            };
            if merged == RAW {
                self.graph.see(*value, BOTH);
            } else {
                self.graph.pass(*value, merged, BOTH);
            }
            *value = merged;
        }
        for (slot, value) in start.locals.iter_mut().enumerate() {
            let merged = self.merged(label, self.names[slot].1);
            self.graph.pass(*value, merged, BOTH);
            *value = merged;
        }
        start
    }

    fn merged(&mut self, label: u32, shape: Shape) -> NodeId {
        let node = self.node(shape, Place::None, BOTH);
        self.graph.add(Node { label, ..node })
    }

    /// The top `operands` of the stack and, where they are followed, the locals.
    fn state(&mut self, operands: usize) -> State {
        self.spend(operands + self.locals.len());
        let from = self.stack.len().saturating_sub(operands);
        let locals = if self.effort.is_some() { self.locals.clone() } else { Vec::new() };
        State { operands: self.stack[from..].to_vec(), locals }
    }

    fn spend(&mut self, merges: usize) {
        self.effort = self.effort.map(|effort| effort.saturating_sub(merges));
    }

    /// The values here go to the label `depth` blocks out.
    fn branch(&mut self, depth: u32) {
        let Some(at) = self.frames.len().checked_sub(1 + depth as usize) else { return };
        let frame = &self.frames[at];
        let operands = if frame.kind == Kind::Loop { frame.params } else { frame.results };
        let state = self.state(operands);
        self.arrive(at, state);
    }

    fn arrive(&mut self, at: usize, state: State) {
        let Frame { kind, label, .. } = self.frames[at];
        if kind == Kind::Function || self.effort.is_none() {
            for value in &state.operands {
                self.graph.see(*value, BOTH);
            }
        }
        let arrived = match self.frames[at].arriving.take() {
            _ if kind == Kind::Function => return,
            Some(before) if self.effort.is_none() => before,
            None if self.effort.is_none() => {
                State { operands: vec![RAW; state.operands.len()], locals: Vec::new() }
            }
            None => state,
            Some(before) => State {
                operands: self.merge_all(label, before.operands, &state.operands),
                locals: self.merge_all(label, before.locals, &state.locals),
            },
        };
        self.frames[at].arriving = Some(arrived);
    }

    fn merge_all(&mut self, label: u32, mut all: Vec<NodeId>, others: &[NodeId]) -> Vec<NodeId> {
        for (one, other) in all.iter_mut().zip(others) {
            *one = self.merge(label, *one, *other);
        }
        all
    }

    fn merge(&mut self, label: u32, one: NodeId, other: NodeId) -> NodeId {
        if one == other {
            return one;
        }
        if self.graph.node(one).is_some_and(|node| node.label == label) {
            self.graph.pass(other, one, BOTH);
            return one;
        }
        let Some(shape) = self.shape(one).or_else(|| self.shape(other)) else {
            return either(one, other);
        };
        let merged = self.merged(label, shape);
        self.graph.pass(one, merged, BOTH);
        self.graph.pass(other, merged, BOTH);
        merged
    }

    fn branch_table(&mut self, targets: &BrTable<'_>) -> wasmparser::Result<()> {
        self.pop();
        let mut depths = targets.targets().collect::<wasmparser::Result<Vec<_>>>()?;
        depths.push(targets.default());
        depths.sort_unstable();
        depths.dedup();
        for depth in depths {
            self.branch(depth);
        }
        self.dead = Some(0);
        Ok(())
    }

    /// At an `else`: goes on with what the `if` started with.
    fn otherwise(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        self.stack.truncate(frame.height);
        self.dead = None;
        if let Some(state) = frame.otherwise.take() {
            self.resume(state);
        }
    }

    fn resume(&mut self, state: State) {
        self.stack.extend(&state.operands);
        if self.effort.is_some() {
            self.locals = state.locals;
        }
    }

    /// At an `end`, after the values there have gone to its label: goes on with what arrived.
    fn close(&mut self, end: u32) {
        // An `if` without `else` passes its operands on.
        if let Some(state) = self.frames.last_mut().and_then(|frame| frame.otherwise.take()) {
            self.arrive(self.frames.len() - 1, state);
        }
        let Some(frame) = self.frames.pop() else { return };
        if frame.kind == Kind::Loop {
            self.depth = self.depth.saturating_sub(1);
            if self.dead.is_none() {
                self.settle(None, end);
            } else {
                self.stack.truncate(frame.height);
                self.dead = Some(0);
            }
            return;
        }
        self.stack.truncate(frame.height);
        self.dead = match frame.arriving {
            None => Some(0),
            Some(state) => {
                self.resume(state);
                self.settle(Some(frame.label), end);
                None
            }
        };
    }

    /// After an `end`: what comes out of a loop, or met at the label of a block, can be guarded
    /// here.
    fn settle(&mut self, label: Option<u32>, end: u32) {
        if self.effort.is_none() {
            return;
        }
        self.spend(self.locals.len());
        let depth = self.depth;
        for slot in 0..self.locals.len() {
            let value = self.locals[slot];
            let place = Place::Local(end, self.names[slot].0);
            let Some(node) = self.graph.node(value) else { continue };
            if Some(node.label) == label {
                (node.place, node.depth) = (place, depth);
            } else if node.depth > depth {
                self.locals[slot] = self.copy(value, place);
            }
        }
        if let Some(top) = self.stack.last().copied()
            && let Some(node) = self.graph.node(top)
            && Some(node.label) == label
        {
            (node.place, node.depth) = (Place::Stack(end), depth);
        }
    }

    fn pop(&mut self) -> NodeId {
        self.stack.pop().unwrap_or(RAW)
    }

    fn take(&mut self, values: usize) -> Vec<NodeId> {
        self.stack.split_off(self.stack.len().saturating_sub(values))
    }
}

fn shape(ty: ValType) -> Option<Shape> {
    match ty {
        ValType::F32 => Some(Shape::F32),
        ValType::F64 => Some(Shape::F64),
        ValType::V128 => Some(Shape::V128),
        ValType::I32 | ValType::I64 | ValType::Ref(_) => None,
    }
}

fn is_mask(value: NodeId) -> bool {
    value == MASK_32 || value == MASK_64
}

/// The lanes that such a mask takes or leaves whole.
fn mask_lanes(mask: NodeId) -> Lanes {
    if mask == MASK_64 { BOTH } else { graph::F32 }
}

/// How many values may be merged at labels, so that neither time nor memory grows with locals times
/// branches: real functions need a tenth.
const MERGES_BASE: usize = 4096;
const MERGES_PER_BYTE: usize = 32;
const MERGES_MAX: usize = 1 << 21;
