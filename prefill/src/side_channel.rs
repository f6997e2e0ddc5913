//! The side channel: answers decode's handshakes over ZMQ, as vLLM's listener thread does.

use std::time::Instant;

use bytes::Bytes;
use pdlab_api::side_channel::{Query, encode_clock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeromq::{RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// A bound side channel.
pub struct SideChannel {
    socket: RouterSocket,
    port: u16,
}

/// A side channel that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for handshakes on {endpoint}: {source}: choose another --side-channel-port, or 0 for a free one"
)]
pub struct SideChannelError {
    endpoint: String,
    source: zeromq::ZmqError,
}

impl SideChannel {
    /// Listens; port 0 takes a free one.
    pub async fn bind(host: &str, port: u16) -> Result<Self, SideChannelError> {
        let mut socket = RouterSocket::new();
        let endpoint = format!("tcp://{host}:{port}");
        match socket.bind(&endpoint).await {
            Ok(zeromq::Endpoint::Tcp(_, port)) => Ok(Self { socket, port }),
            Ok(_) => Ok(Self { socket, port }),
            Err(source) => Err(SideChannelError { endpoint, source }),
        }
    }

    /// The port that was bound.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers every query with the current `handshake` until `stop`; with the fault
    /// [`FaultKind::Mute`](pdlab_api::fault::FaultKind::Mute), takes them and says nothing. Foreign
    /// bytes get no answer, as in vLLM, so that the asker runs into its own timeout.
    pub async fn serve(
        mut self,
        handshake: watch::Receiver<Bytes>,
        mute: bool,
        stop: CancellationToken,
    ) {
        let started = Instant::now();
        loop {
            let asked = tokio::select! {
                asked = self.socket.recv() => asked,
                () = stop.cancelled() => break,
            };
            let message = match asked {
                Ok(message) => message,
                Err(error) => {
                    tracing::warn!(%error, "side channel: a peer broke off");
                    continue;
                }
            };
            if mute {
                continue;
            }
            let current = handshake.borrow().clone();
            let Some(answer) = answer(&message, &current, started.elapsed().as_secs_f64()) else {
                tracing::warn!(frames = message.len(), "side channel: a message that is no query");
                continue;
            };
            if let Err(error) = self.socket.send(answer).await {
                tracing::warn!(%error, "side channel: the asker is gone");
            }
        }
        let _ = self.socket.close().await;
    }
}

/// `[identity, "", query]` in, `[identity, "", handshake, clock]` out: the REQ envelope.
fn answer(message: &ZmqMessage, handshake: &Bytes, clock_s: f64) -> Option<ZmqMessage> {
    let frames: Vec<&Bytes> = message.iter().collect();
    let [identity, delimiter, query] = frames.as_slice() else { return None };
    if !delimiter.is_empty() || Query::decode(query).is_err() {
        return None;
    }
    let mut answer = ZmqMessage::from(handshake.clone());
    answer.push_back(encode_clock(clock_s).into());
    answer.push_front((*delimiter).clone());
    answer.push_front((*identity).clone());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(frames: &[&[u8]]) -> ZmqMessage {
        let frames: Vec<Bytes> = frames.iter().map(|f| Bytes::copy_from_slice(f)).collect();
        ZmqMessage::try_from(frames).unwrap()
    }

    #[test]
    fn a_query_is_answered_in_its_envelope() {
        let query = Query { pp_rank: 0, tp_rank: 0 }.encode();
        let handshake = Bytes::from_static(b"hs");
        let answer = answer(&message(&[b"id", b"", &query]), &handshake, 1.5).unwrap();
        let frames: Vec<Bytes> = answer.into_vec();
        assert_eq!(frames[..3], [&b"id"[..], b"", b"hs"]);
        assert_eq!(frames.len(), 4, "the clock comes last");
    }

    #[test]
    fn anything_else_is_not() {
        let handshake = Bytes::from_static(b"hs");
        assert!(answer(&message(&[b"id", b"", b"nonsense"]), &handshake, 0.0).is_none());
        assert!(answer(&message(&[b"id"]), &handshake, 0.0).is_none());
    }
}
