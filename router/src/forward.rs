//! The life of a completion: prefill leg, decode leg, and again if need be.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response};
use pdlab_api::error::ErrorBody;
use tokio::time::timeout;

use crate::answer::{self, Answer};
use crate::call::Call;
use crate::failure::{Cause, Failure, no_worker};
use crate::fleet::{Leg, Slot};
use crate::intake;
use crate::legs::{ClientBody, Pieces, transfer_params};
use crate::retry::{Attempts, Failed};
use crate::routes::Route;
use crate::server::Shared;

/// Answers a request that takes two legs.
pub(crate) async fn generate(
    shared: &Arc<Shared>,
    route: Route,
    request: Request<Incoming>,
) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let config = &shared.config;
    let read = intake::read(&head.headers, body, config.max_body_bytes, config.client_timeout);
    let body = match read.await {
        Ok(body) => body,
        Err(error) => return answer::error(&error),
    };
    let body = match ClientBody::parse(body) {
        Ok(body) => body,
        Err(error) => return answer::error(&ErrorBody::bad_request(error.to_string())),
    };
    let call = Call::new(shared, route, &head.headers);
    let mut attempts = Attempts::new(config.retries);
    loop {
        let failure = match attempt(shared, &call, &body, &attempts).await {
            Ok(answer) => return answer,
            Err(failure) => failure,
        };
        failure.note(shared);
        let failed = Failed {
            leg: failure.worker.leg,
            kind: failure.cause.kind(),
            worker: failure.worker.index,
            prefill: failure.prefill,
        };
        if !attempts.again(failed, |leg, avoid| shared.fleet(leg).has_other_than(avoid)) {
            return failure.into_answer(shared);
        }
        shared.metrics.retried(failed.leg);
    }
}

/// What prefill made of its leg.
enum Prefilled {
    /// The KV is there, and these parameters say where.
    Done(Bytes),
    /// The request was refused, and decode would refuse it too.
    Refused(Response<Answer>),
}

/// Both legs, once.
async fn attempt(
    shared: &Arc<Shared>,
    call: &Call,
    body: &ClientBody,
    attempts: &Attempts,
) -> Result<Response<Answer>, Failure> {
    // Prefill's work, and the blocks it pins, would be for nothing.
    if !shared.decode.has_other_than(&[]) {
        return Ok(no_worker(shared, Leg::Decode));
    }
    let Some(slot) = shared.prefill.pick(attempts.avoid(Leg::Prefill)) else {
        return Ok(no_worker(shared, Leg::Prefill));
    };
    let prefill = slot.worker.clone();
    let params = match prefill_leg(shared, call, slot, body.prefill_leg()).await {
        Ok(Prefilled::Done(params)) => params,
        Ok(Prefilled::Refused(answer)) => return Ok(answer),
        Err(cause) => {
            let index = Some(prefill.index);
            return Err(Failure { worker: prefill, cause, prefill: index });
        }
    };
    let Some(slot) = shared.decode.pick(attempts.avoid(Leg::Decode)) else {
        return Ok(no_worker(shared, Leg::Decode));
    };
    let worker = slot.worker.clone();
    let relayed = call.relay(slot, body.decode_leg(params)).await;
    relayed.map_err(|cause| Failure { worker, cause, prefill: Some(prefill.index) })
}

async fn prefill_leg(
    shared: &Shared,
    call: &Call,
    slot: Slot,
    body: Pieces,
) -> Result<Prefilled, Cause> {
    let patience = shared.config.prefill_timeout;
    let leg = async {
        let reply = call.send(&slot.worker, body, patience).await?;
        let answer = reply.body.collect(shared.config.max_body_bytes).await?;
        Ok::<_, Cause>((reply.head, answer))
    };
    let (head, answer) = timeout(patience, leg).await.unwrap_or(Err(Cause::TimedOut(patience)))?;
    let status = head.status;
    if status.is_success() {
        return match transfer_params(&answer) {
            Ok(params) => Ok(Prefilled::Done(params)),
            Err(problem) => Err(Cause::garbage(problem, &answer)),
        };
    }
    if !status.is_client_error() && !status.is_server_error() {
        return Err(Cause::garbage(format!("status {status}"), &answer));
    }
    let mut response = Response::new(Answer::whole(answer));
    *response.status_mut() = status;
    *response.headers_mut() = crate::headers::to_client(head.headers);
    if status.is_client_error() {
        Ok(Prefilled::Refused(response))
    } else {
        Err(Cause::Answered(Box::new(response)))
    }
}
