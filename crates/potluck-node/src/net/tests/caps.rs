//! Caps on real sockets in stopped time: when nothing is left to do, the clock jumps to the next
//! timer, so a busy machine changes nothing.

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn up(rate: u64) -> Rates {
    Rates { upload_per_s: Some(rate), download_per_s: None }
}

fn down(rate: u64) -> Rates {
    Rates { upload_per_s: None, download_per_s: Some(rate) }
}

/// Different bytes for each number.
fn blob(number: u8, bytes: u64) -> Vec<u8> {
    let mut blob = noise(usize::try_from(bytes).unwrap());
    blob[0] = number;
    blob
}

fn shelf(blobs: &[Vec<u8>]) -> Shelf {
    Shelf::with(&blobs.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Fetches a blob in the background.
fn fetching(fetches: &mut JoinSet<()>, from: &Node, to: &Node, blob: &[u8]) {
    let (net, source, wanted) = (to.net.clone(), from.source(), Wanted::Blob(BlobId::of(blob)));
    let bytes = blob.len() as u64;
    fetches.spawn(async move {
        assert_eq!(net.fetch(wanted, &[source], bytes).await.unwrap().len() as u64, bytes);
    });
}

/// What moves through a node's socket in each tenth of a second.
async fn tenths(node: &Node, tenths: usize) -> Vec<Moved> {
    let mut moved = Vec::new();
    for _ in 0..tenths {
        let before = node.net.meter().moved();
        sleep(Duration::from_millis(100)).await;
        let after = node.net.meter().moved();
        let (sent, received) = (after.sent - before.sent, after.received - before.received);
        moved.push(Moved { sent, received });
    }
    moved
}

/// Checks both promises on bytes per tenth of a second, and that the cap was used.
#[track_caller]
fn keeps_to(rate: u64, what: &str, tenths: &[u64]) {
    for (window, most) in [(10, 1.25), (100, 1.02)] {
        for place in tenths.windows(window) {
            let (sum, cap) = (place.iter().sum::<u64>(), rate * window as u64 / 10);
            assert!(sum as f64 <= cap as f64 * most, "{what}: {sum} of {cap} in {window} tenths");
        }
    }
    let mean = tenths.iter().sum::<u64>() * 10 / tenths.len() as u64;
    assert!(mean > rate * 9 / 10, "{what}: {mean} of {rate}");
}

#[tokio::test(start_paused = true)]
async fn what_leaves_keeps_to_its_cap_and_uses_it() {
    for rate in [100 * KIB, MIB] {
        for others in [1, 3] {
            let blobs: Vec<Vec<u8>> = (0..others).map(|n| blob(n, rate * 12)).collect();
            let a = Node::with(1, NetLimits::default(), shelf(&blobs));
            a.net.set_rates(up(rate));
            let nodes: Vec<Node> = (0..others).map(|n| Node::start(n + 2)).collect();
            let mut fetches = JoinSet::new();
            for (node, blob) in nodes.iter().zip(&blobs) {
                fetching(&mut fetches, &a, node, blob);
            }
            let sent: Vec<u64> = tenths(&a, 120).await.iter().map(|moved| moved.sent).collect();
            keeps_to(rate, &format!("{rate} to {others}"), &sent);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrives_keeps_to_its_cap_and_uses_it() {
    for rate in [100 * KIB, MIB] {
        for others in [1, 3] {
            let blobs: Vec<Vec<u8>> = (0..others).map(|n| blob(n, rate * 12)).collect();
            let a = Node::start(1);
            a.net.set_rates(down(rate));
            let shelves = blobs.iter().map(|blob| shelf(std::slice::from_ref(blob)));
            let node = |(shelf, seed)| Node::with(seed, NetLimits::default(), shelf);
            let nodes: Vec<Node> = shelves.zip(2..).map(node).collect();
            let mut fetches = JoinSet::new();
            for (node, blob) in nodes.iter().zip(&blobs) {
                fetching(&mut fetches, node, &a, blob);
            }
            let moved = tenths(&a, 120).await;
            let received: Vec<u64> = moved.iter().map(|moved| moved.received).collect();
            keeps_to(rate, &format!("{rate} from {others}"), &received);
        }
    }
}

/// Connects the first with each of the others, as neighbours.
async fn introduce(first: &mut Node, others: &mut [Node]) {
    for other in others {
        first.net.dial(other.address(), Some(other.peer));
        first.up().await;
        other.up().await;
    }
}

/// The longest that a frame of so many bytes takes to a neighbour, of ten that are sent now and then.
async fn slowest_frame(from: &Node, to: &mut Node, bytes: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        sleep(Duration::from_millis(537)).await;
        let sent = tokio::time::Instant::now();
        assert!(from.net.send(&to.peer, vec![7; bytes].into()));
        to.frame().await;
        slowest = slowest.max(sent.elapsed());
    }
    slowest
}

/// Blobs alone would take all there is. Were they not to wait for room, a small frame would take
/// 0.15 s here, and a large one would share the cap with seven connections.
#[tokio::test(start_paused = true)]
async fn gossip_passes_blobs_that_would_use_up_the_cap() {
    let rate = 256 * KIB;
    let blobs: Vec<Vec<u8>> = (0..8).map(|n| blob(n, 4 * MIB)).collect();
    let mut a = Node::with(1, NetLimits::default(), shelf(&blobs));
    a.net.set_rates(up(rate));
    let mut others: Vec<Node> = (2..8).map(Node::start).collect();
    introduce(&mut a, &mut others).await;
    let mut fetches = JoinSet::new();
    for (place, blob) in blobs.iter().enumerate() {
        fetching(&mut fetches, &a, &others[place % others.len()], blob);
    }
    sleep(Duration::from_secs(2)).await;
    let (began, before) = (tokio::time::Instant::now(), a.net.meter().moved().sent);
    let small = slowest_frame(&a, &mut others[0], 300).await;
    let large = slowest_frame(&a, &mut others[1], 32 << 10).await;
    let rate_used = (a.net.meter().moved().sent - before) as f64 / began.elapsed().as_secs_f64();
    assert!(small < Duration::from_millis(50), "{small:?}");
    // Alone at the whole rate it would take an eighth of a second.
    assert!(large < Duration::from_millis(200), "{large:?}");
    assert!(rate_used > 0.9 * rate as f64, "the cap was not what made anybody wait: {rate_used}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_wants_more_at_once_gets_no_more_than_another() {
    let blobs: Vec<Vec<u8>> = (0..5).map(|n| blob(n, 4 * MIB)).collect();
    let a = Node::with(1, NetLimits::default(), shelf(&blobs));
    a.net.set_rates(up(512 * KIB));
    let (greedy, modest) = (Node::start(2), Node::start(3));
    let mut fetches = JoinSet::new();
    blobs[..4].iter().for_each(|blob| fetching(&mut fetches, &a, &greedy, blob));
    fetching(&mut fetches, &a, &modest, &blobs[4]);
    sleep(Duration::from_secs(10)).await;
    let got = |node: &Node| node.net.stats().blob_bytes_received as f64;
    let ratio = got(&greedy) / got(&modest);
    assert!(got(&modest) > 2e6 && (0.8..1.25).contains(&ratio), "{ratio}");
}

#[tokio::test(start_paused = true)]
async fn another_cap_holds_at_once_and_nobody_is_disconnected() {
    let blobs = [blob(0, 20 * MIB), blob(1, 20 * MIB)];
    let node =
        |seed, blob| Node::with(seed, NetLimits::default(), shelf(std::slice::from_ref(blob)));
    let mut nodes = [node(1, &blobs[0]), node(2, &blobs[1])];
    let [a, b] = &mut nodes;
    introduce(a, std::slice::from_mut(b)).await;
    a.net.set_rates(Rates { upload_per_s: Some(MIB), download_per_s: Some(MIB) });
    let mut fetches = JoinSet::new();
    fetching(&mut fetches, a, b, &blobs[0]);
    fetching(&mut fetches, b, a, &blobs[1]);
    for rate in [MIB, 200 * KIB, 2 * MIB] {
        a.net.set_rates(Rates { upload_per_s: Some(rate), download_per_s: Some(rate) });
        let moved = tenths(a, 50).await;
        for direction in [|moved: &Moved| moved.sent, |moved: &Moved| moved.received] {
            let bytes: Vec<u64> = moved.iter().map(direction).collect();
            keeps_to(rate, &format!("{rate} of several"), &bytes);
        }
    }
    a.net.set_rates(Rates::default());
    // Without a cap there is always something to do, and stopped time would stand still.
    tokio::time::resume();
    within(fetches.join_all()).await;
    assert!(a.has_no_news() && b.has_no_news());
}

#[tokio::test(start_paused = true)]
async fn who_sends_without_being_asked_is_slowed_down() {
    for rate in [100 * KIB, MIB] {
        let blob = blob(0, rate * 14);
        let (a, b) = (
            Node::start(1),
            Node::with(2, NetLimits::default(), shelf(std::slice::from_ref(&blob))),
        );
        a.net.set_rates(down(rate));
        // A request that ends at once: who asks like this takes all as fast as it comes.
        let connection = connection(&a, &b).await;
        let (mut outbox, mut inbox) = connection.open_bi().await.unwrap();
        let request = [&[1], BlobId::of(&blob).as_bytes().as_slice()].concat();
        outbox.write_all(&request).await.unwrap();
        outbox.finish().unwrap();
        let reading = tokio::spawn(async move {
            while inbox.read_chunk(1 << 20, true).await.is_ok_and(|chunk| chunk.is_some()) {}
        });
        let received: Vec<u64> = tenths(&a, 120).await.iter().map(|moved| moved.received).collect();
        keeps_to(rate, &format!("{rate} unasked"), &received);
        reading.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_network_is_shut_says_why_falls_silent_and_comes_back() {
    let blob = blob(0, MIB);
    let mut a = Node::with(1, NetLimits::default(), shelf(std::slice::from_ref(&blob)));
    let mut others = [Node::with(2, NetLimits::default(), Shelf::default())];
    introduce(&mut a, &mut others).await;
    let [b] = &mut others;
    a.net.set_shut(Some("its traffic quota is used up"));
    a.down().await;
    assert_eq!(b.down().await, "it said: its traffic quota is used up");
    sleep(Duration::from_secs(1)).await;
    let quiet = a.net.meter().moved();
    b.net.dial(a.address(), Some(a.peer));
    b.dial_failed().await;
    a.net.dial(b.address(), Some(b.peer));
    let reason = a.dial_failed().await;
    assert!(reason.ends_with("its traffic quota is used up"), "{reason}");
    let wanted = Wanted::Blob(BlobId::of(&blob));
    let error = b.net.fetch(wanted, &[a.source()], MIB).await.unwrap_err();
    assert!(matches!(error.faults[..], [(_, FetchFault::Unreachable(_))]), "{error}");
    let after = a.net.meter().moved();
    assert_eq!(after.sent, quiet.sent, "a node that is shut sends nothing");
    assert!(after.received > quiet.received, "what arrives is counted all the same");
    a.net.set_shut(None);
    b.net.dial(a.address(), Some(a.peer));
    assert_eq!((b.up().await.0, a.up().await.0), (a.peer, b.peer));
    assert_eq!(b.net.fetch(wanted, &[a.source()], MIB).await, Ok(blob));
}
