//! The error body of every endpoint, in vLLM's shape:
//! `{"error":{"message","type","param","code"}}`.

use serde::{Deserialize, Serialize};

/// An error as it goes over HTTP. `error.code` is the HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The one field of the body.
    pub error: ErrorInfo,
}

/// What went wrong, for whom to fix it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// Names the thing that failed and what to do about it.
    pub message: String,
    /// vLLM's class of the error, such as `BadRequestError`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The request field at fault, if there is one.
    pub param: Option<String>,
    /// The HTTP status, repeated in the body as vLLM does.
    pub code: u16,
}

impl ErrorBody {
    /// Any status with the given type.
    pub fn new(code: u16, kind: &str, message: impl Into<String>) -> Self {
        let (kind, message) = (kind.to_owned(), message.into());
        Self { error: ErrorInfo { message, kind, param: None, code } }
    }

    /// 400: the request is wrong and must be changed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequestError", message)
    }

    /// 404: no such model or route.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "NotFoundError", message)
    }

    /// 413: the body is larger than the server takes.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "BadRequestError", message)
    }

    /// 500: the server's fault; the same request may work again.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalServerError", message)
    }

    /// 502: the worker behind a router failed or answered garbage.
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(502, "BadGatewayError", message)
    }

    /// 503: nobody can serve this now; try again later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailableError", message)
    }

    /// Names the request field at fault.
    #[must_use]
    pub fn with_param(mut self, param: &str) -> Self {
        self.error.param = Some(param.to_owned());
        self
    }

    /// The body as JSON.
    pub fn to_json(&self) -> String {
        // A struct of strings and integers has no way to fail serialisation.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_vllms_shape() {
        let body = ErrorBody::not_found("The model `x` does not exist.").with_param("model");
        assert_eq!(
            body.to_json(),
            r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}"#
        );
    }
}
