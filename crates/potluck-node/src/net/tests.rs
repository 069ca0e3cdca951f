//! Nodes on loopback: what neighbours, strangers and liars can and can't do to each other.

mod caps;

use std::io::ErrorKind;
use std::sync::OnceLock;
use std::sync::mpsc as blocking;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::timeout;

use super::*;

/// What a test node hands out.
#[derive(Default)]
struct Shelf(BTreeMap<Wanted, Vec<u8>>);

impl Shelf {
    fn with(blobs: &[&[u8]]) -> Shelf {
        let of = |bytes: &&[u8]| (Wanted::Blob(BlobId::of(bytes)), bytes.to_vec());
        Shelf(blobs.iter().map(of).collect())
    }
}

impl BlobSource for Shelf {
    fn read(&self, wanted: &Wanted) -> Option<Vec<u8>> {
        self.0.get(wanted).cloned()
    }
}

struct Node {
    net: Net,
    peer: PeerId,
    events: mpsc::Receiver<NetEvent>,
}

impl Node {
    fn start(seed: u8) -> Node {
        Node::with(seed, NetLimits::default(), Shelf::default())
    }

    fn with(seed: u8, limits: NetLimits, blobs: impl BlobSource + 'static) -> Node {
        Node::at("127.0.0.1:0".parse().unwrap(), seed, Grid::Private, limits, blobs).unwrap()
    }

    fn at(
        listen: SocketAddr,
        seed: u8,
        grid: Grid,
        limits: NetLimits,
        blobs: impl BlobSource + 'static,
    ) -> Result<Node, BindError> {
        let key = Key::of_secret(&[seed; 32]);
        let (sender, events) = mpsc::channel(64);
        let net = Net::bind_with(&key, listen, sender, Arc::new(blobs), grid, limits)?;
        Ok(Node { net, peer: key.id(), events })
    }

    fn address(&self) -> SocketAddr {
        self.net.local_address()
    }

    fn source(&self) -> Source {
        Source { peer: self.peer, addresses: vec![self.address()] }
    }

    async fn next(&mut self) -> NetEvent {
        within(self.events.recv()).await.unwrap()
    }

    async fn up(&mut self) -> (PeerId, SocketAddr, bool) {
        let event = self.next().await;
        let NetEvent::Up { peer, address, outbound } = &event else { panic!("not up: {event:?}") };
        (*peer, *address, *outbound)
    }

    async fn frame(&mut self) -> Vec<u8> {
        let event = self.next().await;
        let NetEvent::Frame { bytes, .. } = &event else { panic!("no frame: {event:?}") };
        bytes.clone()
    }

    async fn down(&mut self) -> String {
        let event = self.next().await;
        let NetEvent::Down { reason, .. } = &event else { panic!("not down: {event:?}") };
        reason.clone()
    }

    async fn dial_failed(&mut self) -> String {
        let event = self.next().await;
        let NetEvent::DialFailed { reason, .. } = &event else {
            panic!("no failed dial: {event:?}")
        };
        reason.clone()
    }

    fn has_no_news(&mut self) -> bool {
        self.events.try_recv() == Err(TryRecvError::Empty)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("it takes too long")
}

async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn neighbours(first: u8, second: u8) -> (Node, Node) {
    let (mut a, mut b) = (Node::start(first), Node::start(second));
    a.net.dial(b.address(), Some(b.peer));
    assert_eq!(a.up().await, (b.peer, b.address(), true));
    assert_eq!(b.up().await, (a.peer, a.address(), false));
    (a, b)
}

/// A connection whose other end is in the hands of the test.
async fn connection(from: &Node, to: &Node) -> Connection {
    let shared = &from.net.0.0;
    let client = shared.identity.client(None, Arc::new(OnceLock::new())).unwrap();
    let connecting = shared.endpoint.connect_with(client, to.address(), tls::SERVER_NAME).unwrap();
    within(connecting).await.unwrap()
}

/// A neighbour in the hands of the test; it is one as long as the stream is there.
async fn raw_neighbour(from: &Node, to: &Node) -> (Connection, quinn::SendStream) {
    let connection = connection(from, to).await;
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[GOSSIP]).await.unwrap();
    (connection, stream)
}

fn impatient() -> NetLimits {
    let short = Duration::from_millis(300);
    NetLimits { dial_timeout: short, turn_timeout: short, ..NetLimits::default() }
}

#[tokio::test]
async fn open_and_private_grids_do_not_mix_and_say_why() {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let at = |seed, grid| {
        Node::at(anywhere, seed, grid, NetLimits::default(), Shelf::default()).unwrap()
    };
    let (mut open, mut private) = (at(1, Grid::Open), at(2, Grid::Private));
    open.net.dial(private.address(), None);
    private.net.dial(open.address(), None);
    for node in [&mut open, &mut private] {
        let reason = node.dial_failed().await;
        assert!(reason.contains("open grid") && reason.contains("--private"), "{reason}");
    }
}

#[tokio::test]
async fn neighbours_exchange_frames_in_order_until_one_hangs_up() {
    let (mut a, mut b) = neighbours(1, 2).await;
    let longest: Arc<[u8]> = vec![7; Message::BYTES_MAX].into();
    assert!(a.net.send(&b.peer, b"one".as_slice().into()));
    assert!(a.net.send(&b.peer, longest.clone()));
    assert!(b.net.send(&a.peer, b"".as_slice().into()));
    assert_eq!(b.frame().await, b"one");
    assert_eq!(b.frame().await, *longest);
    assert_eq!(a.frame().await, b"");
    assert_eq!(a.net.stats().frames_sent, 2);
    assert_eq!(b.net.stats().frame_bytes_received, 3 + longest.len() as u64);
    assert!(a.net.stats().neighbours[&b.peer].rtt < Duration::from_secs(1));
    assert!(a.net.stats().wire_bytes_sent > longest.len() as u64);
    a.net.hang_up(&b.peer);
    assert_eq!(a.down().await, "this node hung up");
    assert_eq!(b.down().await, "it said: hung up");
    assert!(!a.net.send(&b.peer, b"two".as_slice().into()));
    assert_eq!(a.net.stats().frames_dropped, 1);
    a.net.dial(b.address(), None);
    assert_eq!(a.up().await.0, b.peer);
}

#[tokio::test]
async fn whoever_answers_is_accepted_only_if_no_other_key_is_expected() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    a.net.dial(b.address(), Some(Key::of_secret(&[3; 32]).id()));
    let reason = a.dial_failed().await;
    assert!(reason.contains(&format!("peer {} answers there, not", b.peer.short())), "{reason}");
    assert!(b.has_no_news());
    a.net.dial(b.address(), None);
    assert_eq!(a.up().await.0, b.peer);
    assert_eq!(b.up().await.0, a.peer);
}

#[tokio::test]
async fn a_neighbour_is_not_dialled_twice() {
    let (mut a, mut b) = neighbours(1, 2).await;
    for expect in [None, Some(b.peer)] {
        a.net.dial(b.address(), expect);
        assert!(a.dial_failed().await.ends_with("is a neighbour already"));
        b.net.dial(a.address(), expect.map(|_| a.peer));
        assert!(b.dial_failed().await.ends_with("is a neighbour already"));
    }
    assert!(a.net.send(&b.peer, b"still".as_slice().into()));
    assert_eq!(b.frame().await, b"still");
}

#[tokio::test]
async fn a_frame_longer_than_allowed_ends_the_connection() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    let (connection, mut stream) = raw_neighbour(&a, &b).await;
    let length = u32::try_from(Message::BYTES_MAX + 1).unwrap();
    stream.write_all(&length.to_le_bytes()).await.unwrap();
    assert_eq!(b.up().await.0, a.peer);
    assert!(b.down().await.contains("is longer than the 524288 allowed"));
    let error = within(connection.closed()).await.to_string();
    assert!(error.contains("is longer than"), "{error}");
    assert!(!a.net.send(&b.peer, vec![0; Message::BYTES_MAX + 1].into()));
    assert!(a.has_no_news());
}

#[tokio::test]
async fn a_neighbour_that_never_reads_harms_nobody_else() {
    let (mut a, mut b) = neighbours(1, 2).await;
    let frozen = Node::start(3);
    let _held = raw_neighbour(&frozen, &a).await;
    assert_eq!(a.up().await.0, frozen.peer);
    let frame: Arc<[u8]> = vec![1; 100_000].into();
    let mut queued = 0;
    // Until all windows and its queue are full.
    until(|| {
        let taken = a.net.send(&frozen.peer, frame.clone());
        queued += usize::from(taken);
        !taken && queued > 25
    })
    .await;
    assert!(queued * frame.len() < 10 << 20, "{queued}");
    for _ in 0..20 {
        assert!(a.net.send(&b.peer, frame.clone()));
        assert_eq!(b.frame().await, *frame);
    }
    assert!(b.net.send(&a.peer, b"well".as_slice().into()));
    assert_eq!(a.frame().await, b"well");
}

#[tokio::test]
async fn a_neighbour_that_never_reads_is_dropped_in_the_end() {
    let limits = NetLimits { frame_timeout: Duration::from_millis(200), ..NetLimits::default() };
    let (mut a, b) = (Node::with(1, limits, Shelf::default()), Node::start(2));
    let _held = raw_neighbour(&b, &a).await;
    assert_eq!(a.up().await.0, b.peer);
    until(|| !a.net.send(&b.peer, vec![0; 100_000].into())).await;
    assert_eq!(a.down().await, "it has stopped reading");
}

#[tokio::test]
async fn of_a_simultaneous_dial_one_connection_stays() {
    for round in 0..30 {
        let (first, second) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        let (mut a, mut b) = (Node::start(first), Node::start(second));
        a.net.dial(b.address(), Some(b.peer).filter(|_| round % 3 == 0));
        b.net.dial(a.address(), Some(a.peer).filter(|_| round % 5 == 0));
        let (a_up, b_up) = (a.up().await, b.up().await);
        assert_eq!((a_up.0, b_up.0), (b.peer, a.peer));
        assert_ne!(a_up.2, b_up.2, "both on the same connection");
        until(|| a.net.0.0.endpoint.open_connections() == 1).await;
        until(|| b.net.0.0.endpoint.open_connections() == 1).await;
        assert!(a.net.send(&b.peer, b"to b".as_slice().into()));
        assert!(b.net.send(&a.peer, b"to a".as_slice().into()));
        assert_eq!(a.frame().await, b"to a");
        assert_eq!(b.frame().await, b"to b");
        assert!(a.has_no_news() && b.has_no_news());
    }
}

#[tokio::test]
async fn a_neighbour_that_was_killed_and_restarted_is_recognised_at_once() {
    let mut a = Node::start(1);
    let (address, (listening, listens)) = (a.address(), blocking::channel());
    let (kill, killed) = blocking::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let b = runtime.block_on(async { Node::start(2) });
        runtime.block_on(async { b.net.dial(address, None) });
        listening.send(b.address()).unwrap();
        let _ = killed.recv();
        // Its tasks are gone before anything is closed, so that it has no chance to say goodbye.
        drop(runtime);
    });
    let b_address = listens.recv().unwrap();
    assert_eq!(a.up().await.1, b_address);
    drop(kill);
    thread.join().unwrap();
    let mut again = None;
    until(|| match Node::at(b_address, 2, Grid::Private, NetLimits::default(), Shelf::default()) {
        Ok(node) => {
            again = Some(node);
            true
        }
        Err(BindError::Listen(_, error)) => {
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            false
        }
        Err(other) => panic!("{other}"),
    })
    .await;
    let mut again = again.unwrap();
    let began = Instant::now();
    assert!(a.net.send(&again.peer, b"are you there?".as_slice().into()));
    assert_eq!(a.down().await, "it was restarted");
    assert!(began.elapsed() < Duration::from_secs(10));
    again.net.dial(a.address(), Some(a.peer));
    assert_eq!(again.up().await.0, a.peer);
    assert_eq!(a.up().await.0, again.peer);
}

#[tokio::test]
async fn a_neighbour_that_dials_anew_is_announced_anew() {
    let (mut a, b) = (Node::start(1), Node::start(2));
    let mut connections = Vec::new();
    for round in 0..3 {
        connections.push(raw_neighbour(&b, &a).await);
        if round > 0 {
            assert_eq!(a.down().await, "it has connected anew");
        }
        assert_eq!(a.up().await.0, b.peer);
    }
    until(|| a.net.0.0.endpoint.open_connections() == 1).await;
    assert!(a.has_no_news());
}

#[tokio::test]
async fn what_is_queued_when_a_node_stops_still_arrives() {
    let (a, mut b) = neighbours(1, 2).await;
    for place in 0..100_u32 {
        assert!(a.net.send(&b.peer, vec![u8::try_from(place).unwrap(); 10_000].into()));
    }
    let began = Instant::now();
    let (sender, frames) = (a.net.clone(), async {
        for place in 0..100 {
            assert_eq!(b.frame().await[0], place);
        }
        b.down().await
    });
    let ((), reason) = tokio::join!(sender.close(), frames);
    assert_eq!(reason, "it has left");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_node_that_stops_tells_of_its_own_neighbours_too() {
    let (mut a, mut b) = neighbours(1, 2).await;
    within(a.net.close()).await;
    a.down().await;
    b.down().await;
    assert!(a.net.stats().neighbours.is_empty());
    b.net.dial(a.address(), None);
    b.dial_failed().await;
}

#[tokio::test]
async fn a_port_in_use_is_said_plainly() {
    let a = Node::start(1);
    let (key, (sender, _events)) = (Key::of_secret(&[2; 32]), mpsc::channel(1));
    let refused = Net::bind(&key, a.address(), sender, Arc::new(Shelf::default()), Grid::Private);
    let text = refused.unwrap_err().to_string();
    let expected = format!(
        "cannot listen on {}: address already in use; is another node running? choose another with \
         --listen",
        a.address()
    );
    assert_eq!(text, expected);
}

#[tokio::test]
async fn a_dial_to_nobody_fails_in_bounded_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut a = Node::with(1, impatient(), Shelf::default());
    let began = Instant::now();
    a.net.dial(silent.local_addr().unwrap(), None);
    assert_eq!(a.dial_failed().await, "no answer within 0.3 s");
    assert!(began.elapsed() < Duration::from_secs(5));
    a.net.dial("[2001:db8::1]:1".parse().unwrap(), None);
    let reason = a.dial_failed().await;
    assert!(reason.starts_with("it can't be dialled from here"), "{reason}");
}

#[tokio::test]
async fn our_own_address_is_not_dialled() {
    let mut a = Node::start(1);
    for expect in [None, Some(a.peer), Some(Key::of_secret(&[2; 32]).id())] {
        a.net.dial(a.address(), expect);
        assert_eq!(a.dial_failed().await, "this is our own address");
    }
    until(|| a.net.0.0.endpoint.open_connections() == 0).await;
    assert!(a.has_no_news());
}

#[tokio::test]
async fn too_many_dials_and_too_many_callers_are_told_so() {
    let limits = NetLimits { dials_max: 0, inbound_max: 1, ..NetLimits::default() };
    let mut full = Node::with(1, limits, Shelf::default());
    full.net.dial("127.0.0.1:1".parse().unwrap(), None);
    assert!(full.dial_failed().await.starts_with("more than 0 dials at once"));
    let (mut b, mut c) = (Node::start(2), Node::start(3));
    b.net.dial(full.address(), None);
    b.up().await;
    c.net.dial(full.address(), None);
    assert_eq!(c.dial_failed().await, "it takes no more connections now");
    assert_eq!(full.net.stats().refused, 1);
    b.net.hang_up(&full.peer);
    until(|| full.net.stats().neighbours.is_empty()).await;
    until(|| full.net.0.0.endpoint.open_connections() == 0).await;
    c.net.dial(full.address(), None);
    c.up().await;
}

#[tokio::test]
async fn a_crowd_of_handshakes_must_show_where_it_is_and_then_comes_in() {
    let limits = NetLimits { handshakes_free_max: 0, ..NetLimits::default() };
    let (mut a, mut b) = (Node::with(1, limits, Shelf::default()), Node::start(2));
    b.net.dial(a.address(), None);
    b.up().await;
    a.up().await;
}

#[tokio::test]
async fn a_socket_for_both_kinds_of_address_shows_each_as_it_is() {
    let Ok(mut both) = Node::at(
        "[::]:0".parse().unwrap(),
        1,
        Grid::Private,
        NetLimits::default(),
        Shelf::default(),
    ) else {
        return; // No IPv6 on this machine.
    };
    let mut a = Node::start(2);
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), both.address().port());
    a.net.dial(address, None);
    assert_eq!(both.up().await.1, a.address());
    assert_eq!(a.up().await.1, address);
    both.net.hang_up(&a.peer);
    both.down().await;
    both.net.dial(a.address(), None);
    assert_eq!(both.up().await.1, a.address());
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

#[tokio::test]
async fn a_large_blob_comes_from_a_neighbour_and_from_a_stranger() {
    let blob = noise(20 << 20);
    let wanted = Wanted::Blob(BlobId::of(&blob));
    let body = Wanted::Body(BlobId::of(&blob).result_hash());
    let mut shelf = Shelf::with(&[&blob]);
    shelf.0.insert(body, blob.clone());
    let (mut a, mut b) = (Node::start(1), Node::with(2, NetLimits::default(), shelf));
    let most = blob.len() as u64;
    let fetched = within(a.net.fetch(wanted, &[b.source()], most)).await.unwrap();
    assert!(fetched == blob);
    assert!(a.has_no_news() && b.has_no_news(), "a stranger does not become a neighbour");
    assert_eq!(a.net.stats().blob_bytes_received, most);
    a.net.dial(b.address(), None);
    a.up().await;
    let known = Source { peer: b.peer, addresses: vec![] };
    let fetched = within(a.net.fetch(body, &[known], most)).await.unwrap();
    assert!(fetched == blob);
    assert_eq!(b.net.stats().blob_bytes_sent, 2 * most);
    let error = within(a.net.fetch(wanted, &[b.source()], most - 1)).await.unwrap_err();
    let too_long = FetchFault::TooLong { bytes: most, bytes_max: most - 1 };
    assert_eq!(error.faults, [(b.peer, too_long)]);
}

#[tokio::test]
async fn a_liar_is_named_and_the_next_source_is_asked() {
    let truth = b"the truth".to_vec();
    let wanted = Wanted::Blob(BlobId::of(&truth));
    let lie = Shelf(BTreeMap::from([(wanted, b"a lie".to_vec())]));
    let (a, liar) = (Node::start(1), Node::with(2, NetLimits::default(), lie));
    let honest = Node::with(3, NetLimits::default(), Shelf::with(&[&truth]));
    let error = within(a.net.fetch(wanted, &[liar.source()], 100)).await.unwrap_err();
    assert_eq!(error.faults, [(liar.peer, FetchFault::WrongBytes)]);
    assert!(error.to_string().ends_with("sent other bytes than those asked for"), "{error}");
    let sources = [a.source(), liar.source(), honest.source()];
    assert_eq!(within(a.net.fetch(wanted, &sources, 100)).await, Ok(truth));
}

#[tokio::test]
async fn dead_and_empty_sources_are_passed_over() {
    let blob = b"a blob".to_vec();
    let wanted = Wanted::Blob(BlobId::of(&blob));
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let a = Node::with(1, impatient(), Shelf::default());
    let (empty, good) =
        (Node::start(2), Node::with(3, NetLimits::default(), Shelf::with(&[&blob])));
    let dead = |addresses| Source { peer: Key::of_secret(&[4; 32]).id(), addresses };
    let known = [silent.local_addr().unwrap(), good.address()];
    let sources = [dead(known.to_vec()), dead(vec![]), empty.source(), good.source()];
    let error = within(a.net.fetch(wanted, &sources[..3], 100)).await.unwrap_err();
    let text = error.to_string();
    for part in ["no answer within", "answers there, not", "is not known", "does not have it"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(within(a.net.fetch(wanted, &sources, 100)).await, Ok(blob));
}

#[tokio::test]
async fn a_connection_for_blobs_is_closed_when_idle_and_dialled_anew() {
    let idle = Duration::from_millis(50);
    let limits = NetLimits { blob_idle: idle, greeting_timeout: idle, ..NetLimits::default() };
    let blob = b"a blob".to_vec();
    let wanted = Wanted::Blob(BlobId::of(&blob));
    let a = Node::with(1, limits.clone(), Shelf::default());
    let b = Node::with(2, limits, Shelf::with(&[&blob]));
    for _ in 0..3 {
        assert_eq!(within(a.net.fetch(wanted, &[b.source()], 100)).await.as_ref(), Ok(&blob));
        until(|| a.net.0.0.endpoint.open_connections() == 0).await;
        until(|| b.net.0.0.endpoint.open_connections() == 0).await;
    }
}

#[tokio::test]
async fn one_connection_serves_many_fetches_at_once() {
    let blobs: Vec<Vec<u8>> = (0..40_u8).map(|place| vec![place; 100_000]).collect();
    let shelf = Shelf::with(&blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let (a, b) = (Node::start(1), Node::with(2, NetLimits::default(), shelf));
    let mut fetches = tokio::task::JoinSet::new();
    for blob in blobs {
        let (net, source) = (a.net.clone(), b.source());
        fetches.spawn(async move {
            let wanted = Wanted::Blob(BlobId::of(&blob));
            assert_eq!(net.fetch(wanted, &[source], 100_000).await, Ok(blob));
        });
    }
    within(fetches.join_all()).await;
    until(|| a.net.0.0.endpoint.open_connections() == 1).await;
}

/// A disk that is not ready until it is told to be.
struct Stuck(Mutex<blocking::Receiver<()>>);

impl BlobSource for Stuck {
    fn read(&self, _wanted: &Wanted) -> Option<Vec<u8>> {
        let _ = self.0.lock().unwrap().recv();
        None
    }
}

#[tokio::test]
async fn who_waits_too_long_for_its_turn_is_told_that_the_node_is_busy() {
    let (ready, stuck) = blocking::channel();
    let (a, b) = (Node::start(1), Node::with(2, impatient(), Stuck(Mutex::new(stuck))));
    let wanted = Wanted::Blob(BlobId([1; 32]));
    let error = within(a.net.fetch(wanted, &[b.source()], 100)).await.unwrap_err();
    assert_eq!(error.faults, [(b.peer, FetchFault::Busy)]);
    drop(ready);
    let error = within(a.net.fetch(wanted, &[b.source()], 100)).await.unwrap_err();
    assert_eq!(error.faults, [(b.peer, FetchFault::Missing)]);
}
