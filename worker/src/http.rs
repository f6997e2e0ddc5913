//! The HTTP surface of a worker: vLLM's routes, bodies and statuses.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use pdlab_api::error::ErrorBody;
use pdlab_api::openai::{
    DetokenizeRequest, DetokenizeResponse, ModelCard, ModelList, TokenizeRequest, TokenizeResponse,
};
use pdlab_api::ready::Role;
use pdlab_api::snapshot::{AddressRange, Regions};
use pdlab_api::tokenizer;
use pdlab_engine::{NewRequest, RequestId};
use pdlab_transport::Agent;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::unbounded_channel;

use crate::connector::Observer;
use crate::dialect::{DONE, Dialect, Writer, event};
use crate::engine_loop::{Command, EngineHandle};
use crate::generation::{Generation, Piece};
use crate::intake::{self, Intake, Limits, Refused};
use crate::job::{AbortGuard, Job, Problem};
use crate::metrics::Metrics;
use crate::shared::Shared;

/// What every handler needs.
pub(crate) struct Front {
    pub(crate) role: Role,
    pub(crate) limits: Limits,
    pub(crate) model_root: String,
    pub(crate) max_body_bytes: usize,
    pub(crate) engine: EngineHandle,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) agent: Agent,
    pub(crate) kv_pool: AddressRange,
    pub(crate) next_id: AtomicU64,
    /// Unix time in seconds.
    pub(crate) created: u64,
}

type Shop = State<Arc<Front>>;

pub(crate) fn routes(front: Arc<Front>) -> Router {
    let limit = DefaultBodyLimit::max(front.max_body_bytes);
    Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/health", get(health))
        .route("/ping", get(health).post(health))
        .route("/version", get(version))
        .route("/load", get(load))
        .route("/metrics", get(metrics))
        .route("/pdlab/snapshot", get(snapshot))
        .route("/pdlab/regions", get(regions))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(limit)
        .with_state(front)
}

/// An error as a response.
pub struct ApiError(pub ErrorBody);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.error.code);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/json")], self.0.to_json()).into_response()
    }
}

async fn completions(
    front: Shop,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let arrived = Instant::now();
    let taken = parse(&front, &headers, body)
        .map_err(ApiError)
        .and_then(|request| accept(&front, intake::completion(request, &front.limits)));
    answer(&front, Dialect::Completion, &headers, arrived, taken).await
}

async fn chat(front: Shop, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let arrived = Instant::now();
    let taken = parse(&front, &headers, body)
        .map_err(ApiError)
        .and_then(|request| accept(&front, intake::chat(request, &front.limits)));
    answer(&front, Dialect::Chat, &headers, arrived, taken).await
}

/// Reads a JSON body within the size limit.
fn parse<T: DeserializeOwned>(
    front: &Front,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, ErrorBody> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ErrorBody::too_large(format!(
            "the body is larger than {} bytes: send less or raise --max-body-bytes",
            front.max_body_bytes
        )),
        _ => ErrorBody::bad_request(format!("the body could not be read: {rejection}")),
    })?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !kind.is_empty() && !kind.to_ascii_lowercase().starts_with("application/json") {
        let message = format!("Content-Type is `{kind}`: send application/json");
        return Err(ErrorBody::new(400, "Bad Request", message));
    }
    serde_json::from_slice(&body).map_err(|e| {
        ErrorBody::new(400, "Bad Request", format!("the body is not a valid request: {e}"))
    })
}

/// A refused pull is declined, so that prefill does not hold its blocks until the lease ends.
fn accept(front: &Front, taken: Result<Intake, Refused>) -> Result<Intake, ApiError> {
    taken.map_err(|Refused { error, pull }| {
        if let Some(pull) = pull {
            front.engine.send(Command::Decline(*pull));
        }
        ApiError(error)
    })
}

async fn answer(
    front: &Arc<Front>,
    dialect: Dialect,
    headers: &HeaderMap,
    arrived: Instant,
    taken: Result<Intake, ApiError>,
) -> Response {
    let in_flight = InFlight::new(front.shared.clone());
    let intake = match taken {
        Ok(intake) => intake,
        Err(error) => return error.into_response(),
    };
    let id = wire_id(dialect, headers);
    let (generation, writer) = match start(front, dialect, &id, arrived, &intake) {
        Ok(started) => started,
        Err(error) => return ApiError(error).into_response(),
    };
    let served = if intake.stream {
        streamed(generation, writer, in_flight).await
    } else {
        whole(generation, writer, in_flight).await
    };
    served.unwrap_or_else(|problem| ApiError(explain(problem)).into_response())
}

/// vLLM's id: the caller's where there is one.
fn wire_id(dialect: Dialect, headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let id = given.map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned);
    match dialect {
        Dialect::Completion => format!("cmpl-{id}"),
        Dialect::Chat => format!("chatcmpl-{id}"),
    }
}

fn start(
    front: &Front,
    dialect: Dialect,
    id: &str,
    arrived: Instant,
    intake: &Intake,
) -> Result<(Generation, Writer), ErrorBody> {
    let number = RequestId(front.next_id.fetch_add(1, Ordering::Relaxed));
    // The suffix keeps ids apart when a client sends the same X-Request-Id twice.
    let suffix = rand::random::<u32>();
    let wire_id = match dialect {
        Dialect::Completion => format!("{id}-0-{suffix:08x}"),
        Dialect::Chat => format!("{id}-{suffix:08x}"),
    };
    let (outputs, received) = unbounded_channel();
    let job = Job {
        request: NewRequest {
            id: number,
            tokens: intake.tokens.clone(),
            max_tokens: intake.max_tokens,
            min_tokens: intake.min_tokens,
            ignore_eos: intake.ignore_eos,
            stop_token_ids: intake.stop_token_ids.clone(),
            kv: intake.kv,
        },
        wire_id,
        pull: intake.pull.clone(),
        timings: intake.timings,
        arrived,
        outputs,
    };
    if !front.engine.send(Command::Add(Box::new(job))) {
        return Err(ErrorBody::internal("the engine has died: restart this worker"));
    }
    let guard = AbortGuard::new(number, front.engine.sender());
    let created = unix_seconds();
    let model = front.limits.model_name.clone();
    let writer = Writer::new(dialect, id.to_owned(), created, model, intake);
    Ok((Generation::new(received, guard, intake), writer))
}

async fn whole(
    mut generation: Generation,
    writer: Writer,
    _in_flight: InFlight,
) -> Result<Response, Problem> {
    let (mut text, mut token_ids) = (String::new(), Vec::new());
    loop {
        let piece = generation.next().await.unwrap_or(Err(Problem::Shutdown))?;
        text.push_str(&piece.text);
        token_ids.extend(piece.token_ids);
        if let Some(end) = piece.end {
            let body = writer.whole(text, token_ids, generation.completion_tokens, end);
            return Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response());
        }
    }
}

/// Waits for the first piece before it commits to a status: a request that fails before its first
/// token is a plain error, which a router can retry, and not a 200 with an error inside.
async fn streamed(
    mut generation: Generation,
    writer: Writer,
    in_flight: InFlight,
) -> Result<Response, Problem> {
    let first = generation.next().await.unwrap_or(Err(Problem::Shutdown))?;
    let stream = Stream { generation, writer, first: Some(first), _in_flight: in_flight };
    let events = stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, Infallible>(bytes), stream))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// Dropping it, when the client goes away, aborts the request.
struct Stream {
    generation: Generation,
    writer: Writer,
    first: Option<Piece>,
    _in_flight: InFlight,
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        let piece = match self.first.take() {
            Some(first) => Ok(first),
            None => self.generation.next().await?,
        };
        Some(match piece {
            Ok(piece) => self.writer.events(piece, self.generation.completion_tokens),
            Err(problem) => {
                let mut out = Vec::new();
                event(&mut out, &explain(problem));
                out.extend_from_slice(DONE);
                out.into()
            }
        })
    }
}

fn explain(problem: Problem) -> ErrorBody {
    match problem {
        Problem::Refused(why) => ErrorBody::bad_request(why),
        Problem::Busy(why) => ErrorBody::unavailable(why),
        Problem::Load(why) => {
            ErrorBody::internal(format!("the KV could not be loaded from prefill: {why}"))
        }
        Problem::Shutdown => ErrorBody::unavailable("this worker is shutting down: try another"),
    }
}

/// Counts a request from its arrival until its last byte is handed over or it is dropped.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: Arc<Shared>) -> Self {
        shared.http_in_flight.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.http_in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn models(State(front): Shop) -> Response {
    let id = front.limits.model_name.clone();
    let permission = serde_json::json!({
        "id": format!("modelperm-{id}"),
        "object": "model_permission",
        "created": front.created,
        "allow_sampling": true,
        "allow_logprobs": false,
        "allow_view": true,
        "organization": "*",
        "group": null,
        "is_blocking": false,
    });
    let card = ModelCard {
        id,
        object: "model".into(),
        created: front.created,
        owned_by: "vllm".into(),
        root: front.model_root.clone(),
        parent: None,
        max_model_len: front.limits.max_model_len as u64,
        permission: vec![permission],
    };
    axum::Json(ModelList { object: "list".into(), data: vec![card] }).into_response()
}

async fn tokenize(
    front: Shop,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let request: TokenizeRequest = parse(&front, &headers, body).map_err(ApiError)?;
    intake::check_model(request.model.as_deref(), &front.limits).map_err(ApiError)?;
    let tokens = match (&request.prompt, &request.messages) {
        (Some(prompt), None) => tokenizer::encode(prompt),
        (None, Some(messages)) => {
            let generate = request.add_generation_prompt.unwrap_or(true);
            tokenizer::encode_chat(messages, generate).map_err(|part| {
                ApiError(ErrorBody::bad_request(format!(
                    "content parts of type `{part}` are not text"
                )))
            })?
        }
        _ => {
            let message = "send either `prompt` or `messages`";
            return Err(ApiError(ErrorBody::bad_request(message)));
        }
    };
    let token_strs = request.return_token_strs.unwrap_or(false);
    let answer = TokenizeResponse {
        count: tokens.len(),
        max_model_len: front.limits.max_model_len as u64,
        token_strs: token_strs.then(|| tokens.iter().map(|&t| tokenizer::decode(&[t])).collect()),
        tokens,
    };
    Ok(axum::Json(answer).into_response())
}

async fn detokenize(
    front: Shop,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let request: DetokenizeRequest = parse(&front, &headers, body).map_err(ApiError)?;
    intake::check_model(request.model.as_deref(), &front.limits).map_err(ApiError)?;
    let prompt = tokenizer::decode(&request.tokens);
    Ok(axum::Json(DetokenizeResponse { prompt }).into_response())
}

/// 200 while the engine loop takes commands.
async fn health(State(front): Shop) -> StatusCode {
    if front.engine.is_alive() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn version() -> impl IntoResponse {
    axum::Json(serde_json::json!({"version": pdlab_api::VLLM_VERSION}))
}

async fn load(State(front): Shop) -> impl IntoResponse {
    let in_flight = front.shared.http_in_flight.load(Ordering::Relaxed);
    axum::Json(serde_json::json!({"server_load": in_flight}))
}

async fn metrics(State(front): Shop) -> Result<Response, ApiError> {
    let text = front
        .metrics
        .render(&front.shared.stats())
        .map_err(|_| ApiError(ErrorBody::internal("the metrics could not be written")))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn snapshot(State(front): Shop) -> Response {
    let mut snapshot = front.shared.snapshot(front.role, &front.agent);
    snapshot.kv_pool = Some(front.kv_pool);
    front.observer.observe(&mut snapshot);
    axum::Json(snapshot).into_response()
}

async fn regions(State(front): Shop) -> Response {
    let range = |(base, len_bytes)| AddressRange { base, len_bytes };
    let regions = front.agent.regions().into_iter().map(range).collect();
    axum::Json(Regions { regions }).into_response()
}

async fn unknown_route(uri: axum::http::Uri) -> ApiError {
    ApiError(ErrorBody::not_found(format!("there is no route {}", uri.path())))
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError(ErrorBody::new(405, "MethodNotAllowedError", message))
}

/// Unix time in seconds.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
