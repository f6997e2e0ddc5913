//! One request: sent, answered, timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use pdlab_api::openai::ModelList;

use super::connection::Pool;
use super::dataset::prompt::PromptPlan;
use super::payload::Template;
use super::sse::Parser;
use super::stream::{Answer, excerpt};
use super::{Backend, Error, Target};

/// vLLM's request id header; its servers and routers name the request by it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long the server may take to list its models.
const MODELS_TIMEOUT: Duration = Duration::from_secs(10);

/// Most that is read of the body of an error or of a model list, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// A client of one server, ready to send. Shared by all requests of a load.
#[derive(Debug)]
pub(super) struct Client {
    pool: Pool,
    template: Template,
    uri: Uri,
    headers: HeaderMap,
    request_id_prefix: String,
    request_timeout: Duration,
    chat: bool,
    keep_text: bool,
    model: String,
    /// Steps of answers that have come, counted as they come.
    steps: Arc<AtomicU64>,
}

/// What became of one request.
#[derive(Debug)]
pub(super) struct Outcome {
    /// When work on the request began, before a connection was there.
    pub(super) sent_at: Instant,
    /// When all was over.
    pub(super) ended_at: Instant,
    /// What came.
    pub(super) answer: Answer,
}

impl Client {
    /// Finds the server and its model. With `keep_text` answers hold the generated text.
    ///
    /// Fails if nothing answers at the address, or what answers does not serve the model.
    pub(super) async fn connect(target: &Target, keep_text: bool) -> Result<Self, Error> {
        let address = target.address()?;
        let url = format!("http://{}{}", address.authority, address.prefix);
        let unreachable = |reason: String| Error::Unreachable { url: url.clone(), reason };
        let pool = Pool::new(&address).await.map_err(|error| unreachable(error.to_string()))?;
        let mut headers: HeaderMap = target.header_map()?.into_iter().collect();
        let authority = HeaderValue::from_str(&address.authority)
            .map_err(|error| Error::config("--base-url", error.to_string()))?;
        headers.insert(HOST, authority);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        HeaderValue::from_str(&target.request_id_prefix)
            .map_err(|error| Error::config("--request-id-prefix", error.to_string()))?;

        let models_uri = path(&format!("{}/v1/models", address.prefix))?;
        let models = list_models(&pool, models_uri, headers.clone());
        let models = tokio::time::timeout(MODELS_TIMEOUT, models)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", MODELS_TIMEOUT.as_secs())))
            .map_err(unreachable)?;
        let model = choose_model(target, &url, models)?;
        let served = target.served_model_name.as_ref().unwrap_or(&model);
        Ok(Self {
            template: Template::new(target, served)?,
            uri: path(&format!("{}{}", address.prefix, target.endpoint()))?,
            pool,
            headers,
            request_id_prefix: target.request_id_prefix.clone(),
            request_timeout: target.request_timeout,
            chat: target.backend == Backend::OpenAiChat,
            keep_text,
            model,
            steps: Arc::default(),
        })
    }

    /// The model that the load is for.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Steps of all answers so far, including those that are still under way.
    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// The body of a request.
    pub(super) fn render(&self, prompt: &PromptPlan, output_tokens: u32) -> Bytes {
        self.template.render(prompt, output_tokens)
    }

    /// Sends a request and follows its answer to the end. Whatever goes wrong is the answer's
    /// error.
    pub(super) async fn request(&self, id: &str, body: Bytes) -> Outcome {
        let sent_at = Instant::now();
        let mut answer = Answer::new(self.chat, self.keep_text);
        let exchange = self.exchange(id, body, &mut answer);
        let result = tokio::time::timeout(self.request_timeout, exchange).await;
        let problem = match result {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(_) => Some(format!("no end within {} s", self.request_timeout.as_secs_f64())),
        };
        if answer.error.is_none() {
            answer.error = problem;
        }
        Outcome { sent_at, ended_at: Instant::now(), answer }
    }

    async fn exchange(&self, id: &str, body: Bytes, answer: &mut Answer) -> Result<(), String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let id = HeaderValue::from_str(&format!("{}{id}", self.request_id_prefix))
            .map_err(|error| format!("the request id cannot be a header: {error}"))?;
        request.headers_mut().insert(REQUEST_ID, id);

        let (mut connection, response) = self.pool.send(request).await?;
        let status = response.status();
        let is_stream = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        let mut body = response.into_body();
        if status != StatusCode::OK || !is_stream {
            let mut text = Vec::new();
            while text.len() < MAX_BODY_BYTES
                && let Some(data) = connection.frame(&mut body).await
            {
                text.extend_from_slice(&data?);
            }
            self.pool.give_back(connection, body).await;
            return Err(refusal(status, &text));
        }
        let mut parser = Parser::default();
        while !answer.done
            && answer.error.is_none()
            && let Some(data) = connection.frame(&mut body).await
        {
            let at = Instant::now();
            let mut steps = 0;
            let parsed = parser.push(&data?, |event| steps += u64::from(answer.event(event, at)));
            self.steps.fetch_add(steps, Ordering::Relaxed);
            parsed.map_err(|error| error.to_string())?;
        }
        answer.end(parser.is_mid_event());
        self.pool.give_back(connection, body).await;
        Ok(())
    }
}

/// A path that was put together from settings.
fn path(text: &str) -> Result<Uri, Error> {
    text.parse().map_err(|error| Error::config("--endpoint", format!("{text:?}: {error}")))
}

/// The names of the served models, or none if the server does not list any.
async fn list_models(
    pool: &Pool,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Option<Vec<String>>, String> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let (mut connection, response) = pool.send(request).await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut text = Vec::new();
    while text.len() < MAX_BODY_BYTES
        && let Some(data) = connection.frame(&mut body).await
    {
        text.extend_from_slice(&data?);
    }
    pool.give_back(connection, body).await;
    let list = serde_json::from_slice::<ModelList>(&text).ok();
    Ok(list
        .filter(|_| status == StatusCode::OK)
        .map(|list| list.data.into_iter().map(|card| card.id).collect()))
}

fn choose_model(target: &Target, url: &str, listed: Option<Vec<String>>) -> Result<String, Error> {
    let sent = target.served_model_name.as_ref().or(target.model.as_ref());
    match (sent, listed) {
        (Some(sent), Some(listed)) if !listed.is_empty() && !listed.contains(sent) => {
            let served = listed.join(", ");
            Err(Error::UnknownModel { url: url.to_owned(), model: sent.clone(), served })
        }
        (Some(sent), _) => Ok(target.model.clone().unwrap_or_else(|| sent.clone())),
        (None, listed) => listed.unwrap_or_default().into_iter().next().ok_or_else(|| {
            let problem = "lists no models at /v1/models; name one with --model".to_owned();
            Error::Server { url: url.to_owned(), problem }
        }),
    }
}

/// Why an answer that is no stream counts as failed.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let message = [&json["error"]["message"], &json["message"], &json["detail"], &json["error"]]
        .into_iter()
        .find_map(|message| message.as_str())
        .map_or_else(|| excerpt(body), str::to_owned);
    if status == StatusCode::OK {
        format!("the answer is not an event stream: {message}")
    } else {
        format!("HTTP {}: {message}", status.as_u16())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_checked_against_the_list() {
        let listed = || Some(vec!["a".to_owned(), "b".to_owned()]);
        let mut target = Target::new("http://x");
        assert_eq!(choose_model(&target, "u", listed()).unwrap(), "a");
        assert!(choose_model(&target, "u", None).unwrap_err().to_string().contains("--model"));
        target.model = Some("c".to_owned());
        let error = choose_model(&target, "u", listed()).unwrap_err().to_string();
        assert!(error.contains("it serves a, b"), "{error}");
        assert_eq!(choose_model(&target, "u", None).unwrap(), "c");
        target.served_model_name = Some("b".to_owned());
        assert_eq!(choose_model(&target, "u", listed()).unwrap(), "c");
    }

    #[test]
    fn refusals_carry_the_servers_words() {
        let nested = br#"{"error":{"message":"too long","code":400}}"#;
        assert_eq!(refusal(StatusCode::BAD_REQUEST, nested), "HTTP 400: too long");
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"<html>"), "HTTP 502: <html>");
        assert!(refusal(StatusCode::OK, b"{}").starts_with("the answer is not an event stream"));
    }
}
