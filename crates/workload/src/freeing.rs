//! A vector that gets smaller while it is used up.

/// The elements of a vector in order, each handed out once. The memory of those that have been is given back on the way:
/// where something else grows with each of them, there is no time at which both are whole.
#[derive(Debug, Clone)]
pub struct FreeingIter<T> {
    /// The next one is last.
    rest: Vec<T>,
}

impl<T> FreeingIter<T> {
    /// The elements of a vector.
    pub fn new(mut elements: Vec<T>) -> Self {
        elements.reverse();
        Self { rest: elements }
    }

    /// The next element.
    pub fn peek(&self) -> Option<&T> {
        self.rest.last()
    }
}

impl<T> Iterator for FreeingIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let next = self.rest.pop()?;
        // By halves, so that what is moved for it is no more than what there was.
        if self.rest.len() <= self.rest.capacity() / 2 {
            self.rest.shrink_to_fit();
        }
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.rest.len(), Some(self.rest.len()))
    }
}

impl<T> ExactSizeIterator for FreeingIter<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_in_order_and_their_memory_is_given_back() {
        let mut elements = FreeingIter::new((0..1000).collect());
        for expected in 0..1000 {
            assert_eq!((elements.peek().copied(), elements.len()), (Some(expected), 1000 - expected));
            assert_eq!(elements.next(), Some(expected));
            assert!(elements.rest.capacity() <= 2 * elements.len() + 1);
        }
        assert!(elements.peek().is_none() && elements.next().is_none());
    }
}
