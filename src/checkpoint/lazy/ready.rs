//! Waiting for groups without a thread.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::Result;
use crate::key_group::KeyGroupSet;

use super::Shared;

/// Resolves once groups are loaded: see [`Task::ready`](crate::Task::ready).
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Ready {
    held: Option<ReadyGuard>,
}

/// Keeps groups from being evicted while it lives.
#[must_use = "dropping it lets the groups be evicted again"]
pub struct ReadyGuard {
    shared: Option<Arc<Shared>>,
    groups: KeyGroupSet,
}

impl Ready {
    /// Returns a future for groups that are resident, with nothing to wait for.
    pub(crate) fn resident() -> Self {
        Self { held: Some(ReadyGuard { shared: None, groups: KeyGroupSet::empty() }) }
    }

    pub(super) fn new(shared: Arc<Shared>, groups: KeyGroupSet) -> Self {
        Self { held: Some(ReadyGuard::new(shared, groups)) }
    }
}

impl Future for Ready {
    type Output = Result<ReadyGuard>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(ReadyGuard { shared, groups }) = &self.held else { return Poll::Pending };
        let Some(shared) = shared else { return Poll::Ready(self.held.take().map_or_else(unheld, Ok)) };
        let mut board = shared.board();
        let ready = board.are_ready(groups);
        if let Ok(false) = ready {
            board.wake_later(context.waker());
            return Poll::Pending;
        }
        drop(board);
        let held = self.held.take();
        Poll::Ready(ready.and_then(|_| held.map_or_else(unheld, Ok)))
    }
}

/// A future is not polled again once it is ready.
fn unheld() -> Result<ReadyGuard> {
    crate::error::broken("a future that has not resolved holds its groups")
}

impl ReadyGuard {
    /// Requests `groups` and holds them.
    pub(super) fn new(shared: Arc<Shared>, groups: KeyGroupSet) -> Self {
        shared.board().want(&groups);
        shared.request(&groups);
        Self { shared: Some(shared), groups }
    }

    /// Returns the groups.
    #[must_use]
    pub fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.board().unwant(&self.groups);
        }
    }
}

impl fmt::Debug for ReadyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyGuard").field("groups", &self.groups).finish_non_exhaustive()
    }
}
