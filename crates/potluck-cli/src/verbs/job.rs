//! `potluck job`: looks after jobs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use potluck_node::api::{JobInfo, UnitInfo};
use potluck_unit::{Close, Record, Signed};
use tokio::time::Instant;

use crate::Context;
use crate::assurance;
use crate::exit::{Exit, Failure};
use crate::print::{count, table};
use crate::progress::{accepted, follow, missing, verdict};
use crate::quantity::{parse_duration, show_duration};
use crate::results::{Sink, SinkArgs};
use crate::session::{JobArgs, Session, SessionArgs, ticks};

/// What can be said.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// List the jobs known here
    List(SessionArgs),
    /// Show one job
    Info(JobArgs),
    /// Wait until a job is finished and its results are here
    Wait {
        #[command(flatten)]
        job: JobArgs,
        /// Give up after this time
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Get a job's results: a table, files, or one stream
    Results {
        #[command(flatten)]
        job: JobArgs,
        #[command(flatten)]
        sink: SinkArgs,
    },
    /// Show what each worker said of each unit
    Units {
        #[command(flatten)]
        job: JobArgs,
        /// Only units in this state: open, partial, disputed, accepted or unrunnable
        #[arg(long, value_name = "STATE")]
        #[arg(value_parser = ["open", "partial", "disputed", "accepted", "unrunnable"])]
        state: Option<String>,
    },
    /// End a job of your own: peers stop working on it
    Cancel(JobArgs),
}

/// Does it.
pub(crate) async fn run(verb: &Verb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        Verb::List(session) => {
            Session::with(context, session, async |session| list(context, session).await).await
        }
        Verb::Info(job) => {
            let show = async |session: &mut Session| {
                let (_, info) = session.find(job).await?;
                context.printer.answer(&info, || text(&info))?;
                Ok(Exit::Done)
            };
            Session::with(context, &job.session, show).await
        }
        Verb::Wait { job, timeout } => {
            let wait = async |session: &mut Session| wait(context, session, job, *timeout).await;
            Session::with(context, &job.session, wait).await
        }
        Verb::Results { job, sink } => {
            let sink = sink.sink(Sink::Table);
            let get = async |session: &mut Session| results(context, session, job, &sink).await;
            Session::with(context, &job.session, get).await
        }
        Verb::Units { job, state } => {
            let show = async |session: &mut Session| units(context, session, job, state).await;
            Session::with(context, &job.session, show).await
        }
        Verb::Cancel(job) => {
            let cancel = async |session: &mut Session| cancel(context, session, job).await;
            Session::with(context, &job.session, cancel).await
        }
    }
}

async fn list(context: &Context, session: &mut Session) -> Result<Exit, Failure> {
    let mut jobs = session.client.jobs().await?;
    jobs.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
    if context.printer.is_json() {
        jobs.iter().try_for_each(|job| context.printer.answer(job, String::new))?;
        return Ok(Exit::Done);
    }
    if jobs.is_empty() {
        context.printer.note("no job is known here; submit one with `potluck submit MODULE`");
        return Ok(Exit::Done);
    }
    let heading = ["job", "state", "done", "age", "label"].map(str::to_owned).to_vec();
    let rows = jobs.iter().map(|job| {
        let done = format!("{}/{}", job.accepted, job.units);
        let short = job.id.chars().take(12).collect();
        vec![short, state(job).to_owned(), done, show_duration(age(job)), job.label.clone()]
    });
    context
        .printer
        .bytes(table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()).as_bytes())?;
    Ok(Exit::Done)
}

async fn wait(
    context: &Context,
    session: &mut Session,
    args: &JobArgs,
    timeout: Option<Duration>,
) -> Result<Exit, Failure> {
    let start = Instant::now();
    let (id, _) = session.find(args).await?;
    let info = follow(context, session, &id, timeout.map(|timeout| start + timeout)).await?;
    if !info.finished {
        let waited = show_duration(start.elapsed());
        return Err(Failure::failed(format!("gave up after {waited}: {}", missing(&info))));
    }
    let done = verdict(&info)?;
    context.printer.answer(&info, || {
        let mut text = format!("{} after {}", accepted(&info), show_duration(start.elapsed()));
        for liar in &info.liars {
            text += &format!("\npeer {liar} lied about this job; its results do not count");
        }
        text + &format!("\nget the results with `potluck job results {id} --out DIR`")
    })?;
    Ok(done)
}

async fn results(
    context: &Context,
    session: &mut Session,
    args: &JobArgs,
    sink: &Sink,
) -> Result<Exit, Failure> {
    let (id, mut info) = session.find(args).await?;
    sink.prepare(Some(&id))?;
    // A node that has just started may need a moment to hear what others have found meanwhile; one
    // that runs all the time knows what there is, and only fetches what is accepted.
    let decided = info.accepted + info.unrunnable >= info.units;
    if !info.finished && (session.is_transient() || decided) {
        let until = Instant::now() + args.find_timeout.unwrap_or(FETCH_TIMEOUT);
        info = follow(context, session, &id, Some(until)).await?;
    }
    let summary = sink.write(&mut session.client, &context.printer, &id, &info).await?;
    let done = summary.verdict()?;
    context.printer.note(summary.text());
    Ok(done)
}

async fn units(
    context: &Context,
    session: &mut Session,
    args: &JobArgs,
    state: &Option<String>,
) -> Result<Exit, Failure> {
    let (id, info) = session.find(args).await?;
    let mut next = 0;
    while next < info.units {
        let units = session.client.units(&id, next, UNITS_AT_ONCE).await?;
        let Some(last) = units.last().filter(|last| last.index >= next) else {
            return Err(Failure::failed(format!(
                "the node gives nothing for unit {next}; ask again"
            )));
        };
        next = last.index + 1;
        for unit in
            units.iter().filter(|unit| state.as_ref().is_none_or(|state| unit.state == *state))
        {
            context.printer.answer(unit, || unit_text(unit))?;
        }
    }
    Ok(Exit::Done)
}

/// Signs the end of a job. On a node of our own, first waits for somebody to tell it to: the node
/// tells its neighbours before it stops.
async fn cancel(context: &Context, session: &mut Session, args: &JobArgs) -> Result<Exit, Failure> {
    let (id, info) = session.find(args).await?;
    let key = potluck_node::read_or_create_key(&context.data)?;
    if key.id().to_string() != info.submitter {
        let (submitter, data) = (&info.submitter, context.data.display());
        let message = format!(
            "job {id} is peer {submitter}'s, and only its submitter can cancel it; the key in {data} is another"
        );
        return Err(Failure::input(message));
    }
    let told = !session.is_transient() || neighbour_within(session, FETCH_TIMEOUT).await?;
    let record = Signed::sign(&key, Record::Close(Close { job: id, results: None }));
    let info = session.client.close(&id, record.bytes()).await?;
    context.printer.answer(&info, || format!("job {id} is cancelled"))?;
    if told {
        return Ok(Exit::Done);
    }
    let data = context.data.display();
    let message = format!(
        "no other peer could be told that job {id} is cancelled; that is saved in {data} and spreads when a \
         node runs there: `potluck job info {id} --join ADDR`"
    );
    Err(Failure::new(Exit::Alone, message))
}

async fn neighbour_within(session: &mut Session, limit: Duration) -> Result<bool, Failure> {
    let until = Instant::now() + limit;
    let mut tick = ticks();
    while Instant::now() < until {
        tick.tick().await;
        if session.client.node().await?.neighbours > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn text(job: &JobInfo) -> String {
    let mut lines = vec![
        format!("job        {}", job.id),
        format!("label      {}", job.label),
        format!("submitter  {}", job.submitter),
        format!("state      {}", state(job)),
        format!("units      {}, {} fetched", accepted(job), job.fetched),
        format!(
            "open       {} partly confirmed, {} disputed, {} unrunnable",
            job.partial, job.disputed, job.unrunnable
        ),
        format!("quality    {}, {}", job.quality, copies(job.copies)),
        format!("priority   {}", job.priority),
        format!("workers    {} known that may run it; made for {}", job.workers, job.peers),
        format!("held by    {}", count(job.keepers as u64, "other peer")),
        format!("age        {}", show_duration(age(job))),
    ];
    if let Some(found) = &job.assurance {
        lines.push(format!("assurance  {}", assurance::text(job, found)));
    }
    lines.extend(job.waiting_for.iter().map(|reason| format!("waits      {reason}")));
    lines.extend(job.liars.iter().map(|liar| format!("liar       {liar}")));
    lines.join("\n")
}

fn copies(copies: u8) -> String {
    if copies == 1 { "1 copy".to_owned() } else { format!("{copies} copies") }
}

fn state(job: &JobInfo) -> &'static str {
    let decided = job.accepted + job.unrunnable >= job.units;
    match (decided, job.closed) {
        (true, _) => "finished",
        (false, true) => "closed",
        (false, false) => "open",
    }
}

fn age(job: &JobInfo) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(job.created_ms))
}

fn unit_text(unit: &UnitInfo) -> String {
    let result = unit.result.as_deref().unwrap_or("-");
    let mut text = format!("{}  {}  {result}", unit.index, unit.state);
    for said in &unit.receipts {
        let peer: String = said.peer.chars().take(16).collect();
        let none = || said.no_result.as_deref().unwrap_or("nothing");
        let what = said.result.as_deref().unwrap_or_else(none);
        let counts = if said.counts { "" } else { ", which does not count: it lied" };
        text += &format!("\n    {peer} says {what}{counts}");
    }
    text
}

/// As long as a connection and a comparison of what both know may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// As many as the node gives at most.
const UNITS_AT_ONCE: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::job;
    use potluck_node::api::StatementInfo;

    #[test]
    fn a_job_with_every_unit_decided_is_finished_even_when_closed() {
        let closed = JobInfo { closed: true, ..job("1", 1) };
        assert_eq!((state(&job("1", 1)), state(&closed)), ("open", "closed"));
        assert_eq!(state(&JobInfo { accepted: 60, unrunnable: 4, ..closed }), "finished");
    }

    #[test]
    fn what_does_not_count_is_marked() {
        let statement = StatementInfo {
            peer: "ab".repeat(32),
            result: Some("cd".to_owned()),
            no_result: None,
            counts: false,
        };
        let receipts = vec![statement];
        let unit = UnitInfo {
            index: 4,
            state: "accepted".to_owned(),
            result: Some("ef".to_owned()),
            receipts,
        };
        let text = unit_text(&unit);
        assert_eq!(
            text,
            "4  accepted  ef\n    abababababababab says cd, which does not count: it lied"
        );
    }
}
