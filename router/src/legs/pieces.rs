//! A request body made of slices.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};

/// Below this many bytes, copying once is cheaper than carrying slices through the HTTP writer;
/// a request of this size without a long prompt is the common one in tests and chats.
const FLATTEN_BELOW_BYTES: usize = 16 << 10;

/// Slices that are sent one after the other. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    /// In reverse, so that the next one is popped off the end.
    rest: Vec<Bytes>,
    rest_bytes: u64,
}

impl Pieces {
    /// A body of these slices in this order.
    pub fn new(mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        pieces.reverse();
        let len: usize = pieces.iter().map(Bytes::len).sum();
        let whole = Self { rest: pieces, rest_bytes: len as u64 };
        if len < FLATTEN_BELOW_BYTES && whole.rest.len() > 1 {
            return Self { rest: vec![whole.to_bytes()], rest_bytes: len as u64 };
        }
        whole
    }

    /// Bytes still to be sent.
    pub fn len(&self) -> u64 {
        self.rest_bytes
    }

    /// Nothing is left to be sent.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is still to be sent, in one.
    pub fn to_bytes(&self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.rest_bytes as usize);
        self.rest.iter().rev().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        Self::new(vec![bytes])
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest.pop();
        self.rest_bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn sent(pieces: Pieces) -> (usize, Vec<u8>) {
        let mut frames = 0;
        let mut all = Vec::new();
        let mut pieces = pieces;
        while let Some(frame) = pieces.frame().await {
            frames += 1;
            all.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        (frames, all)
    }

    #[tokio::test]
    async fn small_bodies_are_sent_in_one() {
        let pieces = Pieces::new(vec!["ab".into(), Bytes::new(), "c".into()]);
        assert_eq!(pieces.size_hint().exact(), Some(3));
        assert_eq!(sent(pieces).await, (1, b"abc".to_vec()));
        assert!(Pieces::new(vec![]).is_end_stream());
    }

    #[tokio::test]
    async fn large_bodies_are_not_copied() {
        let prompt = Bytes::from(vec![b'x'; FLATTEN_BELOW_BYTES]);
        let pieces = Pieces::new(vec!["{".into(), prompt.clone(), "}".into()]);
        assert_eq!(pieces.rest[1].as_ptr(), prompt.as_ptr());
        let (frames, all) = sent(pieces.clone()).await;
        assert_eq!((frames, all.len() as u64), (3, pieces.len()));
        assert_eq!((all[0], all[all.len() - 1]), (b'{', b'}'));
    }
}
