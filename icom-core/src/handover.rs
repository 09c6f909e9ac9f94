//! The bounded queue between two stages: the giver never waits, the oldest goes when the bound is reached.
//!
//! Input: anything with a size in bytes. Output: the same in order, and what had to be dropped.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(crate) struct Handover<T> {
    inner: Mutex<Inner<T>>,
    ready: Condvar,
    bound_bytes: usize,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
}

/// What a taker got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<T> {
    /// The oldest item.
    Item(T),
    /// None came in time.
    Nothing,
    /// None will come.
    Closed,
}

impl<T> Handover<T> {
    pub(crate) fn new(bound_bytes: usize) -> Self {
        let inner = Inner { items: VecDeque::new(), bytes: 0, closed: false };
        Self { inner: Mutex::new(inner), ready: Condvar::new(), bound_bytes }
    }

    /// Adds an item; gives back the oldest ones if they had to make room.
    pub(crate) fn give(&self, item: T, bytes: usize) -> Vec<T> {
        let mut inner = self.lock();
        let mut dropped = Vec::new();
        while inner.bytes.saturating_add(bytes) > self.bound_bytes {
            let Some((oldest, size)) = inner.items.pop_front() else { break };
            inner.bytes = inner.bytes.saturating_sub(size);
            dropped.push(oldest);
        }
        inner.bytes = inner.bytes.saturating_add(bytes);
        inner.items.push_back((item, bytes));
        drop(inner);
        self.ready.notify_one();
        dropped
    }

    /// Takes the oldest item, waiting no longer than `patience`.
    pub(crate) fn take(&self, patience: Duration) -> Taken<T> {
        let inner = self.lock();
        let (mut inner, _) = self
            .ready
            .wait_timeout_while(inner, patience, |inner| inner.items.is_empty() && !inner.closed)
            .unwrap_or_else(PoisonError::into_inner);
        match inner.items.pop_front() {
            Some((item, bytes)) => {
                inner.bytes = inner.bytes.saturating_sub(bytes);
                Taken::Item(item)
            }
            None if inner.closed => Taken::Closed,
            None => Taken::Nothing,
        }
    }

    /// No more items will be given; what is queued can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// Bytes that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Items that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// A panic in another holder leaves nothing half done here.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_in_order_and_drops_the_oldest_at_the_bound() {
        let queue = Handover::new(10);
        assert!(queue.give('a', 4).is_empty());
        assert!(queue.give('b', 4).is_empty());
        assert_eq!(queue.give('c', 4), ['a']);
        queue.close();
        assert_eq!(queue.take(Duration::ZERO), Taken::Item('b'));
        assert_eq!(queue.take(Duration::ZERO), Taken::Item('c'));
        assert_eq!(queue.take(Duration::ZERO), Taken::Closed);
    }

    #[test]
    fn an_item_larger_than_the_bound_still_passes() {
        let queue = Handover::new(10);
        assert!(queue.give('a', 100).is_empty());
        assert_eq!(queue.take(Duration::ZERO), Taken::Item('a'));
        assert_eq!(queue.take(Duration::ZERO), Taken::Nothing);
    }
}
