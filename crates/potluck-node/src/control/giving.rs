//! Tells the local user what this node has given, and gives away the proof.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use http_body_util::channel::Channel;
use serde::Deserialize;
use tracing::warn;

use super::Line;
use super::api::RefusedCode;
use super::routes::{Failure, stopping};
use crate::giving::{self, GivenBy, GivenInfo};

/// How to make parts.
#[derive(Deserialize)]
pub(super) struct Parts {
    by: Option<GivenBy>,
}

/// The sums as they are now.
pub(super) async fn given(
    State(line): State<Arc<Line>>,
    Query(parts): Query<Parts>,
) -> Result<Json<GivenInfo>, Failure> {
    let settled = line.ask(|hub| {
        hub.settle_giving();
        (hub.peer().id(), hub.store().clone(), hub.now())
    });
    let (donor, store, now) = settled.await.ok_or_else(stopping)?;
    let info = tokio::task::spawn_blocking(move || {
        store.given().map(|rows| giving::info(donor, &rows, now, parts.by))
    });
    let internal = |error: String| Failure(RefusedCode::Internal, error);
    let info = info.await.map_err(|error| internal(error.to_string()))?;
    info.map(Json).map_err(|error| internal(error.to_string()))
}

/// Everything with its signed records. What is cut off is no JSON, so that it is noticed.
pub(super) async fn export(State(line): State<Arc<Line>>) -> Result<Response, Failure> {
    let settled = line.ask(|hub| {
        hub.settle_giving();
        (hub.peer().id(), hub.store().clone())
    });
    let (donor, store) = settled.await.ok_or_else(stopping)?;
    let (mut pieces, body) = Channel::<Bytes, Infallible>::new(1);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        // Who asked may have gone.
        let piece = |bytes: Vec<u8>| runtime.block_on(pieces.send_data(bytes.into())).is_ok();
        if let Err(error) = giving::export(donor, &store, piece) {
            warn!("{error}; an export of what was given is cut off");
        }
    });
    Ok(Body::new(body).into_response())
}
