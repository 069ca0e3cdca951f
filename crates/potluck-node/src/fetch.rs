//! Getting what the peer asked for onto the disk.

use potluck_peer::{Need, Source as PeerSource};
use potluck_unit::{BlobId, InputIndex, Outcome};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::debug;

use crate::net::{Net, Source, Wanted};
use crate::store::{Change, Room, Store, StoreError};

/// Gets one thing onto the disk, if it is not there yet. Whether it is there now.
pub(crate) async fn fetch(net: Net, store: Store, need: Need, from: Vec<PeerSource>) -> bool {
    let from: Vec<Source> = (from.into_iter())
        .map(|source| Source { peer: source.peer, addresses: source.addresses })
        .collect();
    let found = match need {
        Need::Module { blob, bytes, .. } => {
            blob_here(&net, &store, blob, bytes.into(), &from).await
        }
        Need::Inputs { blob, bytes, .. } => {
            inputs_here(&net, &store, blob, bytes.into(), &from).await
        }
        Need::Body { result, .. } => {
            let want = Wanted::Body(result);
            if store.has(&want) {
                return true;
            }
            body_here(&net, &store, want, &from).await
        }
    };
    if let Err(error) = &found {
        debug!(?need, "not fetched: {error}");
    }
    found.is_ok()
}

async fn body_here(net: &Net, store: &Store, want: Wanted, from: &[Source]) -> Result<(), String> {
    // Before a byte is on its way.
    let room = store.reserve(Outcome::BODY_BYTES_MAX).map_err(|error| error.to_string())?;
    let _weight = weigh(Outcome::BODY_BYTES_MAX).await?;
    let fetched = net.fetch(want, from, Outcome::BODY_BYTES_MAX).await;
    let body = fetched.map_err(|error| error.to_string())?;
    if Outcome::of_body(&body).is_err() {
        return Err("the body is no outcome".to_owned());
    }
    let store = store.clone();
    let kept = tokio::task::spawn_blocking(move || keep_body(&store, &body, Some(room))).await;
    kept.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn blob_here(
    net: &Net,
    store: &Store,
    blob: BlobId,
    bytes_max: u64,
    from: &[Source],
) -> Result<(), String> {
    let want = Wanted::Blob(blob);
    if store.has(&want) {
        return Ok(());
    }
    // Before a byte is on its way.
    let room = store.reserve(bytes_max).map_err(|error| error.to_string())?;
    let _weight = weigh(bytes_max).await?;
    let bytes = net.fetch(want, from, bytes_max).await.map_err(|error| error.to_string())?;
    let store = store.clone();
    let kept = tokio::task::spawn_blocking(move || store.put_blob_in(&bytes, Some(room))).await;
    match kept {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

async fn inputs_here(
    net: &Net,
    store: &Store,
    index: BlobId,
    bytes_max: u64,
    from: &[Source],
) -> Result<(), String> {
    blob_here(net, store, index, bytes_max, from).await?;
    let bytes = store.read(&Wanted::Blob(index)).ok_or("the input index vanished from disk")?;
    let index = InputIndex::of_blob(&bytes).map_err(|error| error.to_string())?;
    for page in index.pages() {
        blob_here(net, store, page.id, page.bytes.into(), from).await?;
    }
    Ok(())
}

/// Keeps an outcome's body: small ones beside the records, large ones as a blob, in `room` if there
/// is some.
pub(crate) fn keep_body(store: &Store, body: &[u8], room: Option<Room>) -> Result<(), StoreError> {
    if body.len() <= Store::BODY_BYTES_MAX {
        let result = BlobId::of(body).result_hash();
        return store.commit(&[Change::Body { result, bytes: body.to_vec() }]);
    }
    store.put_blob_in(body, room).map(|_| ())
}

/// Waits until so much may be in memory on its way to the disk beside what is there already.
async fn weigh(bytes: u64) -> Result<SemaphorePermit<'static>, String> {
    let weight = u32::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(u32::MAX);
    let all = ON_THE_WAY.acquire_many(weight.min(ON_THE_WAY_MAX)).await;
    all.map_err(|error| error.to_string())
}

/// Bounds what all fetches of this process hold in memory. One alone may be the largest body.
static ON_THE_WAY: Semaphore = Semaphore::const_new(ON_THE_WAY_MAX as usize);
/// 64 MiB in grains.
const ON_THE_WAY_MAX: u32 = 1024;
const GRAIN_BYTES: u64 = 64 << 10;
