//! Distinct stacks, each kept once. Pure.

use std::collections::HashMap;

use super::book::StackId;

/// A place in the code: a file that was mapped as code, and where in it. It is the same place wherever the file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Number in the list of modules; `None` if the address lies in none.
    pub(crate) module: Option<u32>,
    /// Offset in its file, or the address.
    pub(crate) offset: u64,
}

/// Stacks by number.
#[derive(Debug, Default)]
pub(crate) struct Stacks {
    ids: HashMap<Vec<Place>, StackId>,
    by_id: Vec<Vec<Place>>,
    max: usize,
}

impl Stacks {
    /// Keeps at most `max` stacks besides the empty one.
    pub(crate) fn new(max: usize) -> Stacks {
        let mut stacks = Stacks { max: max.saturating_add(1), ..Stacks::default() };
        stacks.id(Vec::new());
        stacks
    }

    /// The number of `places`, innermost first: that of the empty stack, 0, if there is no room for another.
    pub(crate) fn id(&mut self, places: Vec<Place>) -> StackId {
        if let Some(&id) = self.ids.get(&places) {
            return id;
        }
        if self.by_id.len() >= self.max {
            return NO_STACK;
        }
        let id = self.by_id.len() as StackId;
        self.by_id.push(places.clone());
        self.ids.insert(places, id);
        id
    }

    /// The places of a stack.
    pub(crate) fn places(&self, id: StackId) -> &[Place] {
        self.by_id.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether a stack more would find no room.
    pub(crate) fn is_full(&self) -> bool {
        self.by_id.len() >= self.max
    }
}

/// The stack of calls whose stack is not known.
pub(crate) const NO_STACK: StackId = 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(offset: u64) -> Vec<Place> {
        vec![Place { module: Some(1), offset }]
    }

    #[test]
    fn a_stack_has_one_number_and_too_many_have_that_of_the_empty_one() {
        let mut stacks = Stacks::new(2);
        assert_eq!(stacks.id(Vec::new()), NO_STACK);
        let (a, b) = (stacks.id(stack(1)), stacks.id(stack(2)));
        assert_eq!((stacks.id(stack(1)), stacks.id(stack(2))), (a, b));
        assert!(a != b && a != NO_STACK && stacks.is_full());
        assert_eq!(stacks.id(stack(3)), NO_STACK);
        assert_eq!(stacks.places(b), stack(2));
        assert!(stacks.places(99).is_empty());
    }
}
