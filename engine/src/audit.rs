//! Conservation: every block and every request has exactly one place.

use crate::engine::Engine;
use crate::request::RequestState;

impl Engine {
    /// Checks that every block has exactly the owners that its counts say, and that every request is
    /// in exactly one place. For tests and for a driver in doubt; takes time in proportion to
    /// the pool.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn audit(&self) -> Result<(), String> {
        let scheduler = &self.scheduler;
        let (mut held, mut pinned) = (Vec::new(), Vec::new());
        let mut queued = 0;
        for (slot, request) in scheduler.requests.iter() {
            let is_in = [
                scheduler.running.contains(&slot),
                scheduler.waiting.contains(&slot),
                scheduler.ready.contains(&slot),
                request.loading,
                request.is_pinned(),
            ];
            let fits = match request.state {
                RequestState::Running => is_in[0],
                RequestState::Waiting => is_in[1] || is_in[2],
                RequestState::Preempted => is_in[1],
                RequestState::WaitingForRemoteKvs => is_in[3],
                RequestState::Finished(_) => is_in[3] || is_in[4],
            };
            if !fits || is_in.iter().filter(|&&is_in| is_in).count() != 1 {
                return Err(format!(
                    "request {} is {} but in {is_in:?}",
                    request.id, request.state
                ));
            }
            if is_in[1] && !request.blocks.is_empty() {
                return Err(format!("request {} holds blocks while it waits", request.id));
            }
            queued += is_in[..3].iter().filter(|&&is_in| is_in).count();
            held.extend_from_slice(&request.blocks);
            if request.is_pinned() {
                pinned.extend_from_slice(&request.blocks);
            }
        }
        let in_queues = scheduler.running.len() + scheduler.waiting.len() + scheduler.ready.len();
        if queued != in_queues {
            return Err(format!("{in_queues} places in queues for {queued} requests"));
        }
        scheduler.kv.pool.audit(&held, &pinned)
    }
}
