//! Starting and stopping a node.

use std::fmt;
use std::fs::DirBuilder;
use std::io::ErrorKind::AddrInUse;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use potluck_peer::{Event, Peer, Rules};
use potluck_sandbox::{Program, Sandbox};
use potluck_unit::{Identity, JobId, Key, PeerId, Time};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{Config, Require, Watcher};
use crate::control::{self, Control};
use crate::hub::{Hub, Input, JoinState, Parts, clock, replay};
use crate::lender::{Lender, bare_reading, programs};
use crate::net::{BindError, BlobSource, Grid, Net, NetEvent};
use crate::options::Options;
use crate::sensors::{Places, Sensors};
use crate::slots::{Equipment, Slots};
use crate::store::{OpenError, Store};
use crate::traffic::Traffic;
use crate::{AGENT, SANDBOX_VERB};

/// Things waiting for the loop, from the network and from inside.
const QUEUE_MAX: usize = 1024;
/// Changes of jobs that a slow watcher may miss before it is told to look anew.
const NEWS_MAX: usize = 256;

/// A running node.
#[derive(Debug)]
pub struct Node {
    id: PeerId,
    listen: SocketAddr,
    inputs: mpsc::Sender<Input>,
    hub: JoinHandle<()>,
    control: Control,
    stop: watch::Receiver<bool>,
    warning: Option<String>,
}

/// Why a node did not start. Displays as one sentence for a person. Nothing is left running, and
/// nothing on disk has changed but for the data folder and key being made.
#[derive(Debug)]
pub struct StartError {
    kind: StartErrorKind,
    message: String,
}

/// Why a node did not start, for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartErrorKind {
    /// The port or the data folder is in use.
    InUse,
    /// The config file or an option is wrong.
    Config,
    /// Anything else.
    Other,
}

impl StartError {
    pub(crate) fn new(kind: StartErrorKind, message: impl fmt::Display) -> StartError {
        StartError { kind, message: message.to_string() }
    }

    /// Which kind of reason it was.
    pub fn kind(&self) -> StartErrorKind {
        self.kind
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

impl Node {
    /// Starts a node: opens its data folder, listens, replays what it kept, and joins others. Needs
    /// a multi-threaded tokio runtime.
    pub async fn start(options: Options) -> Result<Node, StartError> {
        let other = |error: String| StartError::new(StartErrorKind::Other, error);
        // A file over the system's limit on its size is then an error like a full disk, not the end.
        if let Err(error) = signal(SignalKind::from_raw(libc::SIGXFSZ)) {
            warn!("a limit on the size of files would end this node: {error}");
        }
        let resolved =
            options.resolve().map_err(|error| StartError::new(StartErrorKind::Config, error))?;
        let sandbox = Sandbox::new(program()?, options.data.join("artefacts"));
        let warning = tokio::task::block_in_place(|| look_at_lock(&sandbox, &resolved))?;
        let (store, key) = open(&options.data)?;
        let identity = own_identity(&options, &resolved, &key)?;
        let (net_sender, net_events) = mpsc::channel(QUEUE_MAX);
        let blobs: Arc<dyn BlobSource> = Arc::new(store.clone());
        let net = bind(&key, &resolved, net_sender, blobs)?;
        let (meter, kept) = (net.meter().clone(), store.clone());
        let traffic = tokio::task::block_in_place(|| Traffic::open(kept, meter, clock()));
        let traffic = traffic.map_err(other)?;
        let (inputs, input_events) = mpsc::channel(QUEUE_MAX);
        let (news, _) = broadcast::channel::<JobId>(NEWS_MAX);
        let (stop_sender, stop) = watch::channel(false);
        let joins = resolve_joins(&resolved.join).await?;
        let id = key.id();
        let mut config = peer_config(&resolved, &net, &joins)?;
        config.identity = identity;
        config.work_bits = if resolved.open { options.work_bits } else { 0 };
        let mut peer = Peer::new(key, config);
        let now = clock();
        tokio::task::block_in_place(|| replay(&mut peer, &store, now)).map_err(other)?;
        let equipment = Equipment {
            sandbox: match resolved.require {
                Require::Available => sandbox,
                Require::Full => sandbox.with_whole_lock(),
            },
            store: store.clone(),
            inputs: inputs.clone(),
            cheat: options.cheat,
        };
        let slots_max = resolved.rules.slots_max();
        let slots = Slots::start(slots_max.max(1), &equipment)
            .map_err(|error| other(format!("cannot start threads for the slots: {error}")))?;
        let lender = lender(&options, &resolved, &traffic, &inputs);
        let (lender, first) = first_events(lender, &resolved.rules, &traffic, now).await;
        let listen = net.local_address();
        let (inputs_too, news_too) = (inputs.clone(), news.clone());
        let parts = Parts {
            peer,
            store,
            net,
            traffic,
            slots,
            inputs: inputs_too,
            news: news_too,
            joins,
            stop: stop_sender.clone(),
            first,
        };
        let hub = tokio::spawn(Hub::new(parts, now).run(net_events, input_events));
        if let Some(lender) = lender {
            tokio::spawn(lender.run());
        }
        let socket = control_socket(&options.data);
        let manner = control::Manner { slots: slots_max, open: resolved.open };
        let control =
            control::serve(&socket, inputs.clone(), news, stop_sender, manner).map_err(other)?;
        info!("{} listens on {listen}", id.short());
        Ok(Node { id, listen, inputs, hub, control, stop, warning })
    }

    /// Its peer id.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Where it listens.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// What is missing of the lock on the children that will run units, as one sentence.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Resolves when somebody asks the node to stop through its control interface.
    pub async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // An error means that the control interface is gone; then nobody will ask any more.
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops: what runs is killed, what is finished is signed and said, neighbours are told.
    pub async fn stop(self) {
        // The loop may have ended already.
        let _ = self.inputs.send(Input::Stop).await;
        let _ = self.hub.await;
        self.control.close().await;
    }
}

fn open(data: &Path) -> Result<(Store, Key), StartError> {
    tokio::task::block_in_place(|| Store::open(data)).map_err(|error| {
        let in_use = matches!(error, OpenError::InUse(..));
        let kind = if in_use { StartErrorKind::InUse } else { StartErrorKind::Other };
        StartError::new(kind, error)
    })
}

fn bind(
    key: &Key,
    config: &Config,
    events: mpsc::Sender<NetEvent>,
    blobs: Arc<dyn BlobSource>,
) -> Result<Net, StartError> {
    let grid = if config.open { Grid::Open } else { Grid::Private };
    Net::bind(key, config.listen, events, blobs, grid).map_err(|error| {
        let in_use = matches!(&error, BindError::Listen(_, cause) if cause.kind() == AddrInUse);
        let kind = if in_use { StartErrorKind::InUse } else { StartErrorKind::Other };
        StartError::new(kind, error)
    })
}

/// What looks at the machine, for a node that lends anything of it.
fn lender(
    options: &Options,
    config: &Config,
    traffic: &Traffic,
    inputs: &mpsc::Sender<Input>,
) -> Option<Lender> {
    (config.rules.slots_max() > 0).then(|| Lender {
        sensors: Sensors::new(Places::of_system(&options.data), programs(&config.rules)),
        watcher: Watcher::new(options.clone(), config.clone()),
        traffic: traffic.clone(),
        inputs: inputs.clone(),
    })
}

/// What the peer is to know before anything else: the rules, and, if this node lends anything, what
/// the machine is like.
async fn first_events(
    lender: Option<Lender>,
    rules: &Rules,
    traffic: &Traffic,
    now: Time,
) -> (Option<Lender>, Vec<Event>) {
    let Some(mut lender) = lender else {
        return (None, vec![Event::Rules(Box::new(rules_of_who_lends_nothing(rules)))]);
    };
    let measured = lender.measure().await;
    traffic.turn(now, measured.day_ends, measured.month_ends);
    let reading = bare_reading(measured, traffic);
    (Some(lender), vec![Event::Reading(reading), Event::Rules(Box::new(rules.clone()))])
}

/// A node that lends nothing does what its user asks of it now: it keeps to the caps on rates that the
/// user has set, and to that on disk. Defaults are for donors.
fn rules_of_who_lends_nothing(rules: &Rules) -> Rules {
    let mut bare = Rules::unlimited();
    bare.base.upload_per_s = rules.base.upload_per_s.or(bare.base.upload_per_s);
    bare.base.download_per_s = rules.base.download_per_s.or(bare.base.download_per_s);
    bare.disk_bytes = rules.disk_bytes;
    bare
}

/// What this node's key cost: nothing among friends, and what was found before in an open grid.
fn own_identity(options: &Options, resolved: &Config, key: &Key) -> Result<Identity, StartError> {
    if !resolved.open {
        return Ok(Identity::NONE);
    }
    let found = crate::identity::proven(&options.data, &key.id(), options.work_bits);
    let found = found.map_err(|error| StartError::new(StartErrorKind::Other, error))?;
    found.ok_or_else(|| {
        let data = options.data.display();
        let message = format!(
            "the key in {data} has no proof of work yet, which an open grid asks for; make it with \
             `potluck worker`, or take part in a private grid with --private"
        );
        StartError::new(StartErrorKind::Other, message)
    })
}

/// This program as its own sandbox children.
pub(crate) fn program() -> Result<Program, StartError> {
    let path = std::env::current_exe().map_err(|error| {
        let message = format!("cannot find this program's own file to start sandboxes: {error}");
        StartError::new(StartErrorKind::Other, message)
    })?;
    Ok(Program { path, args: vec![SANDBOX_VERB.into()] })
}

/// What is missing of the lock, for a node that is going to run units of others.
fn look_at_lock(sandbox: &Sandbox, resolved: &Config) -> Result<Option<String>, StartError> {
    if resolved.rules.slots_max() == 0 {
        return Ok(None);
    }
    let missing = match sandbox.layers() {
        Ok(layers) => potluck_sandbox::shortfall(&layers),
        Err(error) => Some(error.to_string()),
    };
    let Some(missing) = missing else { return Ok(None) };
    if resolved.require == Require::Full {
        let message = format!(
            "units are not run, because sandbox.require is \"full\" and {missing}; set it to \
             \"available\" in potluck.toml to make do with the rest of the lock, or lend no slots"
        );
        return Err(StartError::new(StartErrorKind::Other, message));
    }
    warn!("the sandbox is not whole: {missing}");
    Ok(Some(format!("the sandbox is not whole on this machine: {missing}")))
}

async fn resolve_joins(written: &[String]) -> Result<Vec<JoinState>, StartError> {
    let mut joins = Vec::new();
    for written in written {
        if written.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            let message = format!("`{written}` is no address to join: expected HOST:PORT");
            return Err(StartError::new(StartErrorKind::Config, message));
        }
        let (address, error) = match tokio::net::lookup_host(written.as_str()).await {
            Ok(mut found) => (found.next(), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let error = error.or_else(|| address.is_none().then(|| "no such host".to_owned()));
        joins.push(JoinState { written: written.clone(), address, error });
    }
    Ok(joins)
}

fn peer_config(
    resolved: &Config,
    net: &Net,
    joins: &[JoinState],
) -> Result<potluck_peer::Config, StartError> {
    let seed = getrandom::u64().map_err(|error| {
        let message = format!("the system gives no randomness: {error}");
        StartError::new(StartErrorKind::Other, message)
    })?;
    Ok(potluck_peer::Config {
        slots: resolved.rules.slots_max(),
        addresses: own_addresses(net.local_address()),
        joins: joins.iter().filter_map(|join| join.address).collect(),
        agent: AGENT.to_owned(),
        nickname: resolved.settings.text("donor.nickname").to_owned(),
        team: resolved.settings.text("donor.team").to_owned(),
        seed,
        open: resolved.open,
        ..potluck_peer::Config::default()
    })
}

/// Where others may reach a node that listens on `listen`: that address, or if it is every address,
/// those of the machine's interfaces, loopback only when there is no other.
fn own_addresses(listen: SocketAddr) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let networks = match sysinfo::Networks::new_with_refreshed_list() {
        Ok(networks) => networks,
        Err(error) => {
            warn!("cannot tell this machine's addresses, so others can't dial it: {error}");
            return Vec::new();
        }
    };
    let mut found: Vec<IpAddr> = (networks.values())
        .flat_map(|network| network.ip_networks().iter().map(|network| network.addr))
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => listen.is_ipv6() && !address.is_unicast_link_local(),
        })
        .collect();
    if found.iter().any(|address| !address.is_loopback()) {
        found.retain(|address| !address.is_loopback());
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|address| SocketAddr::new(address, listen.port())).collect()
}

/// Where a node with this data folder answers the local user.
pub fn control_socket(data: &Path) -> PathBuf {
    data.join("control.sock")
}

/// The key of a data folder, both made if there is none yet. The error is a sentence for a person.
pub fn read_or_create_key(data: &Path) -> anyhow::Result<Key> {
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(|error| {
        let data = data.display();
        anyhow::anyhow!("cannot make the data folder {data}: {error}; give another with --data")
    })?;
    crate::store::read_or_create_key(&data.join("key")).map_err(|error| anyhow::anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lends_nothing_is_held_to_what_was_set_and_to_no_default() {
        let mut rules = Rules::default();
        rules.base.upload_per_s = Some(9000);
        let bare = rules_of_who_lends_nothing(&rules);
        let unlimited = Rules::unlimited().base;
        assert_eq!(bare.base.upload_per_s, Some(9000));
        assert_eq!(bare.base.download_per_s, unlimited.download_per_s);
        assert!(unlimited.download_per_s.is_some(), "or the default would hold");
    }

    #[test]
    fn a_node_on_one_address_says_only_that() {
        let listen = "127.0.0.1:5".parse().unwrap();
        assert_eq!(own_addresses(listen), [listen]);
    }

    #[test]
    fn a_node_on_every_address_says_none_that_leads_nowhere() {
        for address in own_addresses("0.0.0.0:5".parse().unwrap()) {
            assert!(!address.ip().is_unspecified() && address.port() == 5, "{address}");
        }
    }
}
