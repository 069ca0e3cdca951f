//! A node to talk to: the one that runs in the data folder, or one of our own for as long as a verb
//! needs it, which lends nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use potluck_node::api::{JobInfo, NodeInfo};
use potluck_node::{Node, Options, control_socket};
use potluck_unit::JobId;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;

/// How to reach the grid when no node runs in the data folder.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SessionArgs {
    /// A peer to join the grid by, as HOST:PORT; may be given several times. Peers met before are
    /// remembered
    #[arg(long, value_name = "ADDR")]
    pub(crate) join: Vec<String>,
    /// Where the node that lives as long as this command listens
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:0", hide = true)]
    pub(crate) listen: SocketAddr,
}

/// Which job: its id, the beginning of it, or `last`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct JobArgs {
    /// The job's id, 6 or more of its first digits, or `last` for the newest job of your own
    #[arg(value_name = "ID", value_parser = JobName::parse)]
    pub(crate) id: JobName,
    /// How long to wait for peers to tell of a job that is not known here [default: 10s when no node
    /// runs in the data folder, 0s when one does]
    #[arg(long, value_name = "TIME", value_parser = crate::quantity::parse_duration)]
    pub(crate) find_timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

/// A node to talk to.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    node: Option<Node>,
    joins: usize,
}

impl Session {
    /// Opens a session, does the work, and stops the node that was started for it, whatever comes
    /// of the work. Ctrl-C ends the work with [`Context::farewell`].
    pub(crate) async fn with<T>(
        context: &Context,
        args: &SessionArgs,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut session = Session::open(context, args).await?;
        let done = tokio::select! {
            done = work(&mut session) => done,
            _ = interrupted() => Err(Failure::new(Exit::Interrupted, context.farewell())),
        };
        session.close().await;
        done
    }

    async fn open(context: &Context, args: &SessionArgs) -> Result<Session, Failure> {
        let socket = control_socket(&context.data);
        if let Ok(client) = Client::connect(&socket).await {
            if !args.join.is_empty() {
                let data = context.data.display();
                context.printer.note(format!(
                    "a node runs in {data} already and is used as it is: --join changes nothing"
                ));
            }
            let mut client = client;
            if context.options().open == Some(false) && client.node().await?.open {
                let data = context.data.display();
                context.printer.note(format!(
                    "a node runs in {data} already, in an open grid: --private changes nothing"
                ));
            }
            return Ok(Session { client, node: None, joins: 0 });
        }
        let options = Options {
            listen: Some(args.listen),
            join: args.join.clone(),
            slots: Some(0),
            ..context.options()
        };
        tokio::select! {
            ready = crate::identity::prepare(context, &options) => ready?,
            _ = interrupted() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
        }
        let node = Node::start(options).await?;
        let client = connect_own(&socket).await?;
        Ok(Session { client, node: Some(node), joins: args.join.len() })
    }

    /// Whether the node lives only as long as this session.
    pub(crate) fn is_transient(&self) -> bool {
        self.node.is_some()
    }

    /// Gives a node that has just started, and was told whom to join, a moment to hear of the
    /// workers there: a job says for how many it was made.
    pub(crate) async fn meet_workers(&mut self) -> Result<(), Failure> {
        if !self.is_transient() || self.joins == 0 {
            return Ok(());
        }
        let until = Instant::now() + MEET_TIMEOUT;
        let mut tick = ticks();
        while Instant::now() < until {
            tick.tick().await;
            if self.client.node().await?.workers > 0 {
                break;
            }
        }
        Ok(())
    }

    async fn close(self) {
        if let Some(node) = self.node {
            // What is acknowledged is on disk; the rest may not keep a person waiting.
            let _ = timeout(STOP_TIMEOUT, node.stop()).await;
        }
    }

    /// Waits until the node knows the job that `args` mean.
    pub(crate) async fn find(&mut self, args: &JobArgs) -> Result<(JobId, JobInfo), Failure> {
        let own = if self.is_transient() { FIND_TIMEOUT } else { Duration::ZERO };
        let until = Instant::now() + args.find_timeout.unwrap_or(own);
        let mut tick = ticks();
        loop {
            tick.tick().await;
            if let Some(found) = self.look(&args.id).await? {
                return Ok(found);
            }
            let peers = self.client.peers().await?.len();
            if Instant::now() >= until || (peers == 0 && self.is_transient() && self.joins == 0) {
                let node = self.client.node().await?;
                return Err(unknown(&args.id, &node));
            }
        }
    }

    async fn look(&mut self, name: &JobName) -> Result<Option<(JobId, JobInfo)>, Failure> {
        let found = match name {
            JobName::Id(id) => self.client.job(id).await?,
            JobName::Prefix(_) | JobName::Last => {
                let own = self.client.node().await?.id;
                name.choose(self.client.jobs().await?, &own)?
            }
        };
        let Some(info) = found else { return Ok(None) };
        let id =
            info.id.parse().map_err(|error| Failure::failed(format!("from the node: {error}")))?;
        Ok(Some((id, info)))
    }
}

/// The node that runs in the data folder; an error if there is none.
pub(crate) async fn running(context: &Context) -> Result<Client, Failure> {
    Client::connect(&control_socket(&context.data)).await.map_err(|_| {
        let data = context.data.display();
        Failure::failed(format!(
            "no node runs in {data}; start one with `potluck worker`, or give --data"
        ))
    })
}

/// A steady look at what no event tells of. The first tick is at once.
pub(crate) fn ticks() -> tokio::time::Interval {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Connects to the node that runs in this process.
pub(crate) async fn connect_own(socket: &Path) -> Result<Client, Failure> {
    Client::connect(socket).await.map_err(|error| {
        let socket = socket.display();
        Failure::failed(format!("cannot talk to the node just started at {socket}: {error}"))
    })
}

fn unknown(name: &JobName, node: &NodeInfo) -> Failure {
    let peers = crate::print::count(node.neighbours as u64, "peer");
    let unreachable: String = node
        .unreachable
        .iter()
        .map(|(join, why)| format!("; {join} cannot be reached: {why}"))
        .collect();
    let next = match name {
        JobName::Last => "submit one with `potluck submit`, or name the job by its id",
        JobName::Id(_) | JobName::Prefix(_) => {
            "check the id, or give --join ADDR of a peer that may know it"
        }
    };
    let what = match name {
        JobName::Id(id) => format!("job {id}"),
        JobName::Prefix(prefix) => format!("a job {prefix}…"),
        JobName::Last => "a job of this node's own".to_owned(),
    };
    let message = format!("{what} is not known here nor to the {peers} asked{unreachable}; {next}");
    Failure::new(Exit::UnknownJob, message)
}

/// How a person names a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JobName {
    /// In full.
    Id(JobId),
    /// By its first digits, in lower case.
    Prefix(String),
    /// The newest of one's own.
    Last,
}

impl JobName {
    pub(crate) fn parse(text: &str) -> Result<JobName, String> {
        if text == "last" {
            return Ok(JobName::Last);
        }
        if let Ok(id) = text.parse() {
            return Ok(JobName::Id(id));
        }
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits && (PREFIX_DIGITS_MIN..2 * JobId::BYTES).contains(&text.len()) {
            return Ok(JobName::Prefix(text.to_ascii_lowercase()));
        }
        Err(format!(
            "`{text}` is not a job id: expected 64 hexadecimal digits, {PREFIX_DIGITS_MIN} or more of the \
             first ones, or `last`"
        ))
    }

    /// The job meant among those known; an error if several could be.
    fn choose(&self, jobs: Vec<JobInfo>, own: &str) -> Result<Option<JobInfo>, Failure> {
        let meant = |job: &JobInfo| match self {
            JobName::Id(id) => job.id == id.to_string(),
            JobName::Prefix(prefix) => job.id.starts_with(prefix.as_str()),
            JobName::Last => job.submitter == own,
        };
        let mut found: Vec<JobInfo> = jobs.into_iter().filter(meant).collect();
        if let (JobName::Prefix(prefix), [first, second, ..]) = (self, found.as_slice()) {
            let (first, second) = (&first.id, &second.id);
            let message = format!(
                "`{prefix}` is the beginning of several job ids, {first} and {second}; give more digits"
            );
            return Err(Failure::input(message));
        }
        // Ids break ties, so that the answer is the same every time.
        found.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        Ok(found.pop())
    }
}

/// Fewer digits would soon name two jobs.
const PREFIX_DIGITS_MIN: usize = 6;
/// Long enough for a connection and a comparison of what both know, over the worst of links.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);
/// A few round trips over the worst of links. Who takes longer is not counted, and nothing else.
const MEET_TIMEOUT: Duration = Duration::from_secs(1);
/// A node stops in well under a second; a stuck one must not hang the command line.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Short enough that nobody notices, long enough to cost nothing.
const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn job(id: &str, created_ms: u64) -> JobInfo {
        JobInfo {
            id: format!("{id:0<64}"),
            label: "primes".to_owned(),
            submitter: "ab".repeat(32),
            created_ms,
            expires_ms: created_ms + 1000,
            units: 64,
            copies: 2,
            quality: "standard".to_owned(),
            priority: 5,
            peers: 3,
            accepted: 0,
            finals: 0,
            partial: 0,
            disputed: 0,
            unrunnable: 0,
            fetched: 0,
            keepers: 0,
            workers: 0,
            finished: false,
            closed: false,
            waiting_for: vec![],
            liars: vec![],
            assurance: None,
        }
    }

    pub(crate) fn node() -> NodeInfo {
        NodeInfo {
            id: "ab".repeat(32),
            agent: "potluck/0".to_owned(),
            listen: ([127, 0, 0, 1], 7117).into(),
            open: false,
            slots: 2,
            slots_busy: 0,
            neighbours: 0,
            workers: 1,
            units_run: 0,
            lending: potluck_node::api::LendingInfo::default(),
            idle_reason: None,
            unreachable: vec![],
            bytes_on_disk: 0,
            bytes_received: 0,
            bytes_sent: 0,
        }
    }

    fn choose(name: &str, jobs: Vec<JobInfo>) -> Result<Option<String>, Failure> {
        let name = JobName::parse(name).unwrap();
        name.choose(jobs, &"ab".repeat(32)).map(|found| found.map(|job| job.id[..8].to_owned()))
    }

    #[test]
    fn a_prefix_means_the_only_job_that_starts_with_it() {
        let jobs = || vec![job("123456a", 1), job("123456b", 2), job("99", 3)];
        assert_eq!(choose("123456B", jobs()), Ok(Some("123456b0".to_owned())));
        assert_eq!(choose("777777", jobs()), Ok(None));
        let error = choose("123456", jobs()).unwrap_err();
        assert_eq!(error.exit, Exit::Input);
        assert!(error.message.contains("several"), "{error:?}");
    }

    #[test]
    fn last_is_the_newest_job_of_ones_own() {
        let foreign = JobInfo { submitter: "cd".repeat(32), ..job("33", 9) };
        assert_eq!(
            choose("last", vec![job("11", 5), job("22", 4), foreign]),
            Ok(Some("11000000".to_owned()))
        );
        assert_eq!(choose("last", vec![]), Ok(None));
    }

    #[test]
    fn too_short_or_too_odd_a_name_is_refused() {
        for text in ["", "12345", "latest", "12345g", &"1".repeat(65)] {
            assert!(JobName::parse(text).is_err(), "{text}");
        }
        assert_eq!(JobName::parse(&"1".repeat(64)), Ok(JobName::Id(JobId([0x11; 32]))));
    }
}
