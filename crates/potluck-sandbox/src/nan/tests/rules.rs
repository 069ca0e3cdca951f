//! Each rule on the smallest function that shows it.

use std::borrow::Cow;

use wasmparser::{Operator, Parser, Payload};

use super::super::flow::merges_max;
use super::super::graph::{F32, Place, Shape};
use super::super::{canonicalise, rewrite};

/// The guards of a function with some parameters and this body, in the order of the body: each its
/// type and how many loops are around it.
fn guards(body: &str) -> Vec<String> {
    guards_within(body, merges_max)
}

fn guards_within(body: &str, effort: fn(usize) -> usize) -> Vec<String> {
    let text = format!(
        "(module (memory 1) (global $g (mut f64) (f64.const 0)) (table 1 funcref)
           (func $other (param f64) (result f64) f64.const 0)
           (func $last (param f64))
           (func (param $raw f64) (param $i i32) (param $v v128) (param $raw32 f32)
             (local $x f64) (local $y f64) (local $s f32) (local $w v128)
             {body}))"
    );
    let wasm = wat::parse_str(text).unwrap();
    let mut found = Vec::new();
    let passed = rewrite(&wasm, effort, |guard| {
        let at = match guard.place {
            Place::Stack(at) | Place::Local(at, _) => at as usize,
            Place::None => panic!("a guard nowhere"),
        };
        let ty = match (guard.shape, guard.lanes) {
            (Shape::F32, _) => "f32",
            (Shape::F64, _) => "f64",
            (Shape::V128, F32) => "f32x4",
            (Shape::V128, _) => "f64x2",
        };
        found.push((at, format!("{ty} in {}", loops_around(&wasm, at))));
        true
    });
    wasmparser::validate(&passed.unwrap()).unwrap();
    found.sort();
    found.into_iter().map(|(_, guard)| guard).collect()
}

fn loops_around(wasm: &[u8], at: usize) -> usize {
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CodeSectionEntry(body) = payload.unwrap() else { continue };
        if !body.range().contains(&at) {
            continue;
        }
        let mut open = Vec::new();
        let mut operators = body.get_operators_reader().unwrap();
        while operators.original_position() < at {
            let operator = operators.read().unwrap();
            if let Operator::Loop { .. } = operator {
                open.push(true);
            } else if let Operator::Block { .. } | Operator::If { .. } = operator {
                open.push(false);
            } else if let Operator::End = operator {
                open.pop();
            }
        }
        return open.into_iter().filter(|is_loop| *is_loop).count();
    }
    panic!("byte {at} is in no function")
}

const NONE: [&str; 0] = [];
const SUM: &str = "(f64.add (local.get $raw) (f64.const 1))";
const SUMS: &str = "(f32x4.add (local.get $v) (local.get $v))";

fn store(value: &str) -> String {
    format!("(f64.store (i32.const 0) {value})")
}

fn store_vector(value: &str) -> String {
    format!("(v128.store (i32.const 0) {value})")
}

#[test]
fn arithmetic_on_arithmetic_needs_no_guard() {
    let product = format!("(f64.sqrt (f64.mul {SUM} (f64.min {SUM} (f64.const 2))))");
    assert_eq!(guards(&format!("(drop (f64.lt {product} {product}))")), NONE);
    assert_eq!(guards(&format!("(drop (i64.trunc_sat_f64_s {product}))")), NONE);
    assert_eq!(guards(&format!("(drop (f32.eq (f32.demote_f64 {SUM}) (f32.const 0)))")), NONE);
    assert_eq!(guards(&format!("(local.set $x {SUM}) (drop (f64.ceil (local.get $x)))")), NONE);
}

#[test]
fn whoever_looks_at_bits_gets_one_guard() {
    for body in [
        store(SUM),
        format!("(global.set $g {SUM})"),
        format!("(drop (call $other {SUM}))"),
        format!("(call_indirect (param f64) {SUM} (i32.const 0))"),
        format!("(drop (i64.reinterpret_f64 {SUM}))"),
        format!("(drop (f64.copysign (local.get $raw) {SUM}))"),
        format!("(local.set $x {SUM}) {}", store("(local.get $x)")),
        store(&format!("(f64.abs {SUM})")),
        store(&format!("(f64.neg {SUM})")),
        store(&format!("(local.tee $x {SUM})")),
        store(&format!("(f64.max {SUM} {SUM})")),
    ] {
        assert_eq!(guards(&body), ["f64 in 0"], "{body}");
    }
    assert_eq!(guards(&store_vector(SUMS)), ["f32x4 in 0"]);
    assert_eq!(guards(&format!("(drop (i32x4.add {SUMS} {SUMS}))")), ["f32x4 in 0"; 2]);
    assert_eq!(guards(&format!("(f32.store (i32.const 0) (f32.demote_f64 {SUM}))")), ["f32 in 0"]);
}

#[test]
fn bits_that_no_arithmetic_made_stay_as_they_are() {
    for body in [
        store("(local.get $raw)"),
        store("(f64.neg (f64.load (i32.const 8)))"),
        store("(f64.const -nan:0x4000000000001)"),
        store("(f64.convert_i32_s (local.get $i))"),
        store_vector("(f32x4.pmin (local.get $v) (v128.load (i32.const 16)))"),
        store_vector("(v128.xor (local.get $v) (v128.const i32x4 1 2 3 4))"),
    ] {
        assert_eq!(guards(&body), NONE, "{body}");
    }
}

#[test]
fn a_value_that_may_be_raw_has_its_arithmetic_guarded_before() {
    let mixed = format!("(select (local.get $raw) {SUM} (local.get $i))");
    assert_eq!(guards(&store(&mixed)), ["f64 in 0"]);
    assert_eq!(guards(&format!("(drop (f64.floor {mixed}))")), NONE);
    let arms = format!(
        "(if (local.get $i) (then (local.set $x {SUM}))
        (else (local.set $x (local.get $raw))))"
    );
    assert_eq!(guards(&format!("{arms} {}", store("(local.get $x)"))), ["f64 in 0"]);
    assert_eq!(guards(&format!("{arms} (drop (f64.floor (local.get $x)))")), NONE);
}

#[test]
fn values_that_meet_are_guarded_once_where_they_meet() {
    let arms = format!(
        "(if (local.get $i) (then (local.set $x {SUM}))
        (else (local.set $x (f64.sqrt (local.get $raw)))))"
    );
    assert_eq!(guards(&format!("{arms} {}", store("(local.get $x)"))), ["f64 in 0"]);
    let block = format!("(if (result f64) (local.get $i) (then {SUM}) (else (f64.const 1)))");
    assert_eq!(guards(&store(&block)), ["f64 in 0"]);
    let branch = format!("(block (result f64) {SUM} (br_if 0 (local.get $i)) f64.sqrt)");
    assert_eq!(guards(&store(&branch)), ["f64 in 0"]);
    assert_eq!(guards(&format!("(drop (f64.sqrt {branch}))")), NONE);
}

#[test]
fn a_value_that_is_seen_often_is_guarded_where_it_is_made() {
    let twice = store("(local.get $x)").repeat(3);
    assert_eq!(guards(&format!("(local.set $x {SUM}) {twice}")), ["f64 in 0"]);
}

fn turns(body: &str) -> String {
    format!("(loop {body} (br_if 0 (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))")
}

const STEP: &str = "(local.set $x (f64.add (local.get $x) (f64.load (i32.const 8))))";

#[test]
fn an_accumulator_is_guarded_once_after_its_loops() {
    let after = store("(local.get $x)");
    assert_eq!(guards(&format!("{} {after}", turns(STEP))), ["f64 in 0"]);
    let nested = turns(&format!("(local.set $x (f64.const 0)) {} {after}", turns(STEP)));
    assert_eq!(guards(&nested), ["f64 in 1"]);
    let left = format!("(block (loop {STEP} (br_if 1 (local.get $i)) (br 0)))");
    assert_eq!(guards(&format!("{left} {after}")), ["f64 in 0"]);
    // What it starts with is raw, and is what is stored when the loop is not entered.
    let maybe = format!(
        "(local.set $x (local.get $raw)) (if (local.get $i) (then {})) {after}",
        turns(STEP)
    );
    assert_eq!(guards(&maybe), ["f64 in 0"]);
}

#[test]
fn what_a_loop_shows_each_turn_is_guarded_each_turn() {
    let shown = turns(&format!("{STEP} {}", store("(local.get $x)")));
    assert_eq!(guards(&shown), ["f64 in 1"]);
    let start = "(local.set $x (local.get $raw))";
    let raw_at_first = turns(&format!("{} {STEP}", store("(local.get $x)")));
    assert_eq!(guards(&format!("{start} {raw_at_first}")), ["f64 in 1"]);
    let operand = format!("{SUM} (loop (param f64) f64.sqrt (br_if 0 (local.get $i)) drop)");
    assert_eq!(guards(&operand), NONE);
    let seen = format!(
        "(local.get $raw) (loop (param f64) local.tee $x f64.sqrt {}
           (br_if 0 (local.get $i)) drop)",
        store("(local.get $x)")
    );
    assert_eq!(guards(&seen), ["f64 in 1"]);
}

#[test]
fn one_local_for_unrelated_values_is_as_many_values() {
    let body = format!(
        "(local.set $x (local.get $raw)) {} (local.set $x {SUM}) (drop (f64.ceil (local.get $x)))
         (local.set $x (f64.const 0)) {} {}",
        store("(local.get $x)"),
        turns(STEP),
        store("(local.get $x)")
    );
    assert_eq!(guards(&body), ["f64 in 0"]);
}

#[test]
fn lanes_of_another_width_are_other_bits() {
    let wide = format!("(f64x2.mul {SUMS} (local.get $v))");
    assert_eq!(guards(&store_vector(&wide)), ["f32x4 in 0", "f64x2 in 0"]);
    let arms = format!(
        "(if (local.get $i) (then (local.set $w {SUMS}))
           (else (local.set $w (f64x2.sqrt (local.get $v)))))"
    );
    let seen = format!("{arms} {}", store_vector("(local.get $w)"));
    assert_eq!(guards(&seen), ["f32x4 in 0", "f64x2 in 0"]);
    let narrow = format!("{arms} (drop (f32x4.ceil (local.get $w)))");
    assert_eq!(guards(&narrow), ["f64x2 in 0"]);
}

#[test]
fn lanes_that_are_moved_whole_stay_what_they_are() {
    let reversed = "i8x16.shuffle 12 13 14 15 8 9 10 11 4 5 6 7 0 1 2 3";
    let torn = "i8x16.shuffle 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
    let asked = |vector: &str| format!("(drop (f32x4.eq {vector} (local.get $v)))");
    assert_eq!(guards(&asked(&format!("({reversed} {SUMS} {SUMS})"))), NONE);
    assert_eq!(guards(&asked(&format!("({torn} {SUMS} (local.get $v))"))), ["f32x4 in 0"]);
    let lane = format!("(f32x4.splat (f32x4.extract_lane 1 {SUMS}))");
    assert_eq!(guards(&asked(&lane)), NONE);
    let mask = "(f32x4.lt (local.get $v) (local.get $w))";
    let chosen = format!("(v128.bitselect {SUMS} (local.get $v) {mask})");
    assert_eq!(guards(&asked(&chosen)), NONE);
    let mixed = format!("(v128.bitselect {SUMS} (local.get $v) (local.get $w))");
    assert_eq!(guards(&asked(&mixed)), ["f32x4 in 0"]);
}

#[test]
fn code_that_is_never_reached_is_left_alone() {
    assert_eq!(guards(&format!("(return) {}", store(SUM))), NONE);
    assert_eq!(guards(&format!("(block (br 0) {})", store(SUM))), NONE);
    let nested = format!("unreachable (if (i32.const 1) (then {}) (else nop))", store(SUM));
    assert_eq!(guards(&nested), NONE);
    let after = format!("(block (br_table 0 0 (local.get $i))) {}", store(SUM));
    assert_eq!(guards(&after), ["f64 in 0"]);
}

#[test]
fn a_tail_call_in_a_branch_leaves_the_values_of_the_other_way() {
    let call = format!("(if (local.get $i) (then (return_call $last {SUM})))");
    assert_eq!(guards(&format!("i32.const 0 {SUM} {call} f64.store")), ["f64 in 0"; 2]);
    assert_eq!(guards(&format!("{SUM} {call} drop")), ["f64 in 0"]);
}

#[test]
fn over_the_bound_on_merges_each_local_is_one_value() {
    let body = format!("{} {}", turns(STEP), store("(local.get $x)"));
    assert_eq!(guards_within(&body, merges_max), ["f64 in 0"]);
    assert_eq!(guards_within(&body, |_| 1), ["f64 in 0"]);
    // Here it costs a guard in the loop: the local is raw at some time.
    let raw = format!("(local.set $x (local.get $raw)) (drop (local.get $x)) {body}");
    assert_eq!(guards_within(&raw, merges_max), ["f64 in 0"]);
    assert_eq!(guards_within(&raw, |_| 1), ["f64 in 1"]);
    let bounds = [0, 1000, 256 << 10].map(merges_max);
    assert_eq!(bounds, [4096, 36_096, 2_097_152]);
}

#[test]
fn a_module_that_needs_no_guard_comes_back_untouched() {
    for text in [
        "(module)",
        "(module (func (param i32) (result i32) local.get 0 i32.const 1 i32.add))",
        "(module (func (param f64) (result f64) local.get 0 f64.neg))",
        "(module (func (param f64) (result i32) local.get 0 f64.sqrt i32.trunc_f64_s))",
    ] {
        let wasm = wat::parse_str(text).unwrap();
        assert!(matches!(canonicalise(&wasm).unwrap(), Cow::Borrowed(_)), "{text}");
    }
}

#[test]
fn hints_about_branches_that_have_moved_are_dropped() {
    let wasm = wat::parse_str(
        "(module (func (param f64) (result f64)
           (block (@metadata.code.branch_hint \"\\01\") (br_if 0 (i32.const 1))) 
           (f64.sqrt (local.get 0))) (@custom \"other\" (after last) \"kept\"))",
    );
    let passed = canonicalise(&wasm.unwrap()).unwrap().into_owned();
    let mut hints = Vec::new();
    let mut customs = Vec::new();
    for payload in Parser::new(0).parse_all(&passed) {
        let Payload::CustomSection(custom) = payload.unwrap() else { continue };
        customs.push(custom.name().to_owned());
        if let wasmparser::KnownCustom::BranchHints(functions) = custom.as_known() {
            for function in functions {
                let function = function.unwrap();
                hints.extend(function.hints.into_iter().map(|hint| hint.unwrap().func_offset));
            }
        }
    }
    assert_eq!(customs, ["metadata.code.branch_hint", "other"]);
    assert_eq!(hints.len(), 1, "the guard's own");
}
