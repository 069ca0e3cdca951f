//! `potluck run`: submits a job, waits for it, and gets its results.

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::progress::follow;
use crate::results::{Sink, SinkArgs};
use crate::session::{Session, SessionArgs};
use crate::verbs::submit::JobArgs;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    sink: SinkArgs,
    #[command(flatten)]
    session: SessionArgs,
}

/// Submits, follows, writes; without --out to standard output.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let sink = args.sink.sink(Sink::Stdout);
    sink.prepare(None)?;
    let draft = args.job.draft()?;
    Session::with(context, &args.session, async |session| {
        session.meet_workers().await?;
        let (id, _) = draft.submit(context, &context.data, &mut session.client).await?;
        context.printer.note(format!("job {id}"));
        let info = follow(context, session, &id, None).await?;
        let summary = sink.write(&mut session.client, &context.printer, &id, &info).await?;
        let done = summary.verdict()?;
        context.printer.note(summary.text());
        Ok(done)
    })
    .await
}
