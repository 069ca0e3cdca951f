//! Random modules that do much with floats: one seed, one module.
//!
//! Whatever a module does ends: loops count down in locals of their own, functions call only later
//! ones, and every call uses up a global.

use std::fmt::Write as _;

use super::hostile::{Random, bits_32, bits_64, bits_128, float, memory};
use super::operators::operators;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ty {
    I32,
    I64,
    F32,
    F64,
    V128,
}
use Ty::{F32, F64, I32, I64, V128};

const TYPES: [Ty; 5] = [F32, F64, V128, I32, I64];
const FLOATS: [Ty; 6] = [F32, F64, V128, F32, F64, V128];

impl Ty {
    fn name(self) -> &'static str {
        match self {
            I32 => "i32",
            I64 => "i64",
            F32 => "f32",
            F64 => "f64",
            V128 => "v128",
        }
    }
}

#[derive(Clone)]
struct Signature {
    params: Vec<Ty>,
    results: Vec<Ty>,
}

/// The text of the module of a seed, whose functions have about `size` parts. It exports `run`, `memory` and its globals.
pub(super) fn module(seed: u64, size: usize) -> String {
    let mut random = Random(seed);
    let some = |random: &mut Random, most: usize| -> Vec<Ty> {
        (0..random.below(most + 1)).map(|_| random.pick(&FLOATS)).collect()
    };
    let mut signatures = vec![Signature { params: vec![], results: TYPES.to_vec() }];
    for _ in 0..2 + random.below(3) {
        let mut params = some(&mut random, 3);
        if random.percent(30) {
            params.push(random.pick(&TYPES));
        }
        let mut results = some(&mut random, 2);
        if random.percent(25) {
            results = TYPES.to_vec();
        }
        signatures.push(Signature { params, results });
    }
    let mut text = String::from("(module\n(memory (export \"memory\") 1)\n");
    for ty in TYPES {
        let (name, zero) = (ty.name(), zero(ty));
        writeln!(text, "(global ${name} (export \"{name}\") (mut {name}) ({zero}))").unwrap();
    }
    writeln!(text, "(global $fuel (mut i32) (i32.const 60))").unwrap();
    let functions = signatures.len();
    let names: String = (0..functions).map(|at| format!(" $f{at}")).collect();
    writeln!(text, "(table funcref (elem{names}))").unwrap();
    for at in 0..functions {
        text.push_str(&function(&mut random, &signatures, at, size));
    }
    writeln!(text, "(data (i32.const 0) \"{}\"))", memory(&mut random)).unwrap();
    text
}

fn zero(ty: Ty) -> String {
    match ty {
        V128 => "v128.const i64x2 0 0".into(),
        ty => format!("{}.const 0", ty.name()),
    }
}

fn list(word: &str, types: &[Ty]) -> String {
    if types.is_empty() {
        return String::new();
    }
    let names: String = types.iter().map(|ty| format!(" {}", ty.name())).collect();
    format!(" ({word}{names})")
}

fn function(random: &mut Random, signatures: &[Signature], at: usize, size: usize) -> String {
    let Signature { params, results } = &signatures[at];
    let mut locals = params.clone();
    let own: Vec<Ty> = TYPES.into_iter().chain((0..4).map(|_| random.pick(&FLOATS))).collect();
    locals.extend(&own);
    let mut body = Body {
        random,
        signatures,
        at,
        counters: locals.len(),
        locals,
        labels: vec![Label { types: results.clone(), counter: None }],
        out: String::new(),
        budget: size,
        loops: 0,
    };
    body.line("global.get $fuel i32.const 1 i32.sub global.set $fuel");
    body.line("global.get $fuel i32.const 0 i32.lt_s if");
    for ty in results {
        body.line(&zero(*ty));
    }
    body.line("return end");
    for _ in 0..6 + body.random.below(5) {
        body.statement(3);
    }
    for ty in results {
        body.value(*ty, 3);
    }
    let out = body.out;
    let counters = [I32; LOOPS_MAX];
    format!(
        "(func $f{at}{}{}{}{}{}\n{out})\n",
        if at == 0 { " (export \"run\")" } else { "" },
        list("param", params),
        list("result", results),
        list("local", &own),
        list("local", &counters),
    )
}

const LOOPS_MAX: usize = 3;

struct Label {
    types: Vec<Ty>,
    /// For a loop, the local that counts its turns down.
    counter: Option<usize>,
}

struct Body<'a> {
    random: &'a mut Random,
    signatures: &'a [Signature],
    at: usize,
    locals: Vec<Ty>,
    counters: usize,
    labels: Vec<Label>,
    out: String,
    budget: usize,
    loops: usize,
}

impl Body<'_> {
    fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn local(&mut self, ty: Ty) -> usize {
        let all: Vec<usize> = (0..self.locals.len()).filter(|at| self.locals[*at] == ty).collect();
        self.random.pick(&all)
    }

    fn statement(&mut self, depth: usize) {
        if self.budget == 0 {
            return;
        }
        self.budget -= 1;
        let nested = if depth == 0 { 6 } else { 16 };
        match self.random.below(nested) {
            0 | 1 => {
                let ty = self.random.pick(&FLOATS);
                self.value(ty, depth + 1);
                let local = self.local(ty);
                self.line(&format!("local.set {local}"));
            }
            2..=4 => self.store(),
            5 => {
                let ty = self.random.pick(&FLOATS);
                self.value(ty, 2);
                self.line(&format!("global.set ${}", ty.name()));
            }
            6..=8 => {
                let types = self.some_types(2);
                self.structure(&types, depth - 1);
                self.dispose(&types);
            }
            9 => self.branch_if(),
            10 => self.leave(depth - 1),
            11 => self.branch_table(depth - 1),
            _ => {
                let later = self.later();
                if let Some(callee) = later {
                    self.call(callee);
                    let results = self.signatures[callee].results.clone();
                    self.dispose(&results);
                }
            }
        }
    }

    fn some_types(&mut self, most: usize) -> Vec<Ty> {
        (0..self.random.below(most + 1)).map(|_| self.random.pick(&FLOATS)).collect()
    }

    /// Takes values off the stack, into locals or nowhere.
    fn dispose(&mut self, types: &[Ty]) {
        for ty in types.iter().rev() {
            if self.random.percent(25) {
                self.line("drop");
            } else {
                let local = self.local(*ty);
                self.line(&format!("local.set {local}"));
            }
        }
    }

    fn values(&mut self, types: &[Ty], depth: usize) {
        for ty in types {
            self.value(*ty, depth);
        }
    }

    /// A block, loop or `if` that leaves values of `types`.
    fn structure(&mut self, types: &[Ty], depth: usize) {
        let mut params = self.some_types(2);
        let kind = self.random.below(if self.loops < LOOPS_MAX { 4 } else { 2 });
        let counter = self.counters + self.loops;
        if kind >= 2 {
            params = types.to_vec();
            let turns = 1 + self.random.below(4);
            self.line(&format!("i32.const {turns} local.set {counter}"));
        }
        self.values(&params, 2);
        let head = list("param", &params) + &list("result", types);
        match kind {
            0 => self.line(&format!("block{head}")),
            1 => {
                self.condition();
                self.line(&format!("if{head}"));
            }
            _ => {
                self.line(&format!("loop{head}"));
                self.loops += 1;
            }
        }
        let label = Label { types: types.to_vec(), counter: (kind >= 2).then_some(counter) };
        self.labels.push(label);
        self.inside(&params, types, depth);
        if kind == 1 && (params != types || self.random.percent(60)) {
            self.line("else");
            self.inside(&params, types, depth);
        }
        if kind >= 2 {
            self.line(&format!("local.get {counter} i32.const 1 i32.sub local.tee {counter}"));
            self.line("i32.const 0 i32.gt_s br_if 0");
            self.loops -= 1;
        }
        self.labels.pop();
        self.line("end");
    }

    fn inside(&mut self, params: &[Ty], results: &[Ty], depth: usize) {
        // A value that stays where it is comes round as what it was.
        let stays = params == results && params.len() == 1 && self.random.percent(40);
        if stays {
            self.arithmetic(params[0], 0, true);
        } else {
            self.dispose(params);
        }
        for _ in 0..1 + self.random.below(3) {
            self.statement(depth);
        }
        if !stays {
            self.values(results, depth + 1);
        }
    }

    /// Goes to a label or not; the operands stay if not.
    fn branch_if(&mut self) {
        let depth = self.random.below(self.labels.len());
        let label = &self.labels[self.labels.len() - 1 - depth];
        let (types, counter) = (label.types.clone(), label.counter);
        self.values(&types, 2);
        match counter {
            None => self.condition(),
            Some(counter) => {
                self.line(&format!("local.get {counter} i32.const 1 i32.sub local.tee {counter}"));
                self.line("i32.const 0 i32.gt_s");
            }
        }
        self.line(&format!("br_if {depth}"));
        self.dispose(&types);
    }

    /// Returns, or calls instead, in a branch.
    fn leave(&mut self, depth: usize) {
        self.condition();
        self.line("if");
        self.labels.push(Label { types: vec![], counter: None });
        self.statement(depth);
        let results = self.signatures[self.at].results.clone();
        let same: Vec<usize> = (self.at + 1..self.signatures.len())
            .filter(|at| self.signatures[*at].results == results)
            .collect();
        if !same.is_empty() && self.random.percent(70) {
            let callee = self.random.pick(&same);
            let params = self.signatures[callee].params.clone();
            self.values(&params, 2);
            if self.random.percent(50) {
                self.line(&format!("return_call $f{callee}"));
            } else {
                let ty = list("param", &params) + &list("result", &results);
                self.line(&format!("i32.const {callee} return_call_indirect{ty}"));
            }
        } else {
            self.values(&results, 2);
            self.line("return");
            if self.random.percent(30) {
                self.line("f32.const 0 f32.sqrt i32.reinterpret_f32 drop");
            }
        }
        self.labels.pop();
        self.line("end");
    }

    /// One of three blocks is left with the same operands.
    fn branch_table(&mut self, depth: usize) {
        let types = self.some_types(2);
        let head = list("result", &types);
        let before = self.labels.len();
        for _ in 0..3 {
            self.line(&format!("block{head}"));
            self.labels.push(Label { types: types.clone(), counter: None });
        }
        self.statement(depth);
        self.values(&types, 3);
        self.value(I32, 1);
        self.line("i32.const 3 i32.and br_table 0 1 2 1");
        for _ in 0..3 {
            self.line("end");
            self.labels.pop();
            if self.labels.len() > before && types.len() == 1 {
                self.arithmetic(types[0], 1, true);
            }
        }
        self.dispose(&types);
    }

    fn later(&mut self) -> Option<usize> {
        let later = self.signatures.len() - self.at - 1;
        (later > 0).then(|| self.at + 1 + self.random.below(later))
    }

    fn call(&mut self, callee: usize) {
        let Signature { params, results } = self.signatures[callee].clone();
        self.values(&params, 2);
        if self.random.percent(60) {
            self.line(&format!("call $f{callee}"));
        } else {
            let ty = list("param", &params) + &list("result", &results);
            self.line(&format!("i32.const {callee} call_indirect{ty}"));
        }
    }

    fn condition(&mut self) {
        if self.random.percent(50) {
            let ty = self.random.pick(&[F32, F64]);
            self.values(&[ty, ty], 1);
            let compare = self.random.pick(&["eq", "ne", "lt", "ge"]);
            self.line(&format!("{}.{compare}", ty.name()));
        } else {
            self.value(I32, 1);
            self.line("i32.const 1 i32.and");
        }
    }

    fn address(&mut self) {
        let at = 8 * self.random.below(124);
        self.line(&format!("i32.const {at}"));
        if self.random.percent(15) {
            let local = self.local(I32);
            self.line(&format!("local.get {local} i32.const 1020 i32.and i32.add"));
        }
    }

    fn store(&mut self) {
        self.address();
        let ty = self.random.pick(&[F32, F64, V128, F32, F64, V128, I32, I64]);
        self.value(ty, 3);
        let lane = self.random.below(2);
        let store = match ty {
            V128 if self.random.percent(25) => format!("v128.store64_lane {lane}"),
            V128 if self.random.percent(25) => format!("v128.store32_lane {lane}"),
            I32 if self.random.percent(40) => "i32.store16".into(),
            ty => format!("{}.store", ty.name()),
        };
        self.line(&store);
    }

    fn load(&mut self, ty: Ty) {
        self.address();
        let load = match ty {
            V128 => self.random.pick(&[
                "v128.load",
                "v128.load",
                "v128.load32_splat",
                "v128.load64_zero",
                "v128.load32_zero",
                "v128.load64_splat",
                "v128.load16x4_s",
            ]),
            I32 => self.random.pick(&["i32.load", "i32.load16_s", "i32.load8_u"]),
            I64 => "i64.load",
            F32 => "f32.load",
            F64 => "f64.load",
        };
        self.line(load);
    }

    fn leaf(&mut self, ty: Ty) {
        match self.random.below(10) {
            0..=2 => self.load(ty),
            3 => self.line(&format!("global.get ${}", ty.name())),
            4 => {
                let bits = bits_128(self.random);
                let (low, high) = (bits as u64, (bits >> 64) as u64);
                match ty {
                    V128 => self.line(&format!("v128.const i64x2 {low} {high}")),
                    F32 => {
                        let bits = bits_32(self.random);
                        self.line(&float("f32", bits.into(), 23, 8));
                    }
                    F64 => {
                        let bits = bits_64(self.random);
                        self.line(&float("f64", bits, 52, 11));
                    }
                    I32 => self.line(&format!("i32.const {}", low as u32)),
                    I64 => self.line(&format!("i64.const {low}")),
                }
            }
            _ => {
                let local = self.local(ty);
                self.line(&format!("local.get {local}"));
            }
        }
    }

    fn value(&mut self, ty: Ty, depth: usize) {
        if depth == 0 || self.budget == 0 || self.random.percent(12) {
            return self.leaf(ty);
        }
        self.budget -= 1;
        match self.random.below(100) {
            0..=63 => self.arithmetic(ty, depth - 1, false),
            64..=73 => {
                self.value(ty, depth - 1);
                let local = self.local(ty);
                self.line(&format!("local.tee {local}"));
            }
            74..=83 => {
                self.values(&[ty, ty], depth - 1);
                self.condition();
                let select = format!("select (result {})", ty.name());
                let plain = self.random.percent(50);
                self.line(if plain { "select" } else { &select });
            }
            84..=90 => self.structure(&[ty], depth - 1),
            _ => match self.later() {
                Some(callee) if self.signatures[callee].results.contains(&ty) => {
                    self.call(callee);
                    let results = self.signatures[callee].results.clone();
                    let last = results.iter().rposition(|found| *found == ty).unwrap();
                    self.dispose(&results[last + 1..]);
                    let local = self.local(ty);
                    self.line(&format!("local.set {local}"));
                    self.dispose(&results[..last]);
                    self.line(&format!("local.get {local}"));
                }
                _ => self.leaf(ty),
            },
        }
    }

    /// An operator that leaves a value of `ty`. With `first`, one that takes the value of the same
    /// type that is on the stack.
    fn arithmetic(&mut self, ty: Ty, depth: usize, first: bool) {
        let table = operators(ty);
        let fits = |(params, _): &&(&[Ty], &str)| !first || params.first() == Some(&ty);
        let rows: Vec<_> = table.iter().filter(fits).collect();
        let (params, names) = rows[self.random.below(rows.len())];
        let names: Vec<&str> = names.split(' ').collect();
        let mut name = self.random.pick(&names);
        if self.random.percent(2) {
            name = match name {
                "i32.trunc_sat_f64_s" => "i32.trunc_f64_s",
                "i64.trunc_sat_f32_u" => "i64.trunc_f32_u",
                name => name,
            };
        }
        self.values(&params[usize::from(first)..], depth);
        let lanes = match name {
            "i8x16.shuffle" => self.shuffle(),
            "f64x2.extract_lane" | "f64x2.replace_lane" | "i64x2.replace_lane" => 2.to_string(),
            "f32x4.extract_lane" | "f32x4.replace_lane" | "i32x4.extract_lane" => 4.to_string(),
            _ => String::new(),
        };
        let lanes = match lanes.parse() {
            Ok(most) => self.random.below(most).to_string(),
            Err(_) => lanes,
        };
        self.line(&format!("{name} {lanes}"));
    }

    fn shuffle(&mut self) -> String {
        let width = self.random.pick(&[4usize, 4, 8, 8, 1, 2]);
        let lanes: Vec<String> = (0..16 / width)
            .flat_map(|_| {
                let from = width * self.random.below(32 / width);
                (from..from + width).map(|lane| lane.to_string())
            })
            .collect();
        lanes.join(" ")
    }
}
