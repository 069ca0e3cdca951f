//! Getting what the peer asked for onto the disk.

use potluck_peer::{Need, Source as PeerSource};
use potluck_unit::{BlobId, InputIndex, Outcome};
use tracing::debug;

use crate::net::{Net, Source, Wanted};
use crate::store::{Change, Store};

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
            match net.fetch(want, &from, Outcome::BODY_BYTES_MAX).await {
                Ok(body) => keep_body(&store, &body),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    if let Err(error) = &found {
        debug!(?need, "not fetched: {error}");
    }
    found.is_ok()
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
    let bytes = net.fetch(want, from, bytes_max).await.map_err(|error| error.to_string())?;
    let store = store.clone();
    let kept = tokio::task::spawn_blocking(move || store.put_blob(&bytes)).await;
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

/// Keeps an outcome's body: small ones beside the records, large ones as a blob.
pub(crate) fn keep_body(store: &Store, body: &[u8]) -> Result<(), String> {
    let result = BlobId::of(body).result_hash();
    if Outcome::of_body(body).is_err() {
        return Err("the body is no outcome".to_owned());
    }
    let kept = if body.len() <= Store::BODY_BYTES_MAX {
        store.commit(&[Change::Body { result, bytes: body.to_vec() }])
    } else {
        store.put_blob(body).map(|_| ())
    };
    kept.map_err(|error| error.to_string())
}
