//! How a job comes along: one line drawn over and over on a terminal, a line now and then elsewhere.

use std::time::Duration;

use potluck_node::api::JobInfo;
use potluck_unit::JobId;
use tokio::time::{Instant, sleep_until};

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::{Printer, count};
use crate::quantity::show_duration;
use crate::session::{Session, ticks};

/// Follows a job until it is finished, or until `until` has passed. Answers with its last state.
pub(crate) async fn follow(
    context: &Context,
    session: &mut Session,
    id: &JobId,
    until: Option<Instant>,
) -> Result<JobInfo, Failure> {
    let mut watch = session.client.watch(id).await?;
    let mut progress = Progress::default();
    let mut last: Option<JobInfo> = None;
    let start = Instant::now();
    let mut tick = ticks();
    let far = start + Duration::from_secs(365 * 24 * 3600);
    loop {
        tokio::select! {
            info = watch.next() => match info? {
                Some(info) => {
                    context.set_farewell(farewell(&info));
                    last = Some(info);
                }
                None => break,
            },
            // Rates and the time left change even when nothing happens.
            _ = tick.tick() => {}
            () = sleep_until(until.unwrap_or(far)) => break,
        }
        if let Some(info) = &last {
            progress.show(&context.printer, info, start.elapsed());
            if info.finished {
                break;
            }
        }
    }
    context.printer.wipe();
    match last {
        Some(info) if info.finished || until.is_some_and(|until| Instant::now() >= until) => {
            Ok(info)
        }
        Some(_) | None => Err(Failure::failed(
            "the node stopped before the job was finished; the job goes on, wait again with `potluck job wait`",
        )),
    }
}

/// What a person who stops waiting should know.
pub(crate) fn farewell(info: &JobInfo) -> String {
    let id = &info.id;
    if info.keepers == 0 && info.accepted < info.units {
        return format!(
            "interrupted; job {id} is saved here but no other peer holds it yet; go on with `potluck job wait {id}`"
        );
    }
    format!(
        "interrupted; job {id} goes on without us; get it later with `potluck job wait {id}` and `potluck job results {id}`"
    )
}

/// How far a job is. A unit is final when audits can't be expected to overturn it any more.
pub(crate) fn accepted(info: &JobInfo) -> String {
    format!("accepted {} of {}, {} final", info.accepted, info.units, info.finals)
}

/// What is still missing of a job, in one sentence.
pub(crate) fn missing(info: &JobInfo) -> String {
    let open = info.units - (info.accepted + info.unrunnable).min(info.units);
    let mut text = match open {
        0 => format!("all {} are decided", count(info.units, "unit")),
        open => format!("{open} of {} have no result yet", count(info.units, "unit")),
    };
    let unfetched = info.accepted.saturating_sub(info.fetched);
    if unfetched > 0 {
        text += &format!(", {} still to be fetched", count(unfetched, "result"));
    }
    if !info.waiting_for.is_empty() {
        text += &format!(" ({})", info.waiting_for.join("; "));
    }
    text
}

/// The end of a wait: an exit code and why.
pub(crate) fn verdict(info: &JobInfo) -> Result<Exit, Failure> {
    let decided = info.accepted + info.unrunnable;
    if decided < info.units {
        let ended = if info.closed { "was closed or has expired" } else { "is not finished" };
        let message = format!("job {} {ended}: {}", info.id, missing(info));
        let exit = if info.closed { Exit::Incomplete } else { Exit::Failed };
        return Err(Failure::new(exit, message));
    }
    if info.unrunnable > 0 {
        let units = count(info.unrunnable, "unit");
        let (id, message) = (&info.id, "could not be run by any machine that tried");
        return Err(Failure::new(
            Exit::Incomplete,
            format!("{units} of job {id} {message}; see why with `potluck job units {id}`"),
        ));
    }
    Ok(Exit::Done)
}

/// Remembers what was shown, so that nothing is said twice.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// When and where counting began.
    began: Option<(Duration, u32)>,
    /// Tenths done and reasons as last said on a line of their own.
    said: Option<(u64, Vec<String>, Duration)>,
}

impl Progress {
    /// Shows a job's state `now`, counted from any fixed moment.
    pub(crate) fn show(&mut self, printer: &Printer, info: &JobInfo, now: Duration) {
        let line = self.line(info, now);
        if printer.can_draw() {
            printer.draw(&line);
        } else if self.is_news(info, now) {
            printer.note(line);
        }
    }

    fn line(&mut self, info: &JobInfo, now: Duration) -> String {
        let (since, before) = *self.began.get_or_insert((now, info.accepted));
        let percent = 100 * u64::from(info.accepted) / u64::from(info.units.max(1));
        let mut line = format!("{}, {percent} %", accepted(info));
        let seconds = now.saturating_sub(since).as_secs_f64();
        let rate = f64::from(info.accepted.saturating_sub(before)) / seconds.max(0.001);
        if rate > 0.0 && seconds > 0.2 {
            line += &format!(", {rate:.1} units/s");
            let left = f64::from(info.units.saturating_sub(info.accepted)) / rate;
            if let Ok(left) = Duration::try_from_secs_f64(left)
                && info.accepted < info.units
            {
                line += &format!(", about {} left", show_duration(left));
            }
        }
        if !info.waiting_for.is_empty() {
            line += &format!("; {}", info.waiting_for.join("; "));
        }
        line
    }

    /// Whether a line of its own is due: a tenth more is done, or it waits for something else. The
    /// first state always is; changes of reasons wait a second, because they come and go in a busy
    /// grid.
    fn is_news(&mut self, info: &JobInfo, now: Duration) -> bool {
        let tenths = 10 * u64::from(info.accepted) / u64::from(info.units.max(1));
        let news = match &self.said {
            None => true,
            Some((said, reasons, when)) => {
                tenths != *said
                    || (*reasons != info.waiting_for && now.saturating_sub(*when) >= REASONS_EVERY)
            }
        };
        if news {
            self.said = Some((tenths, info.waiting_for.clone(), now));
        }
        news
    }
}

/// A guess: as often as a person can read.
const REASONS_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::job;

    const fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn at(accepted: u32, waiting_for: &[&str]) -> JobInfo {
        let waiting_for = waiting_for.iter().map(|reason| (*reason).to_owned()).collect();
        JobInfo { units: 100, accepted, fetched: accepted, waiting_for, ..job("1", 1) }
    }

    #[test]
    fn the_line_has_rate_and_time_left_and_reasons() {
        let mut progress = Progress::default();
        assert_eq!(progress.line(&at(10, &[]), seconds(5)), "accepted 10 of 100, 0 final, 10 %");
        assert_eq!(
            progress.line(&JobInfo { finals: 9, ..at(30, &[]) }, seconds(15)),
            "accepted 30 of 100, 9 final, 30 %, 2.0 units/s, about 35 s left"
        );
        let done = progress.line(&at(100, &["2 outcomes are still to be fetched"]), seconds(50));
        let text =
            "accepted 100 of 100, 0 final, 100 %, 2.0 units/s; 2 outcomes are still to be fetched";
        assert_eq!(done, text);
    }

    #[test]
    fn a_line_of_its_own_needs_a_tenth_or_another_reason() {
        let mut progress = Progress::default();
        let mut news = |accepted, reasons: &[&str], at_s| {
            progress.is_news(&at(accepted, reasons), seconds(at_s))
        };
        assert!(news(0, &[], 0));
        assert!(!news(9, &[], 1));
        assert!(news(10, &[], 1));
        assert!(!news(11, &["alone"], 1));
        assert!(news(11, &["alone"], 2));
        assert!(!news(12, &["alone"], 9));
    }

    #[test]
    fn the_verdict_of_a_wait_tells_unfinished_unrunnable_and_closed_apart() {
        let exit = |info: JobInfo| verdict(&info).map_err(|failure| failure.exit);
        assert_eq!(exit(at(100, &[])), Ok(Exit::Done));
        assert_eq!(exit(at(99, &[])), Err(Exit::Failed));
        assert_eq!(exit(JobInfo { unrunnable: 1, ..at(99, &[]) }), Err(Exit::Incomplete));
        assert_eq!(exit(JobInfo { closed: true, ..at(99, &[]) }), Err(Exit::Incomplete));
    }

    #[test]
    fn what_is_missing_is_said_with_its_reasons() {
        let info = JobInfo { fetched: 38, ..at(40, &["no other peer is connected"]) };
        let text = "60 of 100 units have no result yet, 2 results still to be fetched (no other peer is connected)";
        assert_eq!(missing(&info), text);
    }

    #[test]
    fn who_stops_waiting_is_told_whether_the_job_goes_on() {
        assert!(farewell(&at(5, &[])).contains("no other peer holds it"));
        assert!(farewell(&JobInfo { keepers: 2, ..at(5, &[]) }).contains("goes on"));
    }
}
