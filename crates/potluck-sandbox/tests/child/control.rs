//! Claims about the hold that a donor has on a child while it works.

use std::time::{Duration, Instant};

use potluck_sandbox::Share;
use potluck_unit::NoResult;

use crate::claims;
use crate::world::{SMALL, World, cpu, eventually, go, no_result, program, result, state};

claims![
    a_throttled_child_stays_near_its_share,
    a_share_of_a_whole_processor_is_no_throttle,
    a_suspended_child_stays_so_whatever_its_share,
    a_child_can_be_killed_while_its_share_holds_it,
    a_throttled_child_still_runs_unit_after_unit,
];

const FOREVER: &str = "(loop (br 0))";

fn share(percent: u8) -> Share {
    Share::from_percent(percent).unwrap()
}

fn a_throttled_child_stays_near_its_share() {
    let world = World::new();
    let mut runners = [(); 2].map(|()| world.runner(&program(FOREVER), &SMALL));
    let handles = runners.each_ref().map(potluck_sandbox::Runner::handle);
    std::thread::scope(|scope| {
        for runner in &mut runners {
            scope.spawn(|| assert_eq!(no_result(&go(runner, &[], b"")), NoResult::Stopped));
        }
        for (handle, percent) in handles.iter().zip([10, 30]) {
            handle.throttle(share(percent)).unwrap();
        }
        let marks = handles.each_ref().map(|handle| (cpu(handle.pid()), Instant::now()));
        for ((handle, percent), (before, start)) in handles.iter().zip([10, 30]).zip(marks) {
            // Some work has to be seen, and enough time for ticks of 10 ms to say a percentage.
            let worked = || cpu(handle.pid()) > before + Duration::from_millis(100);
            assert!(eventually(|| worked() && start.elapsed() > Duration::from_secs(1)));
            let used = cpu(handle.pid()).checked_sub(before).unwrap();
            let percent_used = 100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64();
            // Only from above, and with room: a busy machine may have had less to give, and let the
            // throttle wait for its turn.
            assert!(percent_used < f64::from(percent) + 10.0, "{percent_used} of {percent} %");
        }
        handles.iter().for_each(potluck_sandbox::RunnerHandle::kill);
    });
}

fn a_share_of_a_whole_processor_is_no_throttle() {
    let mut runner = World::new().runner(&program(FOREVER), &SMALL);
    let handle = runner.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::Stopped));
        handle.throttle(share(1)).unwrap();
        assert!(eventually(|| state(handle.pid()) == 'T'));
        handle.throttle(Share::FULL).unwrap();
        let before = cpu(handle.pid());
        assert!(eventually(|| cpu(handle.pid()) > before + Duration::from_millis(100)));
        assert_ne!(state(handle.pid()), 'T');
        handle.kill();
    });
}

fn a_suspended_child_stays_so_whatever_its_share() {
    let mut runner = World::new().runner(&program(FOREVER), &SMALL);
    let handle = runner.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::Stopped));
        handle.throttle(share(50)).unwrap();
        handle.suspend();
        let stays = || {
            assert!(eventually(|| state(handle.pid()) == 'T'));
            // Real time has to pass here: several periods of the throttle.
            (0..20).all(|_| {
                std::thread::sleep(Duration::from_millis(5));
                state(handle.pid()) == 'T'
            })
        };
        assert!(stays());
        handle.throttle(share(90)).unwrap();
        assert!(stays());
        handle.throttle(Share::FULL).unwrap();
        assert!(stays());
        let before = cpu(handle.pid());
        handle.resume();
        assert!(eventually(|| cpu(handle.pid()) > before));
        handle.kill();
    });
}

fn a_child_can_be_killed_while_its_share_holds_it() {
    let mut runner = World::new().runner(&program(FOREVER), &SMALL);
    let handle = runner.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::Stopped));
        handle.throttle(share(1)).unwrap();
        assert!(eventually(|| state(handle.pid()) == 'T'));
        handle.kill();
    });
    // What no longer exists can be throttled without harm.
    handle.throttle(share(1)).unwrap();
    handle.throttle(Share::FULL).unwrap();
}

fn a_throttled_child_still_runs_unit_after_unit() {
    let mut runner = World::new().runner(&program(""), &SMALL);
    runner.handle().throttle(share(2)).unwrap();
    for _ in 0..50 {
        assert_eq!(result(&go(&mut runner, &[], b"")).0, 0);
    }
}
