//! The question over ZMQ and the checks of the answer.

use std::time::Duration;

use bytes::Bytes;
use pdlab_api::kv_transfer::RemotePrefill;
use pdlab_api::side_channel::{AgentMetadata, Compatibility, Handshake, Query, SideChannelError};
use zeromq::{ReqSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// How long prefill may take to answer at most; vLLM's receive timeout on this socket.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A handshake that did not work out.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Nobody answered.
    #[error(
        "no answer from the side channel at {endpoint} within {timeout:?}: is that prefill up?"
    )]
    Timeout {
        /// Where.
        endpoint: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// ZMQ failed.
    #[error("the side channel at {endpoint} cannot be used: {source}")]
    Zmq {
        /// Where.
        endpoint: String,
        /// Why.
        source: zeromq::ZmqError,
    },
    /// The answer is not what the side channel speaks.
    #[error("{endpoint}: {source}")]
    Garbage {
        /// Where.
        endpoint: String,
        /// What is wrong.
        source: SideChannelError,
    },
    /// Another model, layout or version.
    #[error(
        "prefill at {endpoint} is not compatible (hash {theirs}, here {ours}): start both with the \
         same model, --kv-scale and --block-size"
    )]
    Incompatible {
        /// Where.
        endpoint: String,
        /// Its hash.
        theirs: String,
        /// Our hash.
        ours: String,
    },
    /// Prefill has restarted since it answered the request.
    #[error(
        "prefill at {endpoint} is engine {found}, not {wanted}: it has restarted and the KV is gone"
    )]
    Restarted {
        /// Where.
        endpoint: String,
        /// Who is there.
        found: String,
        /// Who was expected.
        wanted: String,
    },
}

/// Asks prefill for its metadata, for so long, and checks that it is the one, and compatible.
pub async fn ask(
    pull: &RemotePrefill,
    ours: &Compatibility,
    timeout: Duration,
) -> Result<AgentMetadata, HandshakeError> {
    let endpoint = format!("tcp://{}:{}", pull.host, pull.port);
    let mut socket = ReqSocket::new();
    let answered = tokio::time::timeout(timeout, exchange(&mut socket, &endpoint)).await;
    // The socket's tasks end with it; close waits for them so that nothing outlives the handshake.
    let _ = socket.close().await;
    let answer = answered
        .map_err(|_| HandshakeError::Timeout { endpoint: endpoint.clone(), timeout })?
        .map_err(|source| HandshakeError::Zmq { endpoint: endpoint.clone(), source })?;
    let first = answer.get(0).cloned().unwrap_or_default();
    check(&first, &pull.engine_id, ours, &endpoint)
}

async fn exchange(socket: &mut ReqSocket, endpoint: &str) -> Result<ZmqMessage, zeromq::ZmqError> {
    socket.connect(endpoint).await?;
    socket.send(Bytes::from(Query { pp_rank: 0, tp_rank: 0 }.encode()).into()).await?;
    socket.recv().await
}

fn check(
    frame: &[u8],
    engine_id: &str,
    ours: &Compatibility,
    endpoint: &str,
) -> Result<AgentMetadata, HandshakeError> {
    let endpoint = endpoint.to_owned();
    let garbage = |source| HandshakeError::Garbage { endpoint: endpoint.clone(), source };
    let handshake = Handshake::decode(frame).map_err(garbage)?;
    let (theirs, ours) = (handshake.compatibility_hash.clone(), ours.hash());
    if theirs != ours {
        return Err(HandshakeError::Incompatible { endpoint, theirs, ours });
    }
    let metadata = handshake.metadata().map_err(garbage)?;
    if metadata.engine_id != engine_id {
        let (found, wanted) = (metadata.engine_id, engine_id.to_owned());
        return Err(HandshakeError::Restarted { endpoint, found, wanted });
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Compatibility {
        Compatibility { model: "m".into(), block_size: 16, bytes_per_token: 8 }
    }

    fn answer(engine_id: &str, factors: &Compatibility) -> Vec<u8> {
        let metadata = AgentMetadata::one_region(engine_id.into(), vec![1], 4, 128, 16);
        Handshake::new(factors, &metadata).encode()
    }

    #[test]
    fn the_right_engine_is_accepted() {
        assert_eq!(check(&answer("e", &ours()), "e", &ours(), "x").unwrap().num_blocks, 4);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let other = Compatibility { bytes_per_token: 16, ..ours() };
        let incompatible = check(&answer("e", &other), "e", &ours(), "x").unwrap_err();
        assert!(incompatible.to_string().contains("--kv-scale"), "{incompatible}");
        let restarted = check(&answer("f", &ours()), "e", &ours(), "x").unwrap_err();
        assert!(restarted.to_string().contains("restarted"), "{restarted}");
        assert!(matches!(check(b"\x01", "e", &ours(), "x"), Err(HandshakeError::Garbage { .. })));
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_within_the_timeout() {
        let pull = RemotePrefill {
            block_ids: vec![],
            engine_id: "e".into(),
            request_id: "r".into(),
            host: "127.0.0.1".into(),
            // Port 1 is reserved and nothing listens there.
            port: 1,
            tp_size: 1,
            num_tokens: None,
            cached_tokens: 0,
            timings: None,
        };
        let asked = tokio::time::timeout(TIMEOUT * 2, ask(&pull, &ours(), TIMEOUT)).await;
        assert!(asked.expect("bounded").is_err());
    }
}
