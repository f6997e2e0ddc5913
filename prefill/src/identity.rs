//! Who this prefill says it is: in the answers that decode gets, and in the handshake.
//!
//! Both must name the same engine, so both come from here. An identity may be renewed, which for
//! decode is the same as a prefill that has gone and another that has come to its address.

use bytes::Bytes;
use pdlab_api::side_channel::{AgentMetadata, Compatibility, Handshake};
use tokio::sync::watch;

/// The identity of a prefill.
#[derive(Debug)]
pub struct Identity {
    /// Side channel host, as decode can reach it.
    pub host: String,
    /// Side channel port.
    pub port: u16,
    /// The engine id of the start, made fresh then, so that a restart is noticed.
    first_id: String,
    /// `None`: it stays.
    renew_every: Option<u64>,
    generation: u64,
    /// Answers that the current id was given out in.
    answers: u64,
    /// With the current id in it.
    metadata: AgentMetadata,
    compatibility: Compatibility,
    handshake: watch::Sender<Bytes>,
}

impl Identity {
    /// An identity whose id is that of `metadata`, renewed after `renew_every` answers.
    pub fn new(
        (host, port): (String, u16),
        metadata: AgentMetadata,
        compatibility: Compatibility,
        renew_every: Option<u64>,
    ) -> Self {
        let handshake = Handshake::new(&compatibility, &metadata).encode();
        Self {
            host,
            port,
            first_id: metadata.engine_id.clone(),
            renew_every,
            generation: 0,
            answers: 0,
            metadata,
            compatibility,
            handshake: watch::Sender::new(handshake.into()),
        }
    }

    /// The first frame of an answer on the side channel, now and whenever it changes.
    pub fn handshake(&self) -> watch::Receiver<Bytes> {
        self.handshake.subscribe()
    }

    /// The current engine id.
    pub fn engine_id(&self) -> &str {
        &self.metadata.engine_id
    }

    /// The engine id for one more answer. A new one if that is due; `idle` says that nobody is
    /// about to read under the old one, which nobody could shake hands with any more.
    pub fn answer(&mut self, idle: bool) -> String {
        if idle && self.renew_every.is_some_and(|limit| self.answers >= limit) {
            self.renew();
        }
        self.answers += 1;
        self.metadata.engine_id.clone()
    }

    fn renew(&mut self) {
        self.generation += 1;
        self.answers = 0;
        self.metadata.engine_id = format!("{}-{}", self.first_id, self.generation);
        let handshake = Handshake::new(&self.compatibility, &self.metadata).encode();
        self.handshake.send_replace(handshake.into());
        tracing::debug!(engine = self.metadata.engine_id, "goes on under a new engine id");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(renew_every: Option<u64>) -> Identity {
        let metadata = AgentMetadata::one_region("e".into(), vec![1], 4, 128, 16);
        let compatibility = Compatibility { model: "m".into(), block_size: 16, bytes_per_token: 8 };
        Identity::new(("127.0.0.1".into(), 1), metadata, compatibility, renew_every)
    }

    fn named(handshake: &Bytes) -> String {
        Handshake::decode(handshake).unwrap().metadata().unwrap().engine_id
    }

    #[test]
    fn an_id_stays_unless_told_otherwise() {
        let mut identity = identity(None);
        assert!((0..9).all(|_| identity.answer(true) == "e"));
    }

    #[test]
    fn a_new_id_waits_until_nobody_reads_under_the_old_one() {
        let mut identity = identity(Some(2));
        let handshake = identity.handshake();
        let busy: Vec<String> = (0..3).map(|_| identity.answer(false)).collect();
        assert_eq!(busy, ["e", "e", "e"]);
        assert_eq!(named(&handshake.borrow()), "e");
        assert_eq!(identity.answer(true), "e-1");
        assert_eq!(named(&handshake.borrow()), "e-1");
        assert_eq!([identity.answer(true), identity.answer(true)], ["e-1", "e-2"]);
    }
}
