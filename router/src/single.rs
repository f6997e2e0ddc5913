//! Requests that one worker can answer: the model list and the tokenizer.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};

use crate::answer::{self, Answer};
use crate::call::Call;
use crate::failure::{Failure, no_worker};
use crate::fleet::Leg;
use crate::intake;
use crate::legs::Pieces;
use crate::retry::{Attempts, Failed};
use crate::routes::Route;
use crate::server::Shared;

/// Passes a request on to a decode worker as it is; to another one if that fails.
pub(crate) async fn pass_on(
    shared: &Arc<Shared>,
    route: Route,
    request: Request<Incoming>,
) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let config = &shared.config;
    let read = intake::read(&head.headers, body, config.max_body_bytes, config.client_timeout);
    let body = match read.await {
        Ok(body) => Pieces::from(body),
        Err(error) => return answer::error(&error),
    };
    let call = Call::new(shared, route, &head.headers);
    let mut attempts = Attempts::new(config.retries);
    loop {
        let Some(slot) = shared.decode.pick(attempts.avoid(Leg::Decode)) else {
            return no_worker(shared, Leg::Decode);
        };
        let worker = slot.worker.clone();
        let failure = match call.relay(slot, body.clone()).await {
            Ok(answer) => return answer,
            Err(cause) => Failure { worker, cause, prefill: None },
        };
        failure.note(shared);
        let kind = failure.cause.kind();
        let failed = Failed { leg: Leg::Decode, kind, worker: failure.worker.index, prefill: None };
        let others =
            |leg, avoid: &[usize]| leg == Leg::Decode && shared.decode.has_other_than(avoid);
        if !attempts.again(failed, others) {
            return failure.into_answer(shared);
        }
        shared.metrics.retried(Leg::Decode);
    }
}
