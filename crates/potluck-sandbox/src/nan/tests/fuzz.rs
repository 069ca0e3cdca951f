//! Random modules, run under the engine's flag and after the pass.

use wasmtime::{Config, Engine, Instance, Module, OptLevel, Store, Val};

use super::super::flow::merges_max;
use super::super::{canonicalise, rewrite};
use super::generator;
use crate::profile;

/// All that a run leaves behind.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    ending: Result<Vec<u128>, String>,
    globals: Vec<u128>,
    memory: Vec<u8>,
}

fn bits(value: &Val) -> u128 {
    match value {
        Val::I32(bits) => u128::from(bits.cast_unsigned()),
        Val::I64(bits) => u128::from(bits.cast_unsigned()),
        Val::F32(bits) => u128::from(*bits),
        Val::F64(bits) => u128::from(*bits),
        Val::V128(bits) => bits.as_u128(),
        Val::FuncRef(_) | Val::ExternRef(_) | Val::AnyRef(_) | Val::ExnRef(_) | Val::ContRef(_) => {
            panic!("a result of another type: {value:?}")
        }
    }
}

fn run(engine: &Engine, wasm: &[u8]) -> Trace {
    let module = Module::new(engine, wasm).unwrap();
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let run = instance.get_func(&mut store, "run").unwrap();
    let mut results = vec![Val::I32(0); run.ty(&store).results().len()];
    let ending = match run.call(&mut store, &[], &mut results) {
        Ok(()) => Ok(results.iter().map(bits).collect()),
        Err(error) => Err(format!("{:?}", error.downcast_ref::<wasmtime::Trap>().unwrap())),
    };
    let exports: Vec<_> = instance.exports(&mut store).map(wasmtime::Export::into_extern).collect();
    let globals = exports.iter().filter_map(|export| export.clone().into_global());
    let globals: Vec<_> = globals.collect();
    let globals = globals.iter().map(|global| bits(&global.get(&mut store))).collect();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    Trace { ending, globals, memory: memory.data(&store).to_vec() }
}

fn engine(flag: bool, level: OptLevel, baseline: bool) -> Engine {
    let mut config = Config::new();
    config.cranelift_nan_canonicalization(flag).cranelift_opt_level(level);
    config.wasm_branch_hinting(true).memory_reservation(1 << 20).memory_guard_size(1 << 16);
    // Without a processor's newer instructions, rounding is done by other code, which leaves other
    // NaNs.
    if baseline && cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        config.target("x86_64-unknown-linux-gnu").unwrap();
    }
    Engine::new(&config).unwrap()
}

struct Engines {
    flag: Engine,
    flag_unoptimised: Engine,
    none: Engine,
    none_baseline: Engine,
}

impl Engines {
    fn new() -> Engines {
        Engines {
            flag: engine(true, OptLevel::Speed, false),
            flag_unoptimised: engine(true, OptLevel::None, true),
            none: engine(false, OptLevel::Speed, false),
            none_baseline: engine(false, OptLevel::None, true),
        }
    }
}

/// How many of some modules come out wrong without canonicalising, and with a pass that forgets
/// every fourth guard.
#[derive(Debug, Default)]
struct Score {
    modules: u32,
    trapped: u32,
    need_it: u32,
    broken_seen: u32,
    of: u32,
}

fn compare(seeds: impl Iterator<Item = u64>, size: usize) -> Score {
    let engines = Engines::new();
    let mut score = Score::default();
    for seed in seeds {
        let text = generator::module(seed, size);
        let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let passed = canonicalise(&wasm).unwrap();
        let valid =
            wasmparser::Validator::new_with_features(profile::FEATURES).validate_all(&passed);
        assert!(valid.is_ok(), "seed {seed}: {:?}", valid.err());
        assert_eq!(passed, canonicalise(&wasm).unwrap(), "seed {seed}");
        let reference = run(&engines.flag, &wasm);
        let same = |other: &Trace, what: &str| {
            assert!(*other == reference, "seed {seed} of size {size}: {what} differs\n{text}");
        };
        same(&run(&engines.none_baseline, &passed), "the pass on an old processor");
        if seed % 4 == 0 {
            same(&run(&engines.flag_unoptimised, &wasm), "the flag on an old processor");
            score.need_it += u32::from(run(&engines.none, &wasm) != reference);
            let mut guards = seed;
            let broken = rewrite(&wasm, merges_max, |_| {
                guards += 1;
                guards % 4 != 0
            });
            score.broken_seen += u32::from(run(&engines.none, &broken.unwrap()) != reference);
            score.of += 1;
        } else if seed % 4 == 1 {
            let coarse = rewrite(&wasm, |_| 1, |_| true).unwrap();
            same(&run(&engines.none, &coarse), "the coarse pass");
        } else {
            same(&run(&engines.none, &passed), "the pass");
        }
        score.modules += 1;
        score.trapped += u32::from(reference.ending.is_err());
    }
    score
}

#[test]
fn the_pass_equals_the_engines_flag_on_random_modules() {
    let score = compare(0..FEW, SMALL);
    assert!(score.need_it * 3 > score.of, "hardly any module needs it: {score:?}");
    assert!(score.broken_seen * 10 > score.of, "a broken pass is not seen: {score:?}");
}

/// `POTLUCK_NAN_SEEDS=1000..21000 cargo test --release -p potluck-sandbox --lib \
/// random_modules_without_end -- --ignored --nocapture`
#[test]
#[ignore = "takes half an hour: see its comment"]
fn the_pass_equals_the_engines_flag_on_random_modules_without_end() {
    let seeds = std::env::var("POTLUCK_NAN_SEEDS").unwrap();
    let (from, to) = seeds.split_once("..").unwrap();
    let score = compare(from.parse().unwrap()..to.parse().unwrap(), LARGE);
    eprintln!("{seeds}: {score:?}");
}

/// Modules of the test that always runs: a compiler that is itself not optimised takes its time.
const FEW: u64 = 300;
/// How much one function does, in statements and expressions.
const SMALL: usize = 40;
const LARGE: usize = 80;
