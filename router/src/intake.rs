//! Reads a client's body within its limit.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use pdlab_api::error::ErrorBody;
use std::future::poll_fn;
use tokio::time::timeout;

/// How much of a body that is too large is still read, in bytes. A client that is cut off while it
/// sends may never see why, so it is let finish as long as that is cheap.
const DISCARD_BYTES: u64 = 64 << 20;

/// All of a body, or the error to answer with.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Incoming,
    max_bytes: usize,
    patience: Duration,
) -> Result<Bytes, ErrorBody> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|len| len > max_bytes as u64) {
        // Who asks before sending has not begun to send.
        if !headers.contains_key(EXPECT) {
            discard(&mut body, patience).await;
        }
        return Err(too_large(max_bytes));
    }
    let Some(first) = next(&mut body, patience).await? else { return Ok(Bytes::new()) };
    if announced == Some(first.len() as u64) {
        return Ok(first);
    }
    let expected = announced.unwrap_or(first.len() as u64) as usize;
    let mut all = BytesMut::with_capacity(expected);
    let mut data = Some(first);
    while let Some(bytes) = data {
        if all.len() + bytes.len() > max_bytes {
            discard(&mut body, patience).await;
            return Err(too_large(max_bytes));
        }
        all.extend_from_slice(&bytes);
        data = next(&mut body, patience).await?;
    }
    Ok(all.freeze())
}

fn too_large(max_bytes: usize) -> ErrorBody {
    ErrorBody::too_large(format!(
        "the request body is larger than {max_bytes} bytes; send less, or raise the router's \
         max_body_bytes"
    ))
}

async fn next(body: &mut Incoming, patience: Duration) -> Result<Option<Bytes>, ErrorBody> {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        let frame = timeout(patience, frame).await.map_err(|_| {
            let message = format!("the request body stopped coming for {patience:?}");
            ErrorBody::new(408, "RequestTimeoutError", message)
        })?;
        match frame {
            None => return Ok(None),
            // Trailers say nothing to us.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                let message = format!("the request body cannot be read: {error}");
                return Err(ErrorBody::bad_request(message));
            }
        }
    }
}

async fn discard(body: &mut Incoming, patience: Duration) {
    let mut left = DISCARD_BYTES;
    while let Ok(Some(data)) = next(body, patience).await {
        let Some(rest) = left.checked_sub(data.len() as u64) else { return };
        left = rest;
    }
}
