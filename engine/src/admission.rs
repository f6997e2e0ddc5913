//! Which requests are taken.

use thiserror::Error;

use crate::config::EngineConfig;
use crate::request::{NewRequest, RequestId};
use crate::scheduler::Scheduler;

/// A request that cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AdmitError {
    /// There is nothing to compute.
    #[error("the prompt is empty; it must have at least one token")]
    EmptyPrompt,
    /// The prompt leaves no room for an output token.
    #[error(
        "the prompt has {tokens} tokens, but prompt and output together may have at most {limit} \
         (max_model_len); shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// [`EngineConfig::max_model_len`].
        limit: usize,
    },
    /// A prompt token that the model does not have.
    #[error("token id {token} is out of vocabulary: the model has ids below {vocab_size}")]
    OutOfVocabulary {
        /// The token.
        token: u32,
        /// [`crate::Model::vocab_size`].
        vocab_size: u32,
    },
    /// No output was asked for.
    #[error("max_tokens must be at least 1, got 0")]
    NoOutput,
    /// The limits contradict each other.
    #[error("min_tokens {min_tokens} must be at most max_tokens {max_tokens}")]
    MinAboveMax {
        /// As requested.
        min_tokens: usize,
        /// As requested.
        max_tokens: usize,
    },
    /// The id is in use; a finished request keeps it while its blocks are pinned.
    #[error("request {0} is already known to the engine; use another id")]
    DuplicateId(RequestId),
    /// Too many requests wait.
    #[error("{limit} requests are waiting already (max_num_queued_reqs); try again later")]
    QueueFull {
        /// [`EngineConfig::max_num_queued_reqs`].
        limit: usize,
    },
}

/// Checks what vLLM checks before it queues a request.
pub(crate) fn check(
    new: &NewRequest,
    config: &EngineConfig,
    scheduler: &Scheduler,
) -> Result<(), AdmitError> {
    let (tokens, limit) = (new.tokens.len(), config.max_model_len);
    if tokens == 0 {
        return Err(AdmitError::EmptyPrompt);
    }
    if tokens >= limit {
        return Err(AdmitError::PromptTooLong { tokens, limit });
    }
    let vocab_size = config.model.vocab_size;
    if let Some(&token) = new.tokens.iter().find(|&&token| token >= vocab_size) {
        return Err(AdmitError::OutOfVocabulary { token, vocab_size });
    }
    let (min_tokens, max_tokens) = (new.min_tokens, new.max_tokens);
    if max_tokens == 0 {
        return Err(AdmitError::NoOutput);
    }
    if min_tokens > max_tokens {
        return Err(AdmitError::MinAboveMax { min_tokens, max_tokens });
    }
    if scheduler.requests.slot_of(new.id).is_some() {
        return Err(AdmitError::DuplicateId(new.id));
    }
    let limit = config.max_num_queued_reqs;
    if scheduler.waiting.len() >= limit {
        return Err(AdmitError::QueueFull { limit });
    }
    Ok(())
}
