//! What a unit costs: printed when `POTLUCK_BENCH` is set. Processor time, not wall time, so that
//! other load on the machine matters little.

use std::time::Duration;

use crate::say;
use crate::world::{SMALL, World, go, program};

pub(crate) fn print() {
    let units = 5000;
    let empty = r#"(module (func (export "_start")))"#.to_owned();
    let pages = |pages: u32| {
        format!(r#"(module (memory (export "memory") {pages}) (func (export "_start")))"#)
    };
    for (name, text) in [
        ("no memory", empty),
        ("1 page", pages(1)),
        ("17 pages", pages(17)),
        ("1 page, proc_exit", program("(call $proc_exit (i32.const 0))")),
    ] {
        let mut runner = World::new().runner(&text, &SMALL);
        (0..200).for_each(|_| drop(go(&mut runner, &[], b"")));
        let before = own_cpu();
        let child: Duration = (0..units).filter_map(|_| go(&mut runner, &[], b"").cpu).sum();
        let parent = own_cpu().saturating_sub(before);
        let us = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(units);
        say(&format!(
            "{name}: {:.1} us of processor time per unit (parent {:.1}, child {:.1})",
            us(parent + child),
            us(parent),
            us(child)
        ));
    }
}

fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}
