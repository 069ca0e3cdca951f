//! Talks to a node through its control interface: HTTP with JSON on the Unix socket in the data
//! folder.
//!
//! Every answer is bounded before it is read: the node on the other side is ours, but may be another
//! version or broken.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use potluck_node::api::{
    ConvictionInfo, JobInfo, LogLine, NodeInfo, Offer, PeerInfo, Refused, RefusedCode, ResultFrame,
    UnitInfo, job_path,
};
use potluck_node::{EVIDENCE_BYTES_MAX, GivenBy, GivenInfo};
use potluck_unit::{JobId, Outcome};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::exit::Exit;

/// A connection to a node, opened anew whenever it is needed and gone.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    idle: Option<Sender>,
}

type Sender = SendRequest<Full<Bytes>>;

impl Client {
    /// Connects to the node at `socket`. An error means that no node runs there: a socket file may
    /// outlive its node.
    pub(crate) async fn connect(socket: &Path) -> io::Result<Client> {
        let idle = Some(open(socket).await?);
        Ok(Client { socket: socket.to_owned(), idle })
    }

    pub(crate) async fn node(&mut self) -> Result<NodeInfo, ClientError> {
        self.get("/v1/node").await
    }

    pub(crate) async fn pause(&mut self, for_ms: Option<u64>) -> Result<NodeInfo, ClientError> {
        let query = for_ms.map(|ms| format!("?for_ms={ms}")).unwrap_or_default();
        self.post(&format!("/v1/pause{query}"), Vec::new()).await
    }

    pub(crate) async fn resume(&mut self) -> Result<NodeInfo, ClientError> {
        self.post("/v1/resume", Vec::new()).await
    }

    pub(crate) async fn drain(&mut self, exit: bool) -> Result<NodeInfo, ClientError> {
        self.post(&format!("/v1/drain?exit={exit}"), Vec::new()).await
    }

    pub(crate) async fn log(&mut self) -> Result<Vec<LogLine>, ClientError> {
        self.get("/v1/log").await
    }

    pub(crate) async fn offers(&mut self) -> Result<Vec<Offer>, ClientError> {
        self.get("/v1/offers").await
    }

    pub(crate) async fn peers(&mut self) -> Result<Vec<PeerInfo>, ClientError> {
        self.get("/v1/peers").await
    }

    pub(crate) async fn convictions(&mut self) -> Result<Vec<ConvictionInfo>, ClientError> {
        self.get("/v1/convictions").await
    }

    pub(crate) async fn jobs(&mut self) -> Result<Vec<JobInfo>, ClientError> {
        self.get("/v1/jobs").await
    }

    /// A job; none if the node has never heard of it.
    pub(crate) async fn job(&mut self, id: &JobId) -> Result<Option<JobInfo>, ClientError> {
        match self.get(&job_path(id)).await {
            Ok(info) => Ok(Some(info)),
            Err(ClientError::Refused(refused)) if refused.code == RefusedCode::UnknownJob => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Up to `count` units from `first` on; the node may answer with fewer.
    pub(crate) async fn units(
        &mut self,
        id: &JobId,
        first: u32,
        count: u32,
    ) -> Result<Vec<UnitInfo>, ClientError> {
        self.get(&format!("{}/units?first={first}&count={count}", job_path(id))).await
    }

    /// Puts bytes on the node's disk. Answers with their id.
    pub(crate) async fn post_blob(&mut self, bytes: Vec<u8>) -> Result<String, ClientError> {
        self.post("/v1/blobs", bytes).await
    }

    /// Submits a signed job. When this returns, the job is on disk.
    pub(crate) async fn post_job(&mut self, record: &[u8]) -> Result<JobInfo, ClientError> {
        self.post("/v1/jobs", record.to_vec()).await
    }

    /// Closes a job with the signed close record.
    pub(crate) async fn close(
        &mut self,
        id: &JobId,
        record: &[u8],
    ) -> Result<JobInfo, ClientError> {
        self.post(&format!("{}/close", job_path(id)), record.to_vec()).await
    }

    /// The job now and after every change, on a connection of its own.
    pub(crate) async fn watch(&self, id: &JobId) -> Result<Watch, ClientError> {
        let path = format!("{}/watch", job_path(id));
        Ok(Watch { stream: self.stream(&path).await? })
    }

    /// Up to `count` results from unit `first` on; the node may answer with fewer.
    pub(crate) async fn results(
        &self,
        id: &JobId,
        first: u32,
        count: u32,
    ) -> Result<Frames, ClientError> {
        let path = format!("{}/results?first={first}&count={count}", job_path(id));
        Ok(Frames { stream: self.stream(&path).await?, used: 0 })
    }

    /// The evidence of a job, piece by piece. Whether it is whole, its checksum knows.
    pub(crate) async fn evidence(&self, id: &JobId) -> Result<Pieces, ClientError> {
        let stream = self.stream(&format!("{}/evidence", job_path(id))).await?;
        Ok(Pieces { stream, bytes: 0 })
    }

    /// What the node has given, in parts if asked for.
    pub(crate) async fn given(&mut self, by: Option<GivenBy>) -> Result<GivenInfo, ClientError> {
        let by = match by {
            None => "",
            Some(GivenBy::Day) => "?by=day",
            Some(GivenBy::Submitter) => "?by=submitter",
        };
        self.get(&format!("/v1/given{by}")).await
    }

    /// The same with its signed records, piece by piece.
    pub(crate) async fn given_export(&self) -> Result<Pieces, ClientError> {
        Ok(Pieces { stream: self.stream("/v1/given/export").await?, bytes: 0 })
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        read_json(response).await
    }

    async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let response = self.send(Method::POST, path, body.into()).await?;
        read_json(response).await
    }

    /// Sends on the idle connection if there is one. Should that have died meanwhile, once more on a
    /// new one: asking twice does no harm, since what is posted is named by its hash.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        if let Some(mut sender) = self.idle.take()
            && sender.ready().await.is_ok()
            && let Ok(response) = sender.send_request(request(&method, path, &body)?).await
        {
            self.idle = Some(sender);
            return refuse(response).await;
        }
        let mut sender = open(&self.socket).await?;
        let response = sender.send_request(request(&method, path, &body)?).await?;
        self.idle = Some(sender);
        refuse(response).await
    }

    async fn stream(&self, path: &str) -> Result<Stream, ClientError> {
        let mut sender = open(&self.socket).await?;
        let response = sender.send_request(request(&Method::GET, path, &Bytes::new())?).await?;
        let body = refuse(response).await?.into_body();
        Ok(Stream { body, buffer: Vec::new(), _sender: sender })
    }
}

/// A job as it changes.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: Stream,
}

impl Watch {
    /// The next state; none once the job is finished or the node stops. May be dropped while
    /// waiting: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<JobInfo>, ClientError> {
        loop {
            let buffer = &mut self.stream.buffer;
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let info = serde_json::from_slice(&buffer[..end]).map_err(strange)?;
                buffer.drain(..=end);
                return Ok(Some(info));
            }
            if buffer.len() > LINE_BYTES_MAX {
                return Err(strange("a line without an end"));
            }
            if !self.stream.fill().await? {
                return Ok(None);
            }
        }
    }
}

/// Results as they arrive.
#[derive(Debug)]
pub(crate) struct Frames {
    stream: Stream,
    /// Bytes at the front of the buffer that have been read.
    used: usize,
}

impl Frames {
    /// The next unit; none after the last of this answer.
    pub(crate) async fn next(&mut self) -> Result<Option<ResultFrame>, ClientError> {
        loop {
            let rest = &self.stream.buffer[self.used..];
            if let Some((frame, after)) = ResultFrame::read(rest) {
                self.used = self.stream.buffer.len() - after.len();
                return Ok(Some(frame));
            }
            if rest.len() as u64 > FRAME_BYTES_MAX {
                return Err(strange("a result larger than any can be"));
            }
            self.stream.buffer.drain(..self.used);
            self.used = 0;
            if !self.stream.fill().await? {
                let whole = self.stream.buffer.is_empty();
                return if whole { Ok(None) } else { Err(strange("half a result")) };
            }
        }
    }
}

/// A file as it arrives.
#[derive(Debug)]
pub(crate) struct Pieces {
    stream: Stream,
    /// Bytes that have come.
    pub(crate) bytes: u64,
}

impl Pieces {
    /// The next bytes; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        if !self.stream.fill().await? {
            return Ok(None);
        }
        let piece = std::mem::take(&mut self.stream.buffer);
        self.bytes += piece.len() as u64;
        let fits = self.bytes <= EVIDENCE_BYTES_MAX;
        if fits { Ok(Some(piece)) } else { Err(strange("a file larger than any can be")) }
    }
}

#[derive(Debug)]
struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
    /// Dropping it would close the connection once the answer is over, which must not be earlier.
    _sender: Sender,
}

impl Stream {
    /// Waits for more bytes; false at the end.
    async fn fill(&mut self) -> Result<bool, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Some(bytes) = frame?.data_ref() {
                self.buffer.extend_from_slice(bytes);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A request that brought no answer.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// The node refused. What was asked for has not happened.
    Refused(Refused),
    /// The node did not answer, or not in our language. What was asked for may have happened.
    Lost(String),
}

impl ClientError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            ClientError::Lost(_) => Exit::Failed,
            ClientError::Refused(refused) => match refused.code {
                RefusedCode::UnknownJob => Exit::UnknownJob,
                RefusedCode::BadRequest | RefusedCode::Forbidden => Exit::Input,
                RefusedCode::MissingBlob | RefusedCode::Internal => Exit::Failed,
            },
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Refused(refused) => write!(f, "the node refused: {}", refused.error),
            ClientError::Lost(why) => {
                write!(
                    f,
                    "the node in the data folder gave no answer ({why}); is it still running?"
                )
            }
        }
    }
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> ClientError {
        ClientError::Lost(error.to_string())
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Lost(error.to_string())
    }
}

fn strange(why: impl fmt::Display) -> ClientError {
    ClientError::Lost(format!("not understood: {why}"))
}

async fn open(socket: &Path) -> io::Result<Sender> {
    let stream = UnixStream::connect(socket).await?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // An error of the connection shows up in whatever is asked over it.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(method: &Method, path: &str, body: &Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "potluck")
        .body(Full::new(body.clone()))
        .map_err(strange)
}

/// Lets good answers pass and reads why the others are not.
async fn refuse(response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let refused = read_json(response).await.map_err(|_| strange(format!("status {status}")))?;
    Err(ClientError::Refused(refused))
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let body =
        Limited::new(response.into_body(), JSON_BYTES_MAX).collect().await.map_err(strange)?;
    serde_json::from_slice(&body.to_bytes()).map_err(strange)
}

/// A thousand units with a dozen receipts each take about 3 MiB.
const JSON_BYTES_MAX: usize = 64 << 20;
/// One job with its reasons and liars takes a few KiB.
const LINE_BYTES_MAX: usize = 4 << 20;
/// The largest outcome with its head.
const FRAME_BYTES_MAX: u64 = ResultFrame::HEAD_BYTES as u64 + Outcome::BODY_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: RefusedCode) -> ClientError {
        ClientError::Refused(Refused { error: "no".to_owned(), code })
    }

    #[test]
    fn refusals_have_exit_codes_of_their_own() {
        assert_eq!(refused(RefusedCode::UnknownJob).exit(), Exit::UnknownJob);
        assert_eq!(refused(RefusedCode::BadRequest).exit(), Exit::Input);
        assert_eq!(refused(RefusedCode::Internal).exit(), Exit::Failed);
        assert_eq!(ClientError::Lost(String::new()).exit(), Exit::Failed);
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_not_a_running_node() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        assert!(Client::connect(&socket).await.is_err());
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        assert!(Client::connect(&socket).await.is_err());
    }
}
