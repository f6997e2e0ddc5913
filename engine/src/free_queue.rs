//! The order in which free blocks are taken: a doubly linked list over block indices, so that a
//! block found by its hash leaves the middle in constant time and nothing is allocated.

use crate::block_pool::BlockId;

/// The null block is never free, so its links serve as the ends of the list.
const ENDS: usize = BlockId::NULL.0 as usize;

/// Marks a block that is not in the queue.
const OUTSIDE: u32 = u32::MAX;

/// A queue of distinct blocks.
#[derive(Debug)]
pub(crate) struct FreeQueue {
    links: Vec<Link>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

impl FreeQueue {
    /// A queue of every block but the null block, in order of id.
    pub(crate) fn full(num_blocks: usize) -> Self {
        let links = vec![Link { previous: OUTSIDE, next: OUTSIDE }; num_blocks];
        let mut queue = Self { links, len: 0 };
        queue.links[ENDS] = Link { previous: BlockId::NULL.0, next: BlockId::NULL.0 };
        for block in 1..num_blocks as u32 {
            queue.push_back(BlockId(block));
        }
        queue
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        block != BlockId::NULL && self.links[block.0 as usize].next != OUTSIDE
    }

    /// Puts `block` first: it is taken before all others.
    pub(crate) fn push_front(&mut self, block: BlockId) {
        self.insert(block, BlockId::NULL.0, self.links[ENDS].next);
    }

    /// Puts `block` last.
    pub(crate) fn push_back(&mut self, block: BlockId) {
        self.insert(block, self.links[ENDS].previous, BlockId::NULL.0);
    }

    /// Takes the first block.
    pub(crate) fn pop_front(&mut self) -> Option<BlockId> {
        let first = BlockId(self.links[ENDS].next);
        (first != BlockId::NULL).then(|| {
            self.remove(first);
            first
        })
    }

    /// Takes `block`, wherever it is.
    pub(crate) fn remove(&mut self, block: BlockId) {
        debug_assert!(self.contains(block), "{block} is not free");
        let Link { previous, next } = self.links[block.0 as usize];
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        self.links[block.0 as usize] = Link { previous: OUTSIDE, next: OUTSIDE };
        self.len -= 1;
    }

    /// The blocks, first to be taken first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = BlockId> {
        let mut at = ENDS;
        std::iter::from_fn(move || {
            at = self.links[at].next as usize;
            (at != ENDS).then_some(BlockId(at as u32))
        })
    }

    fn insert(&mut self, block: BlockId, previous: u32, next: u32) {
        debug_assert!(!self.contains(block) && block != BlockId::NULL, "{block} cannot be freed");
        self.links[block.0 as usize] = Link { previous, next };
        self.links[previous as usize].next = block.0;
        self.links[next as usize].previous = block.0;
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &FreeQueue) -> Vec<u32> {
        queue.iter().map(|block| block.0).collect()
    }

    #[test]
    fn a_full_queue_has_every_block_but_the_null_block() {
        let queue = FreeQueue::full(5);
        assert_eq!(order(&queue), [1, 2, 3, 4]);
        assert_eq!(queue.len(), 4);
        assert!(!queue.contains(BlockId::NULL));
    }

    #[test]
    fn blocks_enter_at_both_ends_and_leave_anywhere() {
        let mut queue = FreeQueue::full(5);
        queue.remove(BlockId(3));
        queue.remove(BlockId(1));
        queue.remove(BlockId(4));
        assert_eq!(order(&queue), [2]);
        queue.push_front(BlockId(4));
        queue.push_back(BlockId(1));
        assert_eq!(order(&queue), [4, 2, 1]);
        assert!(queue.contains(BlockId(1)) && !queue.contains(BlockId(3)));
    }

    #[test]
    fn an_empty_queue_gives_nothing_and_can_be_refilled() {
        let mut queue = FreeQueue::full(3);
        assert_eq!(queue.pop_front(), Some(BlockId(1)));
        assert_eq!(queue.pop_front(), Some(BlockId(2)));
        assert_eq!(queue.pop_front(), None);
        assert_eq!(queue.len(), 0);
        queue.push_front(BlockId(2));
        assert_eq!(order(&queue), [2]);
    }
}
