//! One load: find the prefill, read all blocks as one transfer, check every one of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pdlab_api::kv_transfer::RemotePrefill;
use pdlab_api::notification::KvNotification;
use pdlab_api::timings::KvLoadTimings;
use pdlab_transport::{Descriptor, ReadReport};
use pdlab_worker::{KvPool, Load, Shared};

use crate::figures::Figures;
use crate::remotes::{ConnectError, Remote, Remotes};
use crate::staging::{self, Staging};

/// Pulls KV for the connector's tasks.
#[derive(Debug, Clone)]
pub struct Puller {
    /// The local pool.
    pub pool: KvPool,
    /// Connections.
    pub remotes: Arc<Remotes>,
    /// How long a read may take. A stopped peer is noticed by nothing else.
    pub read_deadline: Duration,
    /// Counters.
    pub shared: Arc<Shared>,
    /// Metrics.
    pub figures: Arc<Figures>,
    /// The fault [`FaultKind::RegionKept`](pdlab_api::fault::FaultKind::RegionKept): reads go
    /// through a buffer of their own. `None`: straight into the pool.
    pub staging: Option<Arc<Staging>>,
}

/// Why the KV of a request is not here.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No connection.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// Prefill's answer and the prompt do not fit together.
    #[error(
        "prefill named {named} blocks, but the prompt needs blocks {first}..{end}: is it the same prompt?"
    )]
    TooFewBlocks {
        /// Ids in the transfer parameters.
        named: usize,
        /// First block to read.
        first: usize,
        /// One past the last.
        end: usize,
    },
    /// A block id that prefill does not have.
    #[error("prefill named block {block}, but its pool has {num_blocks} blocks")]
    NoSuchBlock {
        /// The id.
        block: u32,
        /// Size of its pool.
        num_blocks: u32,
    },
    /// The read failed.
    #[error("{0}")]
    Read(#[from] pdlab_transport::Error),
    /// A block is not what it must be.
    #[error(
        "{corrupt} of {blocks} blocks are corrupt, the first is prompt block {index}: {detail}. \
         Was it read after its lease had expired?"
    )]
    Corrupt {
        /// Blocks that are wrong.
        corrupt: usize,
        /// Blocks that were read.
        blocks: usize,
        /// First wrong block, counted from the start of the prompt.
        index: usize,
        /// What was found.
        detail: String,
    },
}

impl Puller {
    /// Reads and verifies; on success every block holds what its tokens say.
    pub async fn pull(&self, load: &Load) -> Result<KvLoadTimings, PullError> {
        let outcome = self.read(load).await;
        match outcome {
            Ok(timings) => {
                let verified = self.verify(load);
                if verified.is_err() {
                    self.shared.failed("corrupt_transfer");
                }
                verified.map(|()| timings)
            }
            Err(error) => {
                self.figures.failed();
                self.shared.failed(match error {
                    PullError::Connect(_) => "handshake",
                    // No memory to read into: a limit of this host or its device, and no fault of prefill.
                    PullError::Read(pdlab_transport::Error::Register { .. }) => "registration",
                    _ => "transfer",
                });
                Err(error)
            }
        }
    }

    /// Tells prefill that its blocks are not needed.
    pub async fn decline(&self, pull: &RemotePrefill) {
        self.tell(pull, &read_notification(pull)).await;
    }

    /// Tells prefill that its blocks are still wanted. `pull` is any request of that prefill.
    pub async fn beat(&self, pull: &RemotePrefill, heartbeat: &KvNotification) {
        self.tell(pull, heartbeat).await;
    }

    async fn tell(&self, pull: &RemotePrefill, notification: &KvNotification) {
        let sent = async {
            let remote = self.remotes.get(pull).await?;
            let payload = Bytes::from(notification.encode());
            Ok::<_, ConnectError>(remote.peer.notify(payload, self.read_deadline).await?)
        };
        if let Err(error) = sent.await {
            self.figures.notification_failed();
            self.shared.failed("notification");
            tracing::warn!(engine = pull.engine_id, %error, "prefill was not told; its leases will end");
        }
    }

    async fn read(&self, load: &Load) -> Result<KvLoadTimings, PullError> {
        let began = Instant::now();
        let remote = self.remotes.get(&load.pull).await?;
        let handshake = began.elapsed();
        let descriptors = self.descriptors(load, &remote)?;
        let done = Bytes::from(read_notification(&load.pull).encode());
        let read = match &self.staging {
            None => {
                let region = self.pool.region();
                remote.peer.read(region, &descriptors, Some(done), self.read_deadline).await
            }
            Some(staging) => self.read_staged(staging, &remote, &descriptors, done).await,
        };
        match read {
            Ok(report) => {
                self.remotes.transferred(&load.pull.engine_id, &remote);
                self.figures.transferred(&load.pull.host, load.pull.port, &report);
                Shared::add(&self.shared.transfers, 1);
                Shared::add(&self.shared.kv_bytes, report.bytes);
                Ok(KvLoadTimings {
                    bytes: report.bytes,
                    blocks: report.blocks as u64,
                    handshake_us: handshake.as_micros() as u64,
                    transfer_us: report.duration.as_micros() as u64,
                })
            }
            Err(error) => {
                if !remote.peer.is_alive() {
                    self.remotes.disconnect(&load.pull.engine_id, &remote);
                }
                Err(error.into())
            }
        }
    }

    async fn read_staged(
        &self,
        staging: &Staging,
        remote: &Remote,
        descriptors: &[Descriptor],
        done: Bytes,
    ) -> Result<ReadReport, pdlab_transport::Error> {
        let (staged, placed) = staging.buffer(descriptors)?;
        let report = remote.peer.read(&staged, &placed, Some(done), self.read_deadline).await?;
        staging::unload(&staged, &placed, self.pool.region(), descriptors)?;
        Ok(report)
    }

    fn descriptors(&self, load: &Load, remote: &Remote) -> Result<Vec<Descriptor>, PullError> {
        let (first, end) = (load.first_block_index, load.first_block_index + load.blocks.len());
        let named = load.pull.block_ids.len();
        let ids = load.pull.block_ids.get(first..end).ok_or(PullError::TooFewBlocks {
            named,
            first,
            end,
        })?;
        let bytes = self.pool.geometry().block_bytes;
        let describe = |(id, local): (&u32, &pdlab_worker::LoadBlock)| {
            if *id >= remote.num_blocks {
                return Err(PullError::NoSuchBlock { block: *id, num_blocks: remote.num_blocks });
            }
            let there = u64::from(*id) * bytes as u64;
            Ok(Descriptor::new(self.pool.offset(local.block), there, bytes))
        };
        ids.iter().zip(&load.blocks).map(describe).collect()
    }

    fn verify(&self, load: &Load) -> Result<(), PullError> {
        let (mut corrupt, mut first_bad) = (0, None);
        for (at, block) in load.blocks.iter().enumerate() {
            match self.pool.verify(block.block, &block.hashes)? {
                Ok(()) => Shared::add(&self.shared.blocks_verified, 1),
                Err(found) => {
                    Shared::add(&self.shared.corrupt_blocks, 1);
                    corrupt += 1;
                    first_bad.get_or_insert((load.first_block_index + at, found.to_string()));
                }
            }
        }
        match first_bad {
            None => Ok(()),
            Some((index, detail)) => {
                Err(PullError::Corrupt { corrupt, blocks: load.blocks.len(), index, detail })
            }
        }
    }
}

/// One decode reads what one prefill computed: there is one reader.
fn read_notification(pull: &RemotePrefill) -> KvNotification {
    KvNotification::Read { request_id: pull.request_id.clone(), readers: 1 }
}
