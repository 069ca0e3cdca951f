//! `potluck submit`: makes a job, signs it, hands it to the node, and stays until other peers hold
//! it.

use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use potluck_node::api::{JobInfo, NodeInfo};
use potluck_unit::{
    BlobId, Identity, InputTable, Job, JobId, Key, Limits, Quality, Record, Row, Signed, Time,
};
use tokio::time::{Instant, sleep_until};

use crate::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::limits::LimitArgs;
use crate::module::Module;
use crate::print::count;
use crate::quantity::{ms_of, parse_duration};
use crate::rows::RowArgs;
use crate::session::{Session, SessionArgs, ticks};

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// How long to stay until other peers hold the job, when no worker runs in the data folder
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    hold_timeout: Duration,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

/// What makes a job.
#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    /// The program: a WASI preview-1 command, as .wasm or .wat
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    #[command(flatten)]
    rows: RowArgs,
    /// How sure the results must be: bulk is one copy of each unit and audits, standard two,
    /// critical four
    #[arg(long, value_name = "QUALITY", default_value = "standard")]
    #[arg(value_parser = PossibleValuesParser::new(QUALITIES.map(|(name, _)| name)).map(|name| quality_of(&name)))]
    quality: Quality,
    /// How many distinct peers must agree on each unit, whatever the quality says
    #[arg(short = 'k', long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=i64::from(Job::COPIES_MAX)))]
    copies: Option<u8>,
    /// Which of your own jobs goes first where not all can: 0 to 9, the highest first
    #[arg(long, value_name = "N", default_value_t = Job::PRIORITY_USUAL)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=i64::from(Job::PRIORITY_MAX)))]
    priority: u8,
    #[command(flatten)]
    limits: LimitArgs,
    /// When peers may forget the job
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_duration)]
    expires: Duration,
    /// What to call the job [default: the module's file name]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

/// Submits and prints the job id alone.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let draft = args.job.draft()?;
    Session::with(context, &args.session, async |session| {
        session.meet_workers().await?;
        let (id, info) = draft.submit(context, &context.data, &mut session.client).await?;
        context.printer.answer(&info, || id.to_string())?;
        // A node that lends nothing may be another command's and gone any moment, like our own.
        if session.is_transient() || session.client.node().await?.slots == 0 {
            hold(context, session, &id, args.hold_timeout).await
        } else {
            Ok(Exit::Done)
        }
    })
    .await
}

impl JobArgs {
    /// Reads the files and checks everything that can be checked alone.
    pub(crate) fn draft(&self) -> Result<Draft, Failure> {
        let limits = self.limits.limits()?;
        let (life_ms, max_ms) = (ms_of(self.expires), Job::LIFE_MAX_MS);
        if !(1..=max_ms).contains(&life_ms) {
            return Err(Failure::input("--expires is outside 1ms to 30d; choose a time within"));
        }
        let label = match &self.label {
            Some(label) => checked_label(label)?,
            None => label_of(&self.module),
        };
        let module = Module::read(&self.module)?;
        let rows = self.rows.rows()?;
        Ok(Draft {
            module,
            rows,
            limits,
            quality: self.quality,
            copies: self.copies.unwrap_or_else(|| self.quality.copies()),
            priority: self.priority,
            life_ms,
            label,
        })
    }
}

/// A job before it is signed.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) module: Module,
    pub(crate) rows: Vec<Row>,
    pub(crate) limits: Limits,
    pub(crate) quality: Quality,
    pub(crate) copies: u8,
    pub(crate) priority: u8,
    pub(crate) life_ms: u64,
    pub(crate) label: String,
}

impl Draft {
    /// Hands module, inputs and job, signed with the key in `data`, to the node. When this returns,
    /// all of it is on disk.
    pub(crate) async fn submit(
        self,
        context: &Context,
        data: &Path,
        client: &mut Client,
    ) -> Result<(JobId, JobInfo), Failure> {
        let key = potluck_node::read_or_create_key(data)?;
        let units = self.rows.len() as u64;
        let table = InputTable::of_rows(&self.rows).map_err(Failure::input)?;
        let node = client.node().await?;
        let identity = if node.open { own_identity(data)? } else { Identity::NONE };
        let signed = self.sign(&key, &table, node.workers, identity)?;
        context.printer.note(format!("submitting {}", count(units, "unit")));
        for blob in table.pages.into_iter().chain([table.index, self.module.bytes]) {
            post_blob(client, blob).await?;
        }
        let info = client.post_job(signed.bytes()).await?;
        let id = signed.job_id().ok_or_else(|| Failure::failed("the signed job has no id"))?;
        context.set_farewell(crate::progress::farewell(&info));
        Ok((id, info))
    }

    /// Signs the job for a grid of so many workers.
    fn sign(
        &self,
        key: &Key,
        table: &InputTable,
        workers: usize,
        identity: Identity,
    ) -> Result<Signed, Failure> {
        let number =
            |count: usize| u32::try_from(count).map_err(|_| Failure::input("the job is too large"));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| {
            Failure::failed(
                "this machine's clock is before 1970, and jobs are dated; set the clock",
            )
        })?;
        let created = Time(ms_of(since));
        let job = Job {
            created,
            expires: created.plus_ms(self.life_ms),
            nonce: nonce(),
            module: BlobId::of(&self.module.bytes),
            module_bytes: self.module.size_bytes,
            inputs: BlobId::of(&table.index),
            inputs_bytes: number(table.index.len())?,
            units: number(self.rows.len())?,
            limits: self.limits,
            copies: self.copies,
            quality: self.quality,
            peers: u32::try_from(workers).unwrap_or(u32::MAX).clamp(1, Job::PEERS_MAX),
            priority: self.priority,
            label: self.label.clone(),
            identity,
            extras: vec![],
        };
        job.check().map_err(|error| Failure::input(format!("the job can't be made: {error}")))?;
        Ok(Signed::sign(key, Record::Job(job)))
    }
}

fn quality_of(name: &str) -> Quality {
    let found = QUALITIES.into_iter().find(|(other, _)| *other == name);
    found.map_or(Quality::Standard, |(_, quality)| quality)
}

/// What the node's key cost, as its data folder has it.
fn own_identity(data: &Path) -> Result<Identity, Failure> {
    let found = potluck_node::read_identity(data).map_err(Failure::failed)?;
    found.ok_or_else(|| {
        let data = data.display();
        Failure::failed(format!(
            "the proof of work of this node's key is gone from {data}, and an open grid takes no job \
             without it; stop the node, and the next start makes another"
        ))
    })
}

async fn post_blob(client: &mut Client, bytes: Vec<u8>) -> Result<(), Failure> {
    let id = BlobId::of(&bytes).to_string();
    let kept = client.post_blob(bytes).await?;
    if kept == id {
        return Ok(());
    }
    Err(Failure::failed(format!("the node kept {kept} when it was given {id}; submit once more")))
}

/// Tells two jobs of the same work apart; need not be unguessable. The standard library seeds its
/// hashers from the system's randomness.
fn nonce() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

fn checked_label(label: &str) -> Result<String, Failure> {
    if label.len() > Job::LABEL_BYTES_MAX || label.chars().any(char::is_control) {
        let max = Job::LABEL_BYTES_MAX;
        let message =
            format!("--label is longer than {max} bytes or has control characters; choose another");
        return Err(Failure::input(message));
    }
    Ok(label.to_owned())
}

/// The module's file name without its ending, as far as it makes a label.
fn label_of(module: &Path) -> String {
    let stem = module.file_stem().unwrap_or_default().to_string_lossy();
    let mut label: String = stem.chars().filter(|character| !character.is_control()).collect();
    label.truncate(label.floor_char_boundary(Job::LABEL_BYTES_MAX));
    label
}

/// Stays until enough other peers hold the job: two, or as many as are connected, if that is fewer.
async fn hold(
    context: &Context,
    session: &mut Session,
    id: &JobId,
    hold_timeout: Duration,
) -> Result<Exit, Failure> {
    let until = Instant::now() + hold_timeout;
    let mut watch = session.client.watch(id).await?;
    let mut tick = ticks();
    let (mut info, mut node) = (None, session.client.node().await?);
    let mut said = String::new();
    loop {
        tokio::select! {
            next = watch.next() => match next? {
                Some(next) => info = Some(next),
                None => break,
            },
            _ = tick.tick() => node = session.client.node().await?,
            () = sleep_until(until) => break,
        }
        let Some(info) = &info else { continue };
        context.set_farewell(crate::progress::farewell(info));
        if info.finished || info.keepers >= node.neighbours.clamp(1, KEEPERS_ENOUGH) {
            break;
        }
        let text = holding(info, &node);
        if text != said {
            context.printer.note(&text);
            said = text;
        }
    }
    context.printer.wipe();
    let info =
        info.ok_or_else(|| Failure::failed("the node stopped before anybody held the job"))?;
    if info.keepers > 0 || info.finished {
        let peers = count(info.keepers as u64, "other peer");
        info.waiting_for.iter().for_each(|reason| context.printer.note(reason));
        context.printer.note(format!("held by {peers}; wait for it with `potluck job wait {id}`"));
        return Ok(Exit::Done);
    }
    let (data, why) = (context.data.display(), reasons(&node));
    let message = format!(
        "no other peer holds job {id}{why}; it is saved in {data} and spreads when a node runs there: \
         `potluck job wait {id} --join ADDR`"
    );
    Err(Failure::new(Exit::Alone, message))
}

fn holding(info: &JobInfo, node: &NodeInfo) -> String {
    let mut text = "waiting for a peer to hold the job".to_owned();
    if info.keepers > 0 {
        text =
            format!("held by {}, waiting for one more", count(info.keepers as u64, "other peer"));
    }
    text + &reasons(node)
}

/// Why nobody can hold a job, as far as it is known.
fn reasons(node: &NodeInfo) -> String {
    let mut reasons: Vec<String> = (node.unreachable.iter())
        .map(|(join, why)| format!("{join} cannot be reached: {why}"))
        .collect();
    if node.neighbours == 0 && reasons.is_empty() {
        reasons.push("no other peer is connected".to_owned());
    }
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
}

/// From the least sure to the surest.
const QUALITIES: [(&str, Quality); 3] =
    [("bulk", Quality::Bulk), ("standard", Quality::Standard), ("critical", Quality::Critical)];
/// With two holders the job survives the loss of one besides us.
const KEEPERS_ENOUGH: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(rows: Vec<Row>) -> Draft {
        Draft {
            module: Module { bytes: vec![1, 2, 3], size_bytes: 3 },
            rows,
            limits: Limits::DEFAULT,
            quality: Quality::Standard,
            copies: 2,
            priority: 5,
            life_ms: 1000,
            label: "test".to_owned(),
        }
    }

    #[test]
    fn the_signed_job_names_module_and_inputs() {
        let key = Key::of_secret(&[7; 32]);
        let draft = draft(vec![Row::default(), Row::default()]);
        let table = InputTable::of_rows(&draft.rows).unwrap();
        let signed = draft.sign(&key, &table, 3, Identity::NONE).unwrap();
        let Record::Job(job) = signed.record() else { panic!("not a job") };
        assert_eq!((job.units, job.module_bytes, job.copies), (2, 3, 2));
        assert_eq!((job.module, job.inputs), (BlobId::of(&[1, 2, 3]), BlobId::of(&table.index)));
        assert_eq!((job.quality, job.priority, job.peers), (Quality::Standard, 5, 3));
        assert_eq!(signed.signer(), key.id());
        let again = draft.sign(&key, &table, 3, Identity::NONE).unwrap();
        assert_ne!(signed.job_id(), again.job_id());
    }

    #[test]
    fn a_job_out_of_bounds_is_bad_input() {
        let key = Key::of_secret(&[7; 32]);
        let table = InputTable::of_rows(&[Row::default()]).unwrap();
        let draft = Draft { copies: 0, ..draft(vec![Row::default()]) };
        assert_eq!(draft.sign(&key, &table, 3, Identity::NONE).unwrap_err().exit, Exit::Input);
    }

    #[test]
    fn a_job_for_an_empty_or_endless_grid_says_a_number_that_it_may() {
        let key = Key::of_secret(&[7; 32]);
        let draft = draft(vec![Row::default()]);
        let table = InputTable::of_rows(&draft.rows).unwrap();
        for (workers, peers) in [(0, 1), (1, 1), (usize::MAX, Job::PEERS_MAX)] {
            let signed = draft.sign(&key, &table, workers, Identity::NONE).unwrap();
            let Record::Job(job) = signed.record() else { panic!("not a job") };
            assert_eq!(job.peers, peers);
        }
    }

    #[test]
    fn every_quality_is_what_its_name_says() {
        let found = QUALITIES.map(|(name, _)| quality_of(name).copies());
        assert_eq!(
            (found, QUALITIES.map(|(name, _)| name)),
            ([1, 2, 4], ["bulk", "standard", "critical"])
        );
    }

    #[test]
    fn labels_are_cut_when_made_and_refused_when_given() {
        assert_eq!(label_of(Path::new("dir/primes.wasm")), "primes");
        let long = "ä".repeat(40);
        assert_eq!(label_of(Path::new(&long)), "ä".repeat(32));
        assert_eq!(checked_label("fine"), Ok("fine".to_owned()));
        assert!(checked_label(&"x".repeat(65)).is_err());
        assert!(checked_label("a\nb").is_err());
    }

    #[test]
    fn who_waits_is_told_whom_it_cannot_reach() {
        let unreachable = vec![("a:1".to_owned(), "timed out".to_owned())];
        let node = NodeInfo { unreachable, ..crate::session::tests::node() };
        let info = crate::session::tests::job("1", 1);
        let text = "waiting for a peer to hold the job (a:1 cannot be reached: timed out)";
        assert_eq!(holding(&info, &node), text);
        let alone = NodeInfo { unreachable: vec![], ..node };
        assert!(holding(&info, &alone).contains("no other peer is connected"));
    }
}
