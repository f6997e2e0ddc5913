//! The ready line: one JSON object on stdout, printed by a role once it serves.

use serde::{Deserialize, Serialize};

use crate::fault::FaultKind;

/// Which process this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The front door.
    Router,
    /// Computes prompts.
    Prefill,
    /// Generates tokens.
    Decode,
}

impl Role {
    /// The name on the command line and in results.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Router => "router",
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a role serves and what it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Which process this is.
    pub role: Role,
    /// Base URL of the HTTP server, such as `http://127.0.0.1:8100`.
    pub http: String,
    /// `host:port` of the side channel; null but on prefill.
    pub side_channel: Option<String>,
    /// Process id.
    pub pid: u32,
    /// The transport in use, `tcp`, `ucx` or `verbs`; null on the router.
    pub transport: Option<String>,
    /// The UCX library's own version; null without UCX.
    pub ucx_version: Option<String>,
    /// Mistakes that this process makes on purpose; empty unless a user asked for them.
    #[serde(default)]
    pub faults: Vec<FaultKind>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_fixed_names() {
        let ready = Ready {
            role: Role::Decode,
            http: "http://127.0.0.1:1".into(),
            side_channel: None,
            pid: 2,
            transport: Some("tcp".into()),
            ucx_version: None,
            faults: vec![FaultKind::RkeyKept],
        };
        assert_eq!(
            serde_json::to_string(&ready).unwrap(),
            r#"{"role":"decode","http":"http://127.0.0.1:1","side_channel":null,"pid":2,"transport":"tcp","ucx_version":null,"faults":["rkey-kept"]}"#
        );
    }
}
