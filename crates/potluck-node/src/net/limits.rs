//! How much of this node strangers can use up by talking to it: every bound of the network in one
//! place, with its reason.

use std::time::Duration;

/// The bounds of one [`super::Net`]. The defaults are for a home machine with some gigabytes of
/// memory; where no source is named, a number is a guess with its arithmetic.
#[derive(Debug, Clone)]
pub(crate) struct NetLimits {
    /// Inbound connections at once, handshakes included. Each may hold its receive window, 2 MiB,
    /// of memory: 512 MiB at worst, a few megabytes in practice.
    pub(crate) inbound_max: usize,
    /// Inbound connections from one IPv4 address or one IPv6 /64: a household or a small office
    /// behind one router. Loopback is exempt, so that many nodes can run on one machine.
    pub(crate) inbound_per_host_max: usize,
    /// Inbound handshakes under way before a newcomer must first show that it can receive at the
    /// address it claims (a stateless retry, one more round trip).
    pub(crate) handshakes_free_max: usize,
    /// Outbound dials at once; more fail at once.
    pub(crate) dials_max: usize,
    /// How long a dial may take, from the first packet to the neighbour's first byte.
    pub(crate) dial_timeout: Duration,
    /// How long an inbound connection may take to shake hands, and then again to open its gossip
    /// stream; later than that, it is for blobs only.
    pub(crate) greeting_timeout: Duration,
    /// For how long after a connection is up a second one from the same neighbour is taken for the
    /// other half of a simultaneous dial rather than for a neighbour that was restarted.
    pub(crate) simultaneous_max: Duration,
    /// Frames that may wait for one neighbour.
    pub(crate) frames_queued_max: usize,
    /// Bytes of frames that may wait for one neighbour: four of the longest.
    pub(crate) bytes_queued_max: usize,
    /// How long one frame may take to be written before the neighbour counts as frozen: the longest
    /// frame at 9 KiB/s.
    pub(crate) frame_timeout: Duration,
    /// How long a blob transfer, or an answer, may go without a byte.
    pub(crate) progress_timeout: Duration,
    /// How slow a blob transfer may be on the whole, so that nobody holds a place by sending or
    /// taking one byte every few seconds. Added to three progress timeouts.
    pub(crate) bytes_per_s_min: u64,
    /// How long a request may wait for its turn before it is told that this node is busy.
    pub(crate) turn_timeout: Duration,
    /// Answers to one connection at once.
    pub(crate) answers_per_connection_max: usize,
    /// Blobs read from disk at once.
    pub(crate) reads_max: usize,
    /// Bytes of blobs in memory while they are sent. A blob larger than this is sent alone.
    pub(crate) answers_bytes_max: u32,
    /// How long a connection for blobs only is kept without a request.
    pub(crate) blob_idle: Duration,
    /// Addresses of one source that are tried, all at once.
    pub(crate) addresses_per_source_max: usize,
    /// How long closing waits for queued frames to arrive.
    pub(crate) flush_timeout: Duration,
}

impl Default for NetLimits {
    fn default() -> NetLimits {
        NetLimits {
            inbound_max: 256,
            inbound_per_host_max: 16,
            handshakes_free_max: 32,
            dials_max: 64,
            dial_timeout: Duration::from_secs(5),
            greeting_timeout: Duration::from_secs(5),
            simultaneous_max: Duration::from_secs(5),
            frames_queued_max: 512,
            bytes_queued_max: 2 << 20,
            frame_timeout: Duration::from_secs(60),
            progress_timeout: Duration::from_secs(10),
            bytes_per_s_min: 16 << 10,
            turn_timeout: Duration::from_secs(5),
            answers_per_connection_max: 4,
            reads_max: 4,
            answers_bytes_max: 256 << 20,
            blob_idle: Duration::from_secs(10),
            addresses_per_source_max: 4,
            flush_timeout: Duration::from_millis(400),
        }
    }
}

impl NetLimits {
    /// How long a transfer of this many bytes may take in all, where `rate` is this node's own cap:
    /// who is slow because of it must not be blamed.
    pub(crate) fn transfer_timeout(&self, bytes: u64, rate: Option<u64>) -> Duration {
        let slowest = rate.map_or(self.bytes_per_s_min, |rate| self.bytes_per_s_min.min(rate / 2));
        self.progress_timeout * 3 + Duration::from_secs(bytes / slowest.max(1))
    }
}

/// How long a connection may be silent before it counts as lost. Three missed keep-alives: short
/// enough that a neighbour who lost power is replaced soon.
pub(crate) const IDLE_TIMEOUT_MS: u32 = 15_000;
/// How often a connection says that it is there, by who dialled. Routers forget UDP mappings after 30 s and less.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Streams that a neighbour may have open for blob requests.
pub(crate) const REQUESTS_MAX: u32 = 16;
/// Streams that a neighbour may have open for gossip: the one, and one more to be told off for.
pub(crate) const GOSSIP_STREAMS_MAX: u32 = 2;
/// Bytes in flight on one stream: two of the longest frames, and 10 MB/s at 100 ms for blobs.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes in flight to us on one connection. More than a stream's, so that gossip which waits for
/// this node can't hold up requests.
pub(crate) const WINDOW_BYTES: u32 = 2 << 20;
/// The same on a connection that we fetch blobs over, where we chose how much comes.
pub(crate) const FETCH_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes sent on one connection and not yet acknowledged.
pub(crate) const SEND_WINDOW_BYTES: u64 = 4 << 20;
/// Handshakes that may wait to be looked at; more are refused by the socket's own code.
pub(crate) const UNSEEN_MAX: usize = 256;
/// Bytes that may wait with them.
pub(crate) const UNSEEN_BYTES_MAX: u64 = 1 << 20;
