//! Small requests beside the load, one at a time: what a short question sees of a busy server.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::dataset::prompt::PromptPlan;
use super::distribution::Distribution;

/// What became of the probes.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    /// Probes that were answered.
    pub completed: u64,
    /// Probes that failed.
    pub failed: u64,
    /// From sending to the last token.
    pub e2el: Distribution,
}

/// What vLLM's benchmark asks.
const PROMPT: &str = "Hi";

/// Asks for one token, waits for the answer and then for 1 / `rate` seconds, until `stop`. The
/// probe under way is waited for, as in vLLM.
pub(super) async fn run(client: &Client, rate: f64, stop: &CancellationToken) -> Probes {
    let pause = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
    let body = client.render(&PromptPlan::text(PROMPT.into(), 1), 1);
    let mut probes = Probes::default();
    for index in 0_u64.. {
        let outcome = client.request(&format!("probe-{index}"), body.clone()).await;
        match (outcome.answer.error, outcome.answer.last_at) {
            (None, Some(last_at)) => {
                probes.completed += 1;
                probes.e2el.add((last_at - outcome.sent_at).as_secs_f64());
            }
            _ => probes.failed += 1,
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    probes
}
