//! Claims about which modules fit, and in which words the others are refused.

use super::limits::*;
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
         wasi_snapshot_preview1 can be imported; `env` is what was left undefined when linking, or \
         Emscripten's: build for wasm32-wasip1"
    );
    let write = with_start(r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i64)))"#);
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
    let cases = [
        ("(memory 1 1 shared)", "threads"),
        ("(memory 1) (func (drop (i32.atomic.load (i32.const 0))))", "threads (i32_atomic_load)"),
        ("(memory i64 1)", "64-bit memory"),
        ("(table i64 1 funcref)", "64-bit memory"),
        ("(memory i64 1 1 shared)", "threads"),
        ("(memory 1) (memory 1)", "several memories"),
        ("(memory 1 (pagesize 1))", "custom page sizes"),
        (
            "(memory 1) (func (memory.discard (i32.const 0) (i32.const 0)))",
            "memory control (memory_discard)",
        ),
        ("(tag)", "exceptions"),
        ("(func (block (try_table (catch_all 0))))", "exceptions (try_table)"),
        ("(func try catch_all end)", "exceptions (try)"),
        ("(func (param exnref))", "exceptions"),
        ("(type (struct))", "garbage collection"),
        ("(func (drop (ref.i31 (i32.const 0))))", "garbage collection (ref_i31)"),
        ("(func (param externref))", "host references"),
        ("(type $f (func)) (func (param (ref $f)))", "typed function references"),
        (
            "(type $f (func)) (func (call_ref $f (ref.null $f)))",
            "typed function references (ref_null)",
        ),
        ("(type $f (func)) (type (cont $f))", "stack switching"),
        (
            "(func (param v128) (result v128)
               local.get 0 local.get 0 local.get 0 f32x4.relaxed_madd)",
            "relaxed SIMD (f32x4_relaxed_madd)",
        ),
    ];
    for (fields, named) in cases {
        let error = refusal(&with_start(fields));
        assert!(error.starts_with(&format!("uses {named}, ")), "{fields}: {error}");
    }
}

#[test]
fn a_feature_comes_with_the_function_a_reason_and_what_to_do() {
    let fields = "(func $first) (func $thrower (block (try_table (catch_all 0))))";
    assert_eq!(
        refusal(&with_start(fields)),
        "uses exceptions (try_table), in function 1 `thrower` at byte 42: the engine keeps \
         exceptions in a garbage-collected heap that is young and whose bounds differ from \
         machine to machine; rebuild C++ with -fno-exceptions and C without -mllvm \
         -wasm-enable-sjlj, Rust with panic = \"abort\""
    );
    let exported = r#"(module (func) (func (export "f") (drop (ref.i31 (i32.const 0)))))"#;
    assert!(refusal(exported).contains("in function 1 `f` at byte"), "{}", refusal(exported));
    let nameless = "(module (func (drop (ref.i31 (i32.const 0)))))";
    assert!(refusal(nameless).contains("in function 0 at byte"), "{}", refusal(nameless));
}

#[test]
fn every_feature_left_out_has_a_name_of_its_own() {
    let features: std::collections::BTreeSet<_> =
        feature::ALL.iter().map(|feature| feature.as_str()).collect();
    assert_eq!(features.len(), feature::ALL.len());
    let page = include_str!("../../../../docs/profile.md");
    for feature in feature::ALL {
        let row = format!("| {feature} | {}", feature.reason());
        assert!(page.contains(&row), "docs/profile.md lacks: {row}");
        assert!(page.contains(feature.advice()), "docs/profile.md lacks: {}", feature.advice());
    }
}

#[test]
fn bytes_that_no_feature_explains_are_not_valid() {
    let wasm = wat::parse_str(with_start("(func $wrong (result i32) (i64.const 0))")).unwrap();
    let error = check(&wasm).unwrap_err();
    assert!(matches!(error, ModuleError::NotValid { .. }), "{error:?}");
    assert!(error.to_string().contains("in function 0 `wrong` at byte"), "{error}");
}

#[test]
fn what_check_refuses_has_reasons_and_what_it_accepts_has_none() {
    let good = wat::parse_str(with_start("(memory 1)")).unwrap();
    assert_eq!(reasons(&good), []);
    for at in 8..good.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(check(&bytes).is_err(), !reasons(&bytes).is_empty(), "{at} {byte}");
        }
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
    let nested = |n: usize| format!("(func {} {})", "block ".repeat(n), "end ".repeat(n));
    let locals = |n: usize| format!("(func (local{}))", " i32".repeat(n));
    let body = |n: usize| format!("(func {})", "nop ".repeat(n));
    let funcs = |n: usize| "(func)".repeat(n);
    let globals = |n: usize| "(global i32 (i32.const 0))".repeat(n);
    let tables = |n: usize| "(table 1 funcref)".repeat(n);
    let elements = |n: usize| format!("(table {n} funcref)");
    let targets =
        |n: usize| format!("(func (block i32.const 0 br_table{}))", " 0".repeat(n + 1)).repeat(10);
    let types = |n: usize| "(type (func))".repeat(n);
    let parameters = |n: usize| format!("(type (func (param{})))", " i32".repeat(n));
    let results = |n: usize| format!("(type (func (result{})))", " i32".repeat(n));
    let values = |n: usize| {
        let long = format!("(type (func (param{})))", " i32".repeat(499));
        format!("{} {}", long.repeat(2004), parameters(n))
    };
    let imports = |n: usize| {
        r#"(import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))"#.repeat(n)
    };
    let exports = |n: usize| {
        let export = |n| format!("(export \"{n}\" (func 0))");
        format!("(func) {}", (0..n).map(export).collect::<String>())
    };
    let names = |n: usize| {
        let long = "n".repeat(99_990);
        let export = |n| format!("(export \"{n:05}{long}\" (func 0))");
        let rest = format!("(export \"{}\" (func 0))", "r".repeat(n));
        format!("(func) {} {rest}", (0..83).map(export).collect::<String>())
    };
    let segments = |n: usize| "(elem func)".repeat(n);
    let members = |n: usize| format!("(func $f) (elem func{})", " $f".repeat(n));
    let data = |n: usize| r#"(data "")"#.repeat(n);
    let constants =
        |n: usize| format!("(global i32 (i32.const 0) {})", "(i32.const 0) i32.add ".repeat(n));
    // The function's own block counts, a body has a count of locals and an `end`, `_start` is a
    // function and an export, and a constant expression has an `end`.
    let max = |limit: u64| usize::try_from(limit).unwrap();
    let cases: [(Shape<'_>, usize, &str); 19] = [
        (&locals, max(LOCALS_MAX), "locals of a function"),
        (&nested, max(NESTING_MAX) - 1, "nested blocks of a function"),
        (&body, max(BODY_MAX_BYTES) - 2, "bytes of a function"),
        (&funcs, max(FUNCTIONS_MAX) - 1, "functions"),
        (&globals, max(GLOBALS_MAX), "globals"),
        (&tables, max(TABLES_MAX.into()), "tables"),
        (&elements, TABLE_ELEMENTS_MAX, "elements of a table"),
        (&targets, max(BR_TABLE_TARGETS_MAX) / 10, "branch table targets"),
        (&types, max(TYPES_MAX), "types"),
        (&parameters, max(PARAMETERS_MAX), "parameters of a type"),
        (&results, max(PARAMETERS_MAX), "results of a type"),
        (&values, max(TYPE_VALUES_MAX) - 499 * 2004, "parameters and results of all types"),
        (&imports, max(IMPORTS_MAX), "imports"),
        (&exports, max(EXPORTS_MAX) - 1, "exports"),
        (
            &names,
            max(NAMES_MAX_BYTES) - 83 * 99_995 - "_start".len(),
            "bytes of import and export names",
        ),
        (&segments, max(ELEMENT_SEGMENTS_MAX), "element segments"),
        (&members, max(ELEMENTS_MAX), "elements of all segments"),
        (&data, max(DATA_SEGMENTS_MAX), "data segments"),
        (&constants, max(CONST_INSTRUCTIONS_MAX) / 2 - 1, "instructions of constant expressions"),
    ];
    for (shape, max, what) in cases {
        let at_limit = check(&wat::parse_str(with_start(&shape(max))).unwrap());
        assert!(at_limit.is_ok(), "{what}: {at_limit:?}");
        let error = refusal(&with_start(&shape(max + 1)));
        assert!(error.starts_with(&format!("{what}: ")), "{what}: {error}");
    }
    let large = vec![0; max(MODULE_MAX_BYTES) + 1];
    assert!(check(&large).unwrap_err().to_string().starts_with("bytes of a module: "));
}

#[test]
fn an_instance_has_room_for_everything_at_its_limit() {
    // By the engine's layout: an imported function 32 bytes, one that can be referred to 32, a
    // global 16, a table 16 and its state, a segment 12; and some for the instance itself.
    let bytes = 64 * IMPORTS_MAX
        + 32 * FUNCTIONS_MAX
        + 16 * GLOBALS_MAX
        + 256 * u64::from(TABLES_MAX)
        + 12 * (DATA_SEGMENTS_MAX + ELEMENT_SEGMENTS_MAX)
        + (1 << 20);
    assert!(bytes < crate::engine::INSTANCE_MAX_BYTES as u64, "{bytes}");
}

#[test]
fn the_page_of_the_profile_has_every_limit() {
    let page = include_str!("../../../../docs/profile.md");
    for (what, max) in [
        ("bytes of a module", MODULE_MAX_BYTES),
        ("types", TYPES_MAX),
        ("parameters of a type", PARAMETERS_MAX),
        ("results of a type", PARAMETERS_MAX),
        ("parameters and results of all types", TYPE_VALUES_MAX),
        ("imports", IMPORTS_MAX),
        ("functions", FUNCTIONS_MAX),
        ("tables", TABLES_MAX.into()),
        ("elements of a table", TABLE_ELEMENTS_MAX as u64),
        ("globals", GLOBALS_MAX),
        ("exports", EXPORTS_MAX),
        ("bytes of import and export names", NAMES_MAX_BYTES),
        ("element segments", ELEMENT_SEGMENTS_MAX),
        ("elements of all segments", ELEMENTS_MAX),
        ("data segments", DATA_SEGMENTS_MAX),
        ("instructions of constant expressions", CONST_INSTRUCTIONS_MAX),
        ("bytes of a function", BODY_MAX_BYTES),
        ("locals of a function", LOCALS_MAX),
        ("nested blocks of a function", NESTING_MAX),
        ("branch table targets", BR_TABLE_TARGETS_MAX),
    ] {
        let row = format!("| {what} | {max} |");
        assert!(page.contains(&row), "docs/profile.md lacks: {row}");
    }
}

#[test]
fn a_name_from_a_stranger_is_clipped() {
    let long = with_start(&format!(r#"(import "env" "{}" (func))"#, "\\n".repeat(5000)));
    assert!(refusal(&long).len() < 1000);
}
