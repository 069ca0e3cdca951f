//! The node's one UDP socket with a meter on it: every datagram passes here, whatever it carries and
//! whoever made it, so a cap that holds here holds.
//!
//! What leaves waits for its turn and is never dropped, so congestion control sees delay, not loss.
//! What has arrived can't be refused: above the cap it is handed on late and marked as having met
//! congestion (RFC 3168), which the sender answers as it would a loss, but nothing is sent twice.
//! Who sends on regardless finds its packets dropped.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Sleep, sleep_until};

use super::bucket::bytes_in;
use super::meter::{Meter, Turn, bytes_on_cable};

/// A socket with a meter on it.
#[derive(Debug)]
pub(crate) struct Metered {
    socket: Arc<dyn AsyncUdpSocket>,
    meter: Arc<Meter>,
    held: Mutex<Held>,
}

impl Metered {
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>, meter: Arc<Meter>) -> Metered {
        Metered { socket, meter, held: Mutex::default() }
    }
}

impl AsyncUdpSocket for Metered {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let (meter, socket) = (self.meter.clone(), self.socket.clone().create_io_poller());
        Box::pin(Place { meter, socket, ticket: None, alarm: Alarm::default() })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.meter.is_shut() {
            // For QUIC it is lost on its way.
            return Ok(());
        }
        let (payload, segment) = (transmit.contents.len(), transmit.segment_size);
        let bytes = bytes_on_cable(payload, segment, transmit.destination);
        let sent = self.meter.send(bytes, now, || self.socket.try_send(transmit));
        // Connections wait and ask again. The answers to strangers that quinn makes without a
        // connection are the one thing that is given up: strangers ask again.
        sent.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (shut, rate) = (self.meter.is_shut(), self.meter.download_rate());
        if rate.is_none() && held.queue.is_empty() && !shut {
            let count = ready!(self.socket.poll_recv(cx, buffers, metas))?;
            metas[..count].iter().for_each(|meta| self.count(meta));
            return Poll::Ready(Ok(count));
        }
        let more = self.fetch(&mut held, cx, buffers, metas, rate)?;
        if shut {
            held.clear();
        }
        let handed = self.hand_on(&mut held, cx, buffers, metas, rate);
        if let Poll::Ready(count @ 1..) = handed {
            return Poll::Ready(Ok(count));
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }

    /// Few under a cap, so that what goes at once is not much of a second.
    fn max_transmit_segments(&self) -> usize {
        let most = self.socket.max_transmit_segments();
        let Some(rate) = self.meter.upload_rate() else { return most };
        let fit = bytes_in(rate, TRANSMIT_TIME) / PACKET_BYTES;
        usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, most)
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }
}

/// Receiving above a cap.
impl Metered {
    fn count(&self, meta: &RecvMeta) {
        let bytes = bytes_on_cable(meta.len, Some(meta.stride), meta.addr);
        self.meter.arrived(bytes, now);
    }

    /// Takes what has arrived from the kernel, whose own queue would overflow unseen. Whether there
    /// may be more.
    fn fetch(
        &self,
        held: &mut Held,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        rate: Option<u64>,
    ) -> io::Result<bool> {
        for _ in 0..FETCHES_MAX {
            let count = match self.socket.poll_recv(cx, buffers, metas) {
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(false),
            };
            for (meta, buffer) in metas[..count].iter().zip(buffers.iter()) {
                self.count(meta);
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    let dropped = held.push(datagram, meta, rate);
                    if dropped > 0 {
                        self.meter.delivered(dropped, now());
                    }
                }
            }
        }
        Ok(true)
    }

    /// Hands on what the cap allows. Pending while there is more that it does not.
    fn hand_on(
        &self,
        held: &mut Held,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        rate: Option<u64>,
    ) -> Poll<usize> {
        let mut count = 0;
        while count < buffers.len().min(metas.len()) && !held.queue.is_empty() {
            let now = now();
            if let Err(at) = self.meter.deliver(now, cx.waker()) {
                if count > 0 {
                    break;
                }
                if held.alarm.poll(at, cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            let crowded = rate.is_some_and(|rate| held.bytes > bytes_in(rate, MARK_TIME));
            let Some(datagram) = held.pop() else { break };
            self.meter.delivered(datagram.bytes_on_cable(), now);
            let Datagram { contents, meta } = datagram;
            let length = contents.len().min(buffers[count].len());
            buffers[count][..length].copy_from_slice(&contents[..length]);
            let ecn = if crowded { meta.ecn.map(|_| EcnCodepoint::Ce) } else { meta.ecn };
            metas[count] = RecvMeta { len: length, stride: length.max(1), ecn, ..meta };
            count += 1;
        }
        Poll::Ready(count)
    }
}

/// What has arrived and is still to be handed on.
#[derive(Debug, Default)]
struct Held {
    queue: VecDeque<Datagram>,
    /// Bytes of these on the cable.
    bytes: u64,
    alarm: Alarm,
}

#[derive(Debug)]
struct Datagram {
    contents: Box<[u8]>,
    meta: RecvMeta,
}

impl Datagram {
    fn bytes_on_cable(&self) -> u64 {
        bytes_on_cable(self.contents.len(), None, self.meta.addr)
    }
}

impl Held {
    /// Queues a datagram. Returns how many bytes were dropped instead, because the queue is full.
    fn push(&mut self, contents: &[u8], meta: &RecvMeta, rate: Option<u64>) -> u64 {
        let datagram = Datagram { contents: contents.into(), meta: *meta };
        let bytes = datagram.bytes_on_cable();
        let most = rate.map_or(HELD_BYTES_MAX, |rate| bytes_in(rate, HELD_TIME));
        if self.bytes + bytes > most.clamp(HELD_BYTES_MIN, HELD_BYTES_MAX) {
            return bytes;
        }
        self.bytes += bytes;
        self.queue.push_back(datagram);
        0
    }

    fn pop(&mut self) -> Option<Datagram> {
        let datagram = self.queue.pop_front()?;
        self.bytes -= datagram.bytes_on_cable();
        Some(datagram)
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}

/// One connection's place in the line before the socket.
#[derive(Debug)]
struct Place {
    meter: Arc<Meter>,
    socket: Pin<Box<dyn UdpPoller>>,
    ticket: Option<u64>,
    alarm: Alarm,
}

impl UdpPoller for Place {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let place = &mut *self;
        if place.meter.upload_capped() && !place.meter.is_shut() {
            loop {
                match place.meter.turn(&mut place.ticket, now(), cx.waker()) {
                    Turn::Now => break,
                    Turn::At(at) => ready!(place.alarm.poll(at, cx)),
                    Turn::Later => return Poll::Pending,
                }
            }
        } else {
            place.meter.leave(&mut place.ticket);
        }
        place.socket.as_mut().poll_writable(cx)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.meter.leave(&mut self.ticket);
    }
}

/// A timer that is made when it is first needed.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        if sleep.deadline() != at.into() {
            sleep.as_mut().reset(at.into());
        }
        sleep.as_mut().poll(cx)
    }
}

/// The runtime's clock, which tests can stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long one transmission may take at the cap; one packet may take longer.
const TRANSMIT_TIME: Duration = Duration::from_millis(20);
/// Most packets of most paths on the cable.
const PACKET_BYTES: u64 = 1514;

/// Senders are told to slow down when what is held takes longer than this: what a few connections
/// send in one burst, which is no congestion, at 1 MiB/s.
const MARK_TIME: Duration = Duration::from_millis(25);
/// The most that is held, as time at the cap. What it adds to a second must stay well below a
/// quarter of one.
const HELD_TIME: Duration = Duration::from_millis(120);
/// One first burst of a connection, whatever the cap: QUIC begins with ten packets.
const HELD_BYTES_MIN: u64 = 16 << 10;
/// At caps so high that their time would hold more than this, memory counts more.
const HELD_BYTES_MAX: u64 = 4 << 20;
/// Batches taken from the kernel before what they bring is handed on.
const FETCHES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::meter::Rates;
    use super::*;

    /// A socket on which batches of datagrams have arrived: bytes, stride and mark.
    #[derive(Debug)]
    struct Fake(Mutex<VecDeque<Arrived>>);

    /// Bytes, how long each datagram in them is, and its mark of congestion.
    type Arrived = (Vec<u8>, usize, Option<EcnCodepoint>);

    #[derive(Debug)]
    struct AlwaysWritable;

    impl UdpPoller for AlwaysWritable {
        fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncUdpSocket for Fake {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(AlwaysWritable)
        }

        fn try_send(&self, _transmit: &Transmit<'_>) -> io::Result<()> {
            Ok(())
        }

        fn poll_recv(
            &self,
            _cx: &mut Context<'_>,
            buffers: &mut [IoSliceMut<'_>],
            metas: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let Some((bytes, stride, ecn)) = self.0.lock().unwrap().pop_front() else {
                return Poll::Pending;
            };
            buffers[0][..bytes.len()].copy_from_slice(&bytes);
            metas[0] = RecvMeta { len: bytes.len(), stride, ecn, ..metas[0] };
            metas[0].addr = PEER.parse().unwrap();
            Poll::Ready(Ok(1))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(PEER.parse().unwrap())
        }

        fn max_transmit_segments(&self) -> usize {
            64
        }
    }

    const PEER: &str = "192.0.2.1:7";

    fn metered(
        batches: Vec<(Vec<u8>, usize, Option<EcnCodepoint>)>,
        rates: Rates,
    ) -> (Arc<Metered>, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        meter.set_rates(rates, now());
        let socket = Arc::new(Fake(Mutex::new(batches.into())));
        (Arc::new(Metered::new(socket, meter.clone())), meter)
    }

    /// One call of `poll_recv`: every datagram that it hands on, and its mark.
    fn receive(socket: &Metered, places: usize) -> Vec<(Vec<u8>, Option<EcnCodepoint>)> {
        let mut space = vec![vec![0; 65536]; places];
        let mut buffers: Vec<_> = space.iter_mut().map(|space| IoSliceMut::new(space)).collect();
        let mut metas = vec![RecvMeta::default(); places];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(count) = socket.poll_recv(&mut cx, &mut buffers, &mut metas) else {
            return Vec::new();
        };
        (metas[..count.unwrap()].iter().zip(&buffers))
            .flat_map(|(meta, buffer)| {
                let datagrams = buffer[..meta.len].chunks(meta.stride);
                datagrams.map(|datagram| (datagram.to_vec(), meta.ecn)).collect::<Vec<_>>()
            })
            .collect()
    }

    fn transmit(contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        let destination = PEER.parse().unwrap();
        Transmit { destination, ecn: None, contents, segment_size, src_ip: None }
    }

    fn down(rate: u64) -> Rates {
        Rates { upload_per_s: None, download_per_s: Some(rate) }
    }

    fn up(rate: u64) -> Rates {
        Rates { upload_per_s: Some(rate), download_per_s: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_of_datagrams_counts_the_headers_of_each() {
        let batch = (vec![1; 2500], 1000, None);
        let (socket, meter) = metered(vec![batch], Rates::default());
        assert_eq!(receive(&socket, 4).len(), 3);
        assert_eq!(meter.moved().received, 2500 + 3 * 42);
        socket.try_send(&transmit(&[0; 2001], Some(1000))).unwrap();
        socket.try_send(&transmit(&[0; 10], None)).unwrap();
        assert_eq!(meter.moved().sent, 2001 + 3 * 42 + 10 + 42);
        let v6 = "[2001:db8::1]:1".parse().unwrap();
        assert_eq!(bytes_on_cable(100, None, v6), 162);
        assert_eq!(bytes_on_cable(100, None, "[::ffff:192.0.2.1]:1".parse().unwrap()), 142);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_above_the_cap_is_handed_on_in_order_when_its_time_has_come() {
        let batch = |first: u8| ((first..first + 8).flat_map(|n| [n; 958]).collect(), 958, None);
        // A packet of 1000 bytes with its headers, and so one every 10 ms after a burst of 5.
        let (socket, meter) = metered(vec![batch(0), batch(8)], down(100_000));
        let first: Vec<u8> = receive(&socket, 32).iter().map(|(bytes, _)| bytes[0]).collect();
        assert_eq!(first, (0..6).collect::<Vec<u8>>());
        assert_eq!(meter.moved().received, 16_000);
        for n in 6..16 {
            assert_eq!(receive(&socket, 32), []);
            tokio::time::advance(Duration::from_millis(10)).await;
            assert_eq!(receive(&socket, 32), [(vec![n; 958], None)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_marked_if_its_sender_understands_marks_and_the_rest_dropped() {
        for (ecn, marked) in [
            (Some(EcnCodepoint::Ect0), Some(EcnCodepoint::Ce)),
            (Some(EcnCodepoint::Ect1), Some(EcnCodepoint::Ce)),
            (None, None),
        ] {
            let batches = (0..40).map(|_| (vec![0; 958], 958, ecn)).collect();
            let (socket, meter) = metered(batches, down(100_000));
            assert_eq!(receive(&socket, 1), [(vec![0; 958], marked)]);
            let mut last = Vec::new();
            let mut count = 1;
            for _ in 0..1000 {
                tokio::time::advance(Duration::from_millis(1)).await;
                let handed = receive(&socket, 32);
                count += handed.len();
                last.extend(handed.last().cloned());
            }
            assert_eq!(last.last().unwrap().1, ecn, "no crowd, no mark");
            // There is room for sixteen; what was dropped has arrived all the same.
            assert!((16..40).contains(&count), "{count}");
            assert_eq!(meter.moved().received, 40_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_waits_in_line_and_nothing_is_dropped() {
        let (socket, meter) = metered(Vec::new(), up(100_000));
        let places: Vec<_> = (0..3).map(|_| socket.clone().create_io_poller()).collect();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for (name, mut place) in places.into_iter().enumerate() {
            let (socket, sender) = (socket.clone(), sender.clone());
            tokio::spawn(async move {
                for _ in 0..50 {
                    std::future::poll_fn(|cx| place.as_mut().poll_writable(cx)).await.unwrap();
                    socket.try_send(&transmit(&[0; 958], None)).unwrap();
                    sender.send(name).unwrap();
                    tokio::task::yield_now().await;
                }
            });
        }
        drop(sender);
        let began = tokio::time::Instant::now();
        let mut names = Vec::new();
        while let Some(name) = order.recv().await {
            names.push(name);
        }
        assert_eq!(meter.moved().sent, 150_000);
        let millis = began.elapsed().as_millis();
        assert!((1440..1460).contains(&millis), "{millis}");
        for round in names[15..120].windows(3) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2], "each in turn: {names:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_the_line_holds_nobody_up() {
        let (socket, meter) = metered(Vec::new(), up(1000));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        socket.try_send(&transmit(&[0; 1400], None)).unwrap();
        let mut first = socket.clone().create_io_poller();
        assert!(first.as_mut().poll_writable(&mut cx).is_pending());
        let mut second = socket.clone().create_io_poller();
        let waiting = tokio::spawn(async move {
            std::future::poll_fn(|cx| second.as_mut().poll_writable(cx)).await.unwrap();
        });
        tokio::task::yield_now().await;
        drop(first);
        waiting.await.unwrap();
        // With the cap gone, nobody waits.
        socket.try_send(&transmit(&[0; 1400], None)).unwrap();
        let mut third = socket.clone().create_io_poller();
        assert!(third.as_mut().poll_writable(&mut cx).is_pending());
        meter.set_rates(Rates::default(), now());
        assert!(third.as_mut().poll_writable(&mut cx).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_low_cap_sends_few_segments_at_once_and_no_cap_as_many_as_there_may_be() {
        for (rate, segments) in [(1, 1), (100 << 10, 1), (1 << 20, 13), (100 << 20, 64)] {
            assert_eq!(metered(Vec::new(), up(rate)).0.max_transmit_segments(), segments);
        }
        assert_eq!(metered(Vec::new(), Rates::default()).0.max_transmit_segments(), 64);
    }
}
