//! The values of one function that may stand for a NaN with other bits, and where to guard them.
//!
//! Two problems are solved side by side, one for each width of float: a bit of [`Lanes`] each. In
//! the problem of `F32`, a *loose* value is one whose 32-bit lanes equal those of the reference
//! except that a lane which is a NaN there may here be a NaN with other bits. Everything here is
//! linear in values and edges.

/// Widths of float lanes, as a set of bits.
pub(super) type Lanes = u8;
/// 32-bit floats: `f32` and the lanes of `f32x4`.
pub(super) const F32: Lanes = 1;
/// 64-bit floats: `f64` and the lanes of `f64x2`.
pub(super) const F64: Lanes = 2;
/// Both.
pub(super) const BOTH: Lanes = F32 | F64;

/// A value: the index of a [`Node`], or one of the fixed ones below, of which all that is known is
/// in its number.
pub(super) type NodeId = u32;
/// Exact bits that may be any NaN: what was loaded, passed, or made of integers.
pub(super) const RAW: NodeId = 0;
/// Exact bits, and every NaN among its 32-bit lanes is the canonical one.
pub(super) const CLEAN_32: NodeId = F32 as NodeId;
/// The same of its 64-bit lanes.
pub(super) const CLEAN_64: NodeId = F64 as NodeId;
/// The same of both.
pub(super) const CLEAN: NodeId = BOTH as NodeId;
/// Exact, and each 32-bit lane is all ones or all zeros.
pub(super) const MASK_32: NodeId = 4;
/// Exact, and each 64-bit lane is all ones or all zeros.
pub(super) const MASK_64: NodeId = 5;
const FIXED: NodeId = 6;

/// What a guard works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    F32,
    F64,
    V128,
}

/// Where a guard can be put: the byte of the body where the operator before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere.
    None,
    /// On the top of the stack.
    Stack(u32),
    /// On a local.
    Local(u32, u32),
}

/// One value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) shape: Shape,
    pub(super) place: Place,
    /// How many loops are around `place`.
    pub(super) depth: u16,
    /// The label whose arriving values this one merges, or 0.
    pub(super) label: u32,
    /// The lanes in which it is the result of arithmetic.
    pub(super) made: Lanes,
    /// The lanes in which every NaN is canonical in the reference.
    pub(super) canonical: Lanes,
    /// The lanes whose exact bits are seen by somebody.
    pub(super) seen: Lanes,
}

/// `to` passes on the bits of `from` in `lanes`.
#[derive(Debug, Clone, Copy)]
struct Edge {
    from: NodeId,
    to: NodeId,
    lanes: Lanes,
}

/// A place where NaNs are made canonical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) place: Place,
    pub(super) shape: Shape,
    pub(super) lanes: Lanes,
}

/// The values of one function and how they pass on bits.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

impl Graph {
    pub(super) fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        FIXED + NodeId::try_from(self.nodes.len() - 1).unwrap_or(NodeId::MAX - FIXED)
    }

    /// The node behind a value, unless it is a fixed one.
    pub(super) fn node(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.checked_sub(FIXED)? as usize)
    }

    /// Somebody sees the exact bits of `id` in `lanes`.
    pub(super) fn see(&mut self, id: NodeId, lanes: Lanes) {
        if let Some(node) = self.node(id) {
            node.seen |= lanes;
        }
    }

    /// `to` passes on the bits of `from` in `lanes`; whoever calls this has `from` seen in the
    /// others, unless they don't matter either.
    pub(super) fn pass(&mut self, from: NodeId, to: NodeId, lanes: Lanes) {
        if from == to {
            return;
        }
        if from < FIXED {
            let canonical = clean_lanes(from);
            if let Some(node) = self.node(to) {
                node.canonical &= canonical | !lanes;
            }
        } else {
            self.edges.push(Edge { from, to, lanes });
        }
    }

    /// The guards without which somebody would see loose bits.
    pub(super) fn guards(mut self) -> Vec<Guard> {
        if self.nodes.iter().all(|node| node.made == 0) {
            return Vec::new();
        }
        let uses = Index::new(self.nodes.len(), &self.edges, |edge| edge.from);
        let operands = Index::new(self.nodes.len(), &self.edges, |edge| edge.to);
        self.spread_doubt(&uses);
        self.spread_sight(&operands);
        let mut guards = Vec::new();
        for lane in [F32, F64] {
            let below = self.costs(&uses, lane);
            self.guard_lane(&uses, lane, &below, &mut guards);
        }
        guards
    }

    /// What merges a value with uncertain NaNs has uncertain NaNs.
    fn spread_doubt(&mut self, uses: &Index) {
        let doubtful = |node: &Node| node.canonical != BOTH;
        let mut work: Vec<usize> =
            (0..self.nodes.len()).filter(|at| doubtful(&self.nodes[*at])).collect();
        while let Some(at) = work.pop() {
            for edge in uses.of(at).map(|edge| self.edges[edge]) {
                let canonical = self.nodes[at].canonical | !edge.lanes;
                let to = &mut self.nodes[index(edge.to)];
                if to.canonical & !canonical != 0 {
                    to.canonical &= canonical;
                    work.push(index(edge.to));
                }
            }
        }
    }

    /// Where a value is seen and can't be guarded, its operands are.
    fn spread_sight(&mut self, operands: &Index) {
        let mut work: Vec<usize> =
            (0..self.nodes.len()).filter(|at| self.nodes[*at].seen != 0).collect();
        while let Some(at) = work.pop() {
            let node = &self.nodes[at];
            let seen = match node.place {
                Place::None => node.seen,
                Place::Stack(_) | Place::Local(..) => node.seen & !node.canonical,
            };
            for edge in operands.of(at).map(|edge| self.edges[edge]) {
                let from = &mut self.nodes[index(edge.from)];
                if seen & edge.lanes & !from.seen != 0 {
                    from.seen |= seen & edge.lanes;
                    work.push(index(edge.from));
                }
            }
        }
    }

    /// What it costs to guard everything that is seen below each value.
    ///
    /// An estimate where values meet again or go round loops; only the choice of places, not
    /// whether they are enough, depends on it.
    fn costs(&self, uses: &Index, lane: Lanes) -> Vec<u64> {
        let mut below = vec![0u64; self.nodes.len()];
        // Edges lead to later values except those back to a loop's start.
        for _ in 0..ROUNDS {
            for at in (0..self.nodes.len()).rev() {
                below[at] = uses
                    .of(at)
                    .map(|edge| &self.edges[edge])
                    .filter(|edge| edge.lanes & lane != 0)
                    .map(|edge| self.nodes[index(edge.to)].cost(lane, below[index(edge.to)]))
                    .fold(0, u64::saturating_add);
            }
        }
        below
    }

    /// Follows loose bits from where they are made to the guards that stop them.
    fn guard_lane(&self, uses: &Index, lane: Lanes, below: &[u64], guards: &mut Vec<Guard>) {
        let mut loose: Vec<bool> = self.nodes.iter().map(|node| node.made & lane != 0).collect();
        let mut work: Vec<usize> = (0..loose.len()).filter(|at| loose[*at]).collect();
        while let Some(at) = work.pop() {
            let node = &self.nodes[at];
            if node.is_guarded(lane, below[at]) {
                guards.push(Guard { place: node.place, shape: node.shape, lanes: lane });
                continue;
            }
            debug_assert!(node.seen & lane == 0, "loose bits are seen: {node:?}");
            for edge in uses.of(at).map(|edge| &self.edges[edge]) {
                if edge.lanes & lane != 0 && !loose[index(edge.to)] {
                    loose[index(edge.to)] = true;
                    work.push(index(edge.to));
                }
            }
        }
    }
}

impl Node {
    fn can_be_guarded(&self, lane: Lanes) -> bool {
        self.place != Place::None && self.canonical & lane != 0
    }

    fn weight(&self) -> u64 {
        LOOP_TURNS.saturating_pow(self.depth.into())
    }

    /// Whether to guard it, where it is loose and guarding everything below costs `below`.
    fn is_guarded(&self, lane: Lanes, below: u64) -> bool {
        let cheapest = below > 0 && self.weight() < below;
        self.can_be_guarded(lane) && (self.seen & lane != 0 || cheapest)
    }

    fn cost(&self, lane: Lanes, below: u64) -> u64 {
        match (self.seen & lane != 0, self.can_be_guarded(lane)) {
            (true, _) => self.weight(),
            (false, true) => self.weight().min(below),
            (false, false) => below,
        }
    }
}

/// The edges at each node.
struct Index {
    starts: Vec<u32>,
    edges: Vec<u32>,
}

impl Index {
    fn new(nodes: usize, edges: &[Edge], end: impl Fn(&Edge) -> NodeId) -> Index {
        let mut starts = vec![0u32; nodes + 1];
        for edge in edges {
            starts[index(end(edge))] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut sorted = vec![0; edges.len()];
        for (number, edge) in (0u32..).zip(edges) {
            let start = &mut starts[index(end(edge))];
            *start -= 1;
            sorted[*start as usize] = number;
        }
        Index { starts, edges: sorted }
    }

    fn of(&self, at: usize) -> impl Iterator<Item = usize> {
        let range = self.starts[at] as usize..self.starts[at + 1] as usize;
        self.edges[range].iter().map(|edge| *edge as usize)
    }
}

/// What is known of two fixed values, whichever of them it is.
pub(super) fn either(one: NodeId, other: NodeId) -> NodeId {
    match (one, other) {
        _ if one == other => one,
        (MASK_32 | MASK_64, MASK_32 | MASK_64) => MASK_32,
        _ => NodeId::from(clean_lanes(one) & clean_lanes(other)),
    }
}

/// Whether all that is known of a value is in its number.
pub(super) fn is_fixed(id: NodeId) -> bool {
    id < FIXED
}

/// The lanes in which every NaN of a fixed value is canonical.
pub(super) fn clean_lanes(fixed: NodeId) -> Lanes {
    match fixed {
        CLEAN_32 => F32,
        CLEAN_64 => F64,
        CLEAN => BOTH,
        _ => 0,
    }
}

fn index(id: NodeId) -> usize {
    (id - FIXED) as usize
}

/// How often a loop is guessed to go round, to compare a guard inside with guards outside.
const LOOP_TURNS: u64 = 8;
/// How often costs are carried back to a loop's start: enough for the loops that are met.
const ROUNDS: usize = 3;
