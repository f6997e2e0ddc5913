//! Which block to read next: the transfers of one link, in the order in which they were posted,
//! with a bound on the operations outstanding. Pure bookkeeping; knows no UCX.

use std::collections::{BTreeMap, VecDeque};

/// Names one transfer of one link, below [`JOB_IDS`]. Comes round again after all the others.
pub(crate) type JobId = u32;

/// How many ids there are; the numbers above are free for other uses.
pub(crate) const JOB_IDS: JobId = u32::MAX - 15;

/// Transfers of type `T` under way.
#[derive(Debug)]
pub(crate) struct Flow<T> {
    /// Boxed: the map has room for eleven in a node, which it makes anew for the first transfer.
    jobs: BTreeMap<JobId, Box<Job<T>>>,
    /// Those that have blocks to post, oldest first.
    unposted: VecDeque<JobId>,
    next_id: JobId,
    outstanding: usize,
    limit: usize,
}

#[derive(Debug)]
struct Job<T> {
    transfer: T,
    blocks: usize,
    posted: usize,
    outstanding: usize,
    failed: bool,
}

/// A transfer that no device will touch any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended<T> {
    pub(crate) transfer: T,
    /// Every block has arrived.
    pub(crate) complete: bool,
}

impl<T> Flow<T> {
    /// Keeps at most `limit` operations outstanding.
    pub(crate) fn new(limit: usize) -> Self {
        let (jobs, unposted) = (BTreeMap::new(), VecDeque::new());
        Self { jobs, unposted, next_id: 0, outstanding: 0, limit }
    }

    /// Takes a transfer of `blocks` blocks, at least one.
    pub(crate) fn push(&mut self, transfer: T, blocks: usize) {
        let id = self.next_id;
        self.next_id = (self.next_id + 1) % JOB_IDS;
        let job = Job { transfer, blocks, posted: 0, outstanding: 0, failed: false };
        self.jobs.insert(id, Box::new(job));
        self.unposted.push_back(id);
    }

    /// The block to post now, counted as outstanding from here on. `None`: wait for a completion
    /// or a transfer.
    pub(crate) fn next(&mut self) -> Option<(JobId, &T, usize)> {
        if self.outstanding == self.limit {
            return None;
        }
        let id = *self.unposted.front()?;
        let job = self.jobs.get_mut(&id).expect("what is unposted is a job");
        let block = job.posted;
        job.posted += 1;
        job.outstanding += 1;
        self.outstanding += 1;
        if job.posted == job.blocks {
            self.unposted.pop_front();
        }
        Some((id, &job.transfer, block))
    }

    /// Whether [`next`](Self::next) has one.
    #[cfg(feature = "verbs")]
    pub(crate) fn has_next(&self) -> bool {
        self.outstanding < self.limit && !self.unposted.is_empty()
    }

    /// One outstanding operation of a transfer has ended. Returns the transfer with its last one.
    pub(crate) fn ended(&mut self, id: JobId, ok: bool) -> Option<Ended<T>> {
        let job = self.jobs.get_mut(&id)?;
        job.outstanding -= 1;
        job.failed |= !ok;
        self.outstanding -= 1;
        self.take_if_over(id)
    }

    /// Posts nothing more of what is here; returns what has nothing outstanding. The others come
    /// out of [`ended`](Self::ended), as incomplete.
    pub(crate) fn abort(&mut self) -> Vec<Ended<T>> {
        self.unposted.clear();
        for job in self.jobs.values_mut() {
            job.failed = true;
        }
        let ids: Vec<_> = self.jobs.keys().copied().collect();
        ids.into_iter().filter_map(|id| self.take_if_over(id)).collect()
    }

    /// Whether there is no transfer left.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    fn take_if_over(&mut self, id: JobId) -> Option<Ended<T>> {
        let job = self.jobs.get(&id)?;
        let over = job.outstanding == 0 && (job.failed || job.posted == job.blocks);
        // A failed transfer may have blocks that were never posted: its link is about to be
        // aborted, and until then `next` must not find it.
        if !over {
            return None;
        }
        self.unposted.retain(|unposted| *unposted != id);
        let Job { transfer, failed, .. } = *self.jobs.remove(&id)?;
        Some(Ended { transfer, complete: !failed })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Post,
        /// Ends the n-th outstanding operation, modulo their number; false fails it.
        End(usize, bool),
        Abort,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..9_usize).prop_map(Step::Push),
            8 => Just(Step::Post),
            8 => (any::<usize>(), prop::bool::weighted(0.95)).prop_map(|(n, ok)| Step::End(n, ok)),
            1 => Just(Step::Abort),
        ]
    }

    proptest! {
        /// Every transfer comes out exactly once, never while one of its operations is under way,
        /// and complete only if each of its blocks was posted once and ended well.
        #[test]
        fn transfers_are_conserved(
            limit in 1..6_usize,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut flow = Flow::new(limit);
            let mut sizes = Vec::new();
            let mut outstanding: Vec<(JobId, usize, usize)> = Vec::new();
            let mut posted = BTreeSet::new();
            let mut good: Vec<usize> = Vec::new();
            let mut out: BTreeMap<usize, bool> = BTreeMap::new();
            // After the random steps, drain.
            let drain = (0..2_000).flat_map(|_| [Step::Post, Step::End(0, true)]);
            for step in steps.into_iter().chain(drain) {
                let ended = match step {
                    Step::Push(blocks) => {
                        flow.push(sizes.len(), blocks);
                        sizes.push(blocks);
                        good.push(0);
                        Vec::new()
                    }
                    Step::Post => {
                        if let Some((id, transfer, block)) = flow.next() {
                            prop_assert!(posted.insert((*transfer, block)), "posted twice");
                            prop_assert!(!out.contains_key(transfer));
                            outstanding.push((id, *transfer, block));
                        }
                        prop_assert!(outstanding.len() <= limit);
                        Vec::new()
                    }
                    Step::End(..) if outstanding.is_empty() => Vec::new(),
                    Step::End(n, ok) => {
                        let (id, transfer, _) = outstanding.swap_remove(n % outstanding.len());
                        good[transfer] += usize::from(ok);
                        flow.ended(id, ok).into_iter().collect()
                    }
                    Step::Abort => flow.abort(),
                };
                for Ended { transfer, complete } in ended {
                    prop_assert!(outstanding.iter().all(|(_, under_way, _)| *under_way != transfer));
                    prop_assert!(out.insert(transfer, complete).is_none(), "came out twice");
                    prop_assert!(!complete || good[transfer] == sizes[transfer]);
                }
            }
            prop_assert!(flow.is_empty() && outstanding.is_empty());
            prop_assert_eq!(out.len(), sizes.len());
        }
    }

    #[test]
    fn blocks_are_posted_in_order_and_within_the_limit() {
        let mut flow = Flow::new(2);
        flow.push('a', 1);
        flow.push('b', 2);
        let mut seen = Vec::new();
        while let Some((_, transfer, block)) = flow.next() {
            seen.push((*transfer, block));
        }
        assert_eq!(seen, [('a', 0), ('b', 0)]);
        assert_eq!(flow.ended(0, true), Some(Ended { transfer: 'a', complete: true }));
        assert_eq!(flow.next().map(|(_, transfer, block)| (*transfer, block)), Some(('b', 1)));
    }
}
