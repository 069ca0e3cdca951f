//! Claims about machines that differ from the one a guest may assume: too little memory, and a
//! floating-point unit that somebody has set up otherwise. The child here is an honest one that is
//! put into such a machine first.

use std::ffi::OsString;
use std::process::ExitCode;

use potluck_sandbox::{Program, Sandbox};
use potluck_unit::{Limits, NoResult};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::claims;
use crate::world::{SMALL, World, go, module, no_result, program, result, witness};

claims![
    growth_that_the_machine_refuses_is_no_result,
    memory_that_the_machine_lacks_at_the_start_is_no_result,
    output_that_the_machine_cannot_hold_is_no_result,
    the_floating_point_unit_is_the_same_for_every_unit,
];

/// The word that makes this binary a child on an odd machine; the next one says which.
pub(crate) const CHILD: &str = "__odd";

const POOR: &str = "poor";
const ROUNDING: &str = "rounding";

/// `argv`: the oddity, and then what an honest child gets.
pub(crate) fn child(mut argv: impl Iterator<Item = OsString>) -> ExitCode {
    match argv.next().and_then(|word| word.into_string().ok()).as_deref() {
        Some(POOR) => {
            let poor = Some(POOR_BYTES);
            setrlimit(Resource::Data, Rlimit { current: poor, maximum: poor }).unwrap();
        }
        Some(ROUNDING) => round_up_and_flush(),
        other => panic!("no such oddity: {other:?}"),
    }
    potluck_sandbox::child_main(argv)
}

/// Enough for a runner with its stack of 272 MiB and little more.
const POOR_BYTES: u64 = 400 << 20;

/// What some libraries do at their start, for speed: subnormal numbers become zero. And rounding
/// goes up, which nobody does.
fn round_up_and_flush() {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the control register is reached by an instruction")]
    // SAFETY: loads the register from a constant that lives until the instruction is done; no trap
    // is unmasked.
    unsafe {
        let control: u32 = 0x1f80 | 1 << 15 | 1 << 6 | 0b10 << 13;
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    #[expect(unsafe_code, reason = "the control register is reached by an instruction")]
    // SAFETY: writes the register; no trap is enabled.
    unsafe {
        std::arch::asm!("msr fpcr, {}", in(reg) 1_u64 << 24 | 1 << 22, options(nomem, nostack));
    }
}

/// The same folder of artefacts, with children on an odd machine.
fn odd(world: &World, which: &str) -> Sandbox {
    let path = std::env::current_exe().unwrap();
    let program = Program { path, args: vec![CHILD.into(), which.into()] };
    Sandbox::new(program, world.cache())
}

/// How a program ends on an ordinary machine and on an odd one, with memory and output enough for
/// it by the job's limits.
fn both(text: &str, which: &str) -> [potluck_sandbox::Run; 2] {
    let limits = Limits { memory_max_bytes: 1 << 30, output_max_bytes: 64 << 20, ..SMALL };
    let world = World::new();
    let (module, wasm) = module(text);
    // Compiled once: the oddity is about running.
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    [world.sandbox.start(&artefact, &limits), odd(&world, which).start(&artefact, &limits)]
        .map(|runner| go(&mut runner.unwrap(), &[], b""))
}

fn growth_that_the_machine_refuses_is_no_result() {
    let grow = "(if (i32.eq (memory.grow (i32.const 12000)) (i32.const -1))
                  (then (call $proc_exit (i32.const 1))))";
    let [rich, poor] = both(&program(grow), POOR);
    assert_eq!(result(&rich).0, 0);
    assert_eq!(no_result(&poor), NoResult::HostMemory);
}

fn memory_that_the_machine_lacks_at_the_start_is_no_result() {
    let text = r#"(module (memory (export "memory") 12000) (func (export "_start")))"#;
    let [rich, poor] = both(text, POOR);
    assert_eq!(result(&rich).0, 0);
    assert_eq!(no_result(&poor), NoResult::HostMemory);
}

fn output_that_the_machine_cannot_hold_is_no_result() {
    // 32 MiB of memory, written twice: the buffer has to grow to twice that and be copied.
    let write = "(i32.store (i32.const 4) (i32.const 0x2000000))
                 (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    let body = format!(
        "(drop (memory.grow (i32.const 1000))) (i32.store (i32.const 0) (i32.const 0)) {write} {write}"
    );
    let [rich, poor] = both(&program(&body), POOR);
    assert_eq!(result(&rich).1.len(), 64 << 20);
    assert_eq!(no_result(&poor), NoResult::HostMemory);
}

fn the_floating_point_unit_is_the_same_for_every_unit() {
    // A subnormal number and a sum that has to be rounded, stored where the witness sees them.
    let body = "(f64.store (i32.const 0) (f64.mul (f64.load (i32.const 16)) (f64.const 0.5)))
                (f64.store (i32.const 8) (f64.add (f64.load (i32.const 24)) (f64.const 0.2)))
                (i32.store (i32.const 32) (i32.const 0)) (i32.store (i32.const 36) (i32.const 16))
                (drop (call $fd_write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40)))";
    let body = format!(
        "(f64.store (i32.const 16) (f64.const 0x1p-1022))
         (f64.store (i32.const 24) (f64.const 0.1)) {body}"
    );
    let [plain, rounding] = both(&program(&body), ROUNDING);
    let right = [f64::MIN_POSITIVE * 0.5, 0.1 + 0.2].map(f64::to_le_bytes).concat();
    assert_eq!(result(&plain).1, right);
    assert_eq!(result(&rounding).1, right);
    assert_eq!(witness(&plain), witness(&rounding));
}
