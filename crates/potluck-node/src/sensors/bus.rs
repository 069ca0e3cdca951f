//! What the services of the system say over its message bus (D-Bus): whether anybody sits at a
//! session, and whether the connection is metered.
//!
//! Services are only asked if they run: asking would start them. A machine without a bus is asked
//! again from time to time.

use std::collections::HashMap;
use std::time::Duration;

use potluck_unit::Time;
use serde::de::DeserializeOwned;
use zbus::connection::Builder;
use zbus::zvariant::DynamicType;
use zbus::{Connection, Message, OwnedObjectPath, OwnedVariant};

/// The connection to the bus.
#[derive(Debug)]
pub(super) struct Bus {
    /// Where the bus is, if not where the system has it.
    address: Option<String>,
    connection: Option<Connection>,
    retry_at: Time,
    why: String,
}

/// The sessions of people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sessions {
    /// How many there are, at most [`SESSIONS_MAX`].
    pub(super) count: usize,
    /// When somebody last did something in one of them; none if there is no session.
    pub(super) touched: Option<Time>,
}

impl Bus {
    pub(super) fn new(address: Option<String>) -> Bus {
        Bus { address, connection: None, retry_at: Time(0), why: String::new() }
    }

    /// Asks logind for everybody's sessions. A desktop says that it is idle some minutes after the
    /// last input, from when on the time counts; of terminals logind knows when they were last typed
    /// into. The error is for a person.
    pub(super) async fn sessions(&mut self, now: Time) -> Result<Sessions, String> {
        let connection = self.connection(now).await?;
        let sessions = ask_sessions(&connection, now).await;
        self.note(now, sessions)
    }

    /// Asks NetworkManager whether the connection is metered; none if it does not know.
    pub(super) async fn metered(&mut self, now: Time) -> Result<Option<bool>, String> {
        let connection = self.connection(now).await?;
        let metered = ask_metered(&connection).await;
        self.note(now, metered)
    }

    async fn connection(&mut self, now: Time) -> Result<Connection, String> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        if now < self.retry_at {
            return Err(self.why.clone());
        }
        let builder = match &self.address {
            Some(address) => Builder::address(address.as_str()),
            None => Builder::system(),
        };
        let built = tokio::time::timeout(TIMEOUT, builder.method_timeout(TIMEOUT).build()).await;
        let built = match built {
            Ok(built) => built.map_err(|error| format!("no system bus: {error}")),
            Err(_) => Err("the system bus does not answer".to_owned()),
        };
        let connection = self.note(now, built.map_err(Fault::Lost))?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// Gives the connection up if it is of no more use.
    fn note<T>(&mut self, now: Time, answer: Result<T, Fault>) -> Result<T, String> {
        answer.map_err(|fault| match fault {
            Fault::Absent(why) => why,
            Fault::Lost(why) => {
                self.connection = None;
                self.retry_at = now.plus_ms(RETRY_MS);
                self.why.clone_from(&why);
                why
            }
        })
    }
}

/// Why there was no answer.
enum Fault {
    /// The service does not run here.
    Absent(String),
    /// The bus or the service failed.
    Lost(String),
}

impl From<zbus::Error> for Fault {
    fn from(error: zbus::Error) -> Fault {
        Fault::Lost(error.to_string())
    }
}

async fn ask_sessions(connection: &Connection, now: Time) -> Result<Sessions, Fault> {
    if !runs(connection, LOGIND).await? {
        return Err(Fault::Absent("logind does not run".to_owned()));
    }
    let manager = "org.freedesktop.login1.Manager";
    let all = call(connection, LOGIND, LOGIND_PATH, manager, "ListSessions", &()).await?;
    let all: Vec<(String, u32, String, String, OwnedObjectPath)> = body(&all)?;
    let mut sessions = Sessions { count: 0, touched: None };
    for (.., path) in all.iter().take(SESSIONS_MAX) {
        let interface = &("org.freedesktop.login1.Session",);
        let facts = call(connection, LOGIND, path.as_str(), PROPERTIES, "GetAll", interface).await;
        // It may have ended meanwhile.
        let Ok(facts) = facts else { continue };
        let facts: HashMap<String, OwnedVariant> = body(&facts)?;
        if let Some(touched) = touched(&facts, now) {
            sessions.count += 1;
            sessions.touched = sessions.touched.max(Some(touched));
        }
    }
    Ok(sessions)
}

/// When somebody last did something in this session; none if it is nobody's.
fn touched(facts: &HashMap<String, OwnedVariant>, now: Time) -> Option<Time> {
    let text = |name: &str| facts.get(name).and_then(|value| <&str>::try_from(&**value).ok());
    // Not those of login screens, of services and of jobs; nor one that is being left.
    if !text("Class")?.starts_with("user") || text("State") == Some("closing") {
        return None;
    }
    let idle = facts.get("IdleHint").and_then(|value| bool::try_from(&**value).ok());
    let since = facts.get("IdleSinceHint").and_then(|value| u64::try_from(&**value).ok());
    let since = since.filter(|since| *since > 0).map(|micros| Time(micros / 1000).min(now));
    match text("Type")? {
        "tty" => since.or(Some(now)),
        "x11" | "wayland" | "mir" if idle == Some(true) => since.or(Some(now)),
        "x11" | "wayland" | "mir" => Some(now),
        // Files being copied from elsewhere, a web page: nobody is at this machine.
        _ => None,
    }
}

async fn ask_metered(connection: &Connection) -> Result<Option<bool>, Fault> {
    if !runs(connection, MANAGER).await? {
        return Err(Fault::Absent("NetworkManager does not run".to_owned()));
    }
    let what = &(MANAGER, "Metered");
    let answer = call(connection, MANAGER, MANAGER_PATH, PROPERTIES, "Get", what).await?;
    let value: OwnedVariant = body(&answer)?;
    // Yes, no, and a guess at either.
    Ok(match u32::try_from(&*value) {
        Ok(1 | 3) => Some(true),
        Ok(2 | 4) => Some(false),
        Ok(_) | Err(_) => None,
    })
}

async fn runs(connection: &Connection, name: &str) -> Result<bool, Fault> {
    let bus = "org.freedesktop.DBus";
    body(&call(connection, bus, "/org/freedesktop/DBus", bus, "NameHasOwner", &(name,)).await?)
}

async fn call<B: serde::Serialize + DynamicType>(
    connection: &Connection,
    to: &str,
    path: &str,
    interface: &str,
    method: &str,
    body: &B,
) -> Result<Message, Fault> {
    Ok(connection.call_method(Some(to), path, Some(interface), method, body).await?)
}

fn body<T: DeserializeOwned + zbus::zvariant::Type>(message: &Message) -> Result<T, Fault> {
    let read = message.body().deserialize::<T>();
    read.map_err(|error| Fault::Lost(format!("an answer that can't be read: {error}")))
}

const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.NetworkManager";
const MANAGER_PATH: &str = "/org/freedesktop/NetworkManager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Sessions asked for: a desktop has one or two, a shared server dozens. One more session in use
/// than these goes unseen; its terminal still tells.
const SESSIONS_MAX: usize = 32;
/// How long the bus or a service may take. They answer within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long after the bus failed it is tried again.
const RETRY_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, Mutex};

    use super::*;

    const NOW: Time = Time(1_800_000_000_000);

    /// A real message bus of our own. Dropping it ends it.
    struct Daemon {
        child: Child,
        address: String,
        _folder: tempfile::TempDir,
    }

    impl Daemon {
        /// None where no `dbus-daemon` is installed, which is said.
        fn start() -> Option<Daemon> {
            let folder = tempfile::tempdir().unwrap();
            let config = folder.path().join("bus.conf");
            let socket = folder.path().join("bus");
            let text = format!(
                "<busconfig><type>session</type><listen>unix:path={}</listen>\
                 <auth>EXTERNAL</auth><policy context=\"default\">\
                 <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
                 <allow own=\"*\"/></policy></busconfig>",
                socket.display()
            );
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new("dbus-daemon");
            command.arg("--nofork").arg("--print-address").arg("--config-file").arg(&config);
            command.stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut child) = command.spawn() else {
                let why = "the message bus is not tested: no dbus-daemon is installed";
                writeln!(std::io::stderr(), "{why}").unwrap();
                return None;
            };
            let mut address = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
            Some(Daemon { child, address: address.trim().to_owned(), _folder: folder })
        }

        fn bus(&self) -> Bus {
            Bus::new(Some(self.address.clone()))
        }

        /// A connection of a service, which has still to take its name.
        async fn service(&self) -> Connection {
            let builder = Builder::address(self.address.as_str());
            builder.method_timeout(TIMEOUT).build().await.unwrap()
        }

        async fn network(&self, metered: &Arc<Mutex<u32>>) -> Connection {
            let service = self.service().await;
            let network = Network(metered.clone());
            service.object_server().at(MANAGER_PATH, network).await.unwrap();
            service.request_name(MANAGER).await.unwrap();
            service
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    struct Logind(Vec<&'static str>);

    #[zbus::interface(name = "org.freedesktop.login1.Manager")]
    impl Logind {
        fn list_sessions(&self) -> Vec<(String, u32, String, String, OwnedObjectPath)> {
            let path = |path: &&str| OwnedObjectPath::try_from(*path).unwrap();
            let text = || String::from("x");
            self.0.iter().map(|at| (text(), 1000, text(), text(), path(at))).collect()
        }
    }

    #[derive(Clone)]
    struct Session {
        class: &'static str,
        kind: &'static str,
        state: &'static str,
        idle: bool,
        since_ms: u64,
    }

    #[zbus::interface(name = "org.freedesktop.login1.Session")]
    impl Session {
        #[zbus(property)]
        fn class(&self) -> String {
            self.class.to_owned()
        }

        #[zbus(property, name = "Type")]
        fn kind(&self) -> String {
            self.kind.to_owned()
        }

        #[zbus(property)]
        fn state(&self) -> String {
            self.state.to_owned()
        }

        #[zbus(property)]
        fn idle_hint(&self) -> bool {
            self.idle
        }

        #[zbus(property)]
        fn idle_since_hint(&self) -> u64 {
            self.since_ms * 1000
        }
    }

    struct Network(Arc<Mutex<u32>>);

    #[zbus::interface(name = "org.freedesktop.NetworkManager")]
    impl Network {
        #[zbus(property)]
        fn metered(&self) -> u32 {
            *self.0.lock().unwrap()
        }
    }

    fn session(kind: &'static str, idle: bool, since_ms: u64) -> Session {
        Session { class: "user", kind, state: "active", idle, since_ms }
    }

    async fn sessions(daemon: &Daemon, sessions: &[Session]) -> Result<Sessions, String> {
        const PATHS: [&str; 4] = ["/s/a", "/s/b", "/s/c", "/s/d"];
        let service = daemon.service().await;
        let server = service.object_server();
        // One more is listed than is there: it has just ended.
        let logind = Logind(PATHS[..=sessions.len()].to_vec());
        server.at(LOGIND_PATH, logind).await.unwrap();
        for (path, session) in PATHS.into_iter().zip(sessions) {
            server.at(path, session.clone()).await.unwrap();
        }
        service.request_name(LOGIND).await.unwrap();
        daemon.bus().sessions(NOW).await
    }

    #[tokio::test]
    async fn a_desktop_is_idle_since_it_says_so() {
        let since = NOW.0 - 600_000;
        for (idle, touched) in [(true, Time(since)), (false, NOW)] {
            let Some(daemon) = Daemon::start() else { return };
            let found = sessions(&daemon, &[session("wayland", idle, since)]).await;
            assert_eq!(found, Ok(Sessions { count: 1, touched: Some(touched) }));
        }
    }

    #[tokio::test]
    async fn of_all_sessions_the_one_touched_last_counts() {
        let Some(daemon) = Daemon::start() else { return };
        let desktop = session("x11", true, NOW.0 - 600_000);
        let terminal = session("tty", false, NOW.0 - 20_000);
        let found = sessions(&daemon, &[desktop, terminal]).await;
        assert_eq!(found, Ok(Sessions { count: 2, touched: Some(Time(NOW.0 - 20_000)) }));
    }

    #[tokio::test]
    async fn login_screens_services_and_those_who_leave_are_nobody() {
        let Some(daemon) = Daemon::start() else { return };
        let greeter = Session { class: "greeter", ..session("wayland", false, 0) };
        let leaving = Session { state: "closing", ..session("tty", false, NOW.0) };
        let found = sessions(&daemon, &[greeter, leaving, session("unspecified", false, 0)]).await;
        assert_eq!(found, Ok(Sessions { count: 0, touched: None }));
    }

    #[tokio::test]
    async fn a_metered_connection_is_told_and_guesses_count() {
        let Some(daemon) = Daemon::start() else { return };
        let answer = Arc::new(Mutex::new(0));
        let _manager = daemon.network(&answer).await;
        let mut bus = daemon.bus();
        for (said, means) in [
            (0, None),
            (1, Some(true)),
            (2, Some(false)),
            (3, Some(true)),
            (4, Some(false)),
            (9, None),
        ] {
            *answer.lock().unwrap() = said;
            assert_eq!(bus.metered(NOW).await, Ok(means), "{said}");
        }
    }

    #[tokio::test]
    async fn a_service_that_does_not_run_is_not_there_and_may_come() {
        let Some(daemon) = Daemon::start() else { return };
        let mut bus = daemon.bus();
        assert_eq!(bus.metered(NOW).await, Err("NetworkManager does not run".to_owned()));
        assert_eq!(bus.sessions(NOW).await, Err("logind does not run".to_owned()));
        let _manager = daemon.network(&Arc::new(Mutex::new(1))).await;
        assert_eq!(bus.metered(NOW).await, Ok(Some(true)));
    }

    #[tokio::test]
    async fn a_bus_that_is_gone_is_asked_again_after_a_minute() {
        let Some(daemon) = Daemon::start() else { return };
        let mut bus = daemon.bus();
        assert_eq!(bus.sessions(NOW).await, Err("logind does not run".to_owned()));
        drop(daemon);
        let error = bus.sessions(NOW).await.unwrap_err();
        assert!(bus.connection.is_none(), "{error}");
        let Some(daemon) = Daemon::start() else { return };
        bus.address = Some(daemon.address.clone());
        assert_eq!(bus.sessions(NOW.plus_ms(RETRY_MS - 1)).await, Err(error));
        let found = bus.sessions(NOW.plus_ms(RETRY_MS)).await;
        assert_eq!(found, Err("logind does not run".to_owned()));
    }

    #[tokio::test]
    async fn a_machine_without_a_bus_says_so() {
        let mut bus = Bus::new(Some("unix:path=/nowhere/bus".to_owned()));
        let error = bus.sessions(NOW).await.unwrap_err();
        assert!(error.starts_with("no system bus: "), "{error}");
    }
}
