//! `potluck lint`: what it says of modules that fit and of those that don't, and how it ends.

use crate::grid::{Finished, Grid, finish, potluck};

/// Runs `potluck lint` on files of a grid that has no worker.
fn lint(grid: &Grid, args: &[&str]) -> Finished {
    let paths = args.iter().map(|name| {
        let is_option = name.starts_with('-');
        if is_option { (*name).to_owned() } else { grid.path(name).display().to_string() }
    });
    let paths: Vec<String> = std::iter::once("lint".to_owned()).chain(paths).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    finish(potluck(&grid.submitter(), &paths))
}

const FITS: &str = r#"(module (memory (export "memory") 1)
  (func (export "_start") (drop (f64.div (f64.const 0) (f64.const 0)))))"#;
const DOES_NOT: &str = r#"(module (import "env" "launch" (func)) (tag $t)
  (func $thrower (throw $t)) (table 100001 funcref))"#;

#[test]
fn a_module_that_fits_ends_in_0_and_one_that_does_not_in_2_with_every_reason() {
    let grid = Grid::new();
    grid.file("fits.wat", FITS);
    grid.file("does-not.wasm", wat::parse_str(DOES_NOT).unwrap());
    let fits = lint(&grid, &["fits.wat"]);
    assert_eq!((fits.code, &fits.err[..]), (0, ""));
    assert!(fits.out.contains("fits.wat: fits potluck-wasm-1 ("), "{}", fits.out);
    assert!(
        fits.out.contains("note: 1 float operations can make a NaN, 0 of them"),
        "{}",
        fits.out
    );
    let both = lint(&grid, &["does-not.wasm", "fits.wat"]);
    assert_eq!((both.code, &both.err[..]), (2, ""));
    for line in [
        "does-not.wasm: does not fit potluck-wasm-1",
        "- uses exceptions, at byte",
        "- imports env.launch, which Potluck does not offer",
        "- elements of a table: 100001, and the limit is 100000",
        "- does not export `_start`",
        "fits.wat: fits potluck-wasm-1",
    ] {
        assert!(both.out.contains(line), "{line}: {}", both.out);
    }
    // It asks nobody and leaves nothing.
    assert!(!grid.submitter().exists());
}

#[test]
fn json_has_the_same_in_one_value_a_module() {
    let grid = Grid::new();
    grid.file("fits.wat", FITS);
    grid.file("does-not.wat", DOES_NOT);
    let finished = lint(&grid, &["--json", "fits.wat", "does-not.wat"]);
    assert_eq!(finished.code, 2);
    let values: Vec<serde_json::Value> =
        finished.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), 2);
    assert_eq!(values[0]["fits"], true);
    assert_eq!(values[0]["profile"], "potluck-wasm-1");
    assert_eq!(values[0]["functions"], 1);
    assert_eq!(values[0]["memory_min_bytes"], 65536);
    assert_eq!(values[0]["advice"][0]["kind"], "canonical-nans");
    assert_eq!(values[1]["fits"], false);
    assert_eq!(values[1]["reasons"].as_array().unwrap().len(), 4);
}

#[test]
fn what_is_no_module_at_all_is_named_and_the_others_are_still_looked_at() {
    let grid = Grid::new();
    grid.file("fits.wat", FITS);
    grid.file("broken.wat", "(module (func (i32.wrong)))");
    grid.file("text.wasm", "hello");
    let finished = lint(&grid, &["missing.wasm", "broken.wat", "text.wasm", "fits.wat"]);
    assert_eq!(finished.code, 2);
    assert!(finished.err.contains("missing.wasm"), "{}", finished.err);
    assert!(finished.err.contains("broken.wat:1:16 can't be assembled"), "{}", finished.err);
    assert!(finished.out.contains("- not a wasm module (it starts with `hello`)"));
    assert!(finished.out.contains("fits.wat: fits"), "{}", finished.out);
}

#[test]
fn lint_and_submit_agree() {
    let grid = Grid::new();
    let module = grid.file("does-not.wat", DOES_NOT);
    let submitted = grid.run(&["submit", module.to_str().unwrap()]);
    assert_eq!(submitted.code, 2);
    assert!(submitted.err.contains("imports env.launch, which"), "{}", submitted.err);
}
