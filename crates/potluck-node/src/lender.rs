//! The lender: measures the machine, watches `potluck.toml`, and tells the loop of both.
//!
//! What follows is decided by the peer; the other half of this is [`crate::lending`], which enforces it.

use std::time::Duration;

use potluck_peer::{Battery, Event, Reading, Rules};
use potluck_unit::Time;
use tokio::sync::{mpsc, oneshot};

use crate::config::Watcher;
use crate::hub::{Hub, Input, clock};
use crate::sensors::{Measured, Sensors};
use crate::traffic::Traffic;

/// How often the machine is looked at while units run. A rule that says no is obeyed within this and a
/// moment.
const EVERY_BUSY: Duration = Duration::from_secs(2);
/// How often it is while none does: there is nothing to pause, and looking costs something.
const EVERY_IDLE: Duration = Duration::from_secs(5);

/// What looks at the machine.
#[derive(Debug)]
pub(crate) struct Lender {
    pub(crate) sensors: Sensors,
    pub(crate) watcher: Watcher,
    pub(crate) traffic: Traffic,
    pub(crate) inputs: mpsc::Sender<Input>,
}

impl Lender {
    /// Measures, to be told to the peer before anything else.
    pub(crate) async fn measure(&mut self) -> Measured {
        self.sensors.read(clock()).await
    }

    /// Looks again and again until the loop is gone.
    pub(crate) async fn run(mut self) {
        let mut every = EVERY_BUSY;
        loop {
            tokio::time::sleep(every).await;
            if !self.reread().await {
                break;
            }
            every = match self.look().await {
                Some(true) => EVERY_BUSY,
                Some(false) => EVERY_IDLE,
                None => break,
            };
        }
    }

    /// Tells of new settings, if there are any. False if the loop is gone.
    async fn reread(&mut self) -> bool {
        let Some(read) = self.watcher.poll() else { return true };
        let wrong = self.watcher.error().map(ToString::to_string);
        let restart: Vec<String> =
            self.watcher.restart_needed().iter().map(|name| (*name).to_owned()).collect();
        if let Ok(config) = &read {
            self.sensors.watch_for(programs(&config.rules));
        }
        let rules = read.ok().map(|config| Box::new(config.rules));
        let ask = move |hub: &mut Hub| {
            hub.note_config(wrong, restart);
            if let Some(rules) = rules {
                hub.tell(Event::Rules(rules));
            }
        };
        self.inputs.send(Input::Ask(Box::new(ask))).await.is_ok()
    }

    /// Tells of one look at the machine, waits until it is taken, and answers whether any slot is busy;
    /// none if the loop is gone.
    async fn look(&mut self) -> Option<bool> {
        let measured = self.measure().await;
        let traffic = self.traffic.clone();
        let (sender, done) = oneshot::channel();
        let ask = move |hub: &mut Hub| {
            let reading = reading(hub.now(), measured, hub, &traffic);
            hub.tell(Event::Reading(reading));
            // Who asked may have gone.
            let _ = sender.send(hub.peer().slots_busy() > 0);
        };
        self.inputs.send(Input::Ask(Box::new(ask))).await.ok()?;
        done.await.ok()
    }
}

/// What the peer is to know of the machine.
pub(crate) fn reading(now: Time, measured: Measured, hub: &Hub, traffic: &Traffic) -> Reading {
    traffic.turn(now, measured.day_ends, measured.month_ends);
    // What was refused did not fit beside what is set aside: for the rule the disk is used up.
    let disk_bytes = match hub.disk_full() {
        None => hub.disk_used(),
        Some(_) => hub.disk_used().max(hub.peer().allowance().disk_bytes),
    };
    Reading { disk_bytes: Some(disk_bytes), ..bare_reading(measured, traffic) }
}

/// The same without the loop, which knows what is on disk.
pub(crate) fn bare_reading(measured: Measured, traffic: &Traffic) -> Reading {
    let discharging = measured.on_battery;
    Reading {
        week_ms: measured.week_ms,
        day_ends: measured.day_ends,
        month_ends: measured.month_ends,
        idle_ms: measured.idle_ms,
        battery: discharging
            .map(|discharging| Battery { discharging, percent: measured.battery_percent }),
        celsius: measured.celsius,
        others_cpu_percent: measured.others_cpu_percent.map(whole_percent),
        programs: measured.programs,
        metered: measured.metered,
        memory_bytes: measured.memory_bytes,
        disk_bytes: None,
        disk_free_bytes: measured.disk_free_bytes,
        today_bytes: traffic.today().both(),
        month_bytes: traffic.month().both(),
    }
}

/// The names of programs that the rules ask for.
pub(crate) fn programs(rules: &Rules) -> Vec<String> {
    rules.programs().into_iter().map(str::to_owned).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn whole_percent(percent: f64) -> u8 {
    percent.round().clamp(0.0, 100.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_whole_and_within_bounds() {
        assert_eq!(whole_percent(24.5), 25);
        assert_eq!(whole_percent(-1.0), 0);
        assert_eq!(whole_percent(f64::NAN), 0);
        assert_eq!(whole_percent(1e9), 100);
    }
}
