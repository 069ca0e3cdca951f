//! The sandbox with real children. This binary is its own child: started with `__sandbox` it
//! becomes one, otherwise it runs the claims below, or those whose name contains an argument.

#![expect(clippy::unwrap_used, reason = "all of this is tests, although the harness is our own")]

#[cfg(target_os = "linux")]
mod attempts;
mod bench;
mod bombs;
mod control;
mod files;
mod hostile;
mod life;
#[cfg(target_os = "linux")]
mod locked;
mod odd;
mod paths;
mod payload;
mod programs;
mod script;
mod wasi;
mod world;

use std::panic::catch_unwind;
use std::process::ExitCode;

use world::Claim;

fn main() -> ExitCode {
    let mut argv = std::env::args_os().skip(1).peekable();
    if argv.peek().is_some_and(|word| word == world::CHILD) {
        return potluck_sandbox::child_main(argv.skip(1));
    }
    if argv.peek().is_some_and(|word| word == hostile::CHILD) {
        return hostile::child(argv.skip(1));
    }
    if argv.peek().is_some_and(|word| word == odd::CHILD) {
        return odd::child(argv.skip(1));
    }
    if argv.peek().is_some_and(|word| word == life::PARENT) {
        return life::parent();
    }
    #[cfg(target_os = "linux")]
    if argv.peek().is_some_and(|word| word == locked::CHILD) {
        return locked::child(argv.skip(1));
    }
    #[cfg(target_os = "linux")]
    if argv.peek().is_some_and(|word| word == locked::LACKING) {
        return locked::lacking(argv.skip(1));
    }
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let claims: Vec<Claim> = [
        programs::CLAIMS,
        wasi::CLAIMS,
        paths::CLAIMS,
        files::CLAIMS,
        life::CLAIMS,
        bombs::CLAIMS,
        control::CLAIMS,
        payload::CLAIMS,
        odd::CLAIMS,
        hostile::CLAIMS,
        #[cfg(target_os = "linux")]
        locked::CLAIMS,
    ]
    .concat();
    let (mut passed, mut failed) = (0, 0);
    for (name, claim) in claims {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let holds = catch_unwind(claim).is_ok();
        say(&format!("test {name} ... {}", if holds { "ok" } else { "FAILED" }));
        if holds { passed += 1 } else { failed += 1 }
    }
    if std::env::var_os("POTLUCK_BENCH").is_some() {
        bench::print();
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    say(&format!("test result: {verdict}. {passed} passed; {failed} failed"));
    ExitCode::from(u8::from(failed > 0))
}

#[expect(clippy::print_stdout, reason = "this is the test harness: its output is for people")]
fn say(line: &str) {
    println!("{line}");
}
