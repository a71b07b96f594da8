//! A lane: loads one unit of groups after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::board::{Ticket, is_permanent};
use super::{Shared, UNIT_BYTES};
use crate::backend::{ArrivedContent, Loaded};
use crate::checkpoint::claim;
use crate::checkpoint::load::Part;
use crate::checkpoint::pipeline::lock;
use crate::error::{Error, Result};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{Narrowed, RowSource};
use crate::runtime::run_blocking;

/// How long the background waits after the store did not answer, which itself comes after the store's own retries.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the background leaves the processors to the first group that is waited for.
const HEAD_START: Duration = Duration::from_millis(30);

/// A future that loads groups. If it is dropped before its end, whoever waits gets an error.
pub(super) struct Lane {
    shared: Arc<Shared>,
    /// Whether it serves requests alone.
    urgent: bool,
    ended: bool,
}

impl Lane {
    pub(super) fn spawn(shared: &Arc<Shared>, urgent: bool) {
        let lane = Self { shared: Arc::clone(shared), urgent, ended: false };
        shared.store.runtime().spawn(lane.run().boxed());
    }

    async fn run(mut self) {
        if !self.urgent {
            self.shared.store.runtime().sleep(HEAD_START).await;
        }
        while let Some((unit, ticket)) = self.next_unit() {
            let passing = self.shared.load_unit(&unit, ticket).await;
            self.shared.tracker.report();
            if !self.urgent && passing {
                self.shared.store.runtime().sleep(PAUSE).await;
            }
        }
        self.ended = true;
    }

    /// Returns the next groups to load. An urgent lane that has none counts as gone, before anybody can rely on it.
    fn next_unit(&self) -> Option<(KeyGroupSet, Ticket)> {
        // Without a request, a group is not worth the memory that writes will need.
        let requests_only = self.urgent || self.shared.is_memory_short();
        let mut board = self.shared.board();
        let unit = board.next_unit(UNIT_BYTES, requests_only);
        if self.urgent && unit.is_none() {
            board.urgent -= 1;
        }
        unit
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if !self.urgent {
            self.shared.background.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.ended {
            self.shared.end(Error::stopped("the load of key groups was dropped by its runtime, or panicked"));
        }
    }
}

impl Shared {
    /// Loads the groups of a unit. Returns whether it met an error that may pass.
    async fn load_unit(&self, unit: &KeyGroupSet, ticket: Ticket) -> bool {
        let Err(error) = self.try_load(unit, ticket).await else { return false };
        if unit.len() == 1 || !is_permanent(&error) {
            return self.fail(unit, ticket, error).await;
        }
        // The others are loaded without the one that is damaged.
        let mut passing = false;
        for group in unit.iter() {
            let alone = std::iter::once(group).collect();
            if let Err(error) = self.try_load(&alone, ticket).await {
                passing |= self.fail(&alone, ticket, error).await;
            }
        }
        passing
    }

    async fn fail(&self, unit: &KeyGroupSet, ticket: Ticket, error: Error) -> bool {
        let error = claim::why_unreadable(&self.store, self.attempt, error).await;
        tracing::debug!(groups = %unit, error = error.chain(), "key groups were not loaded");
        let mut board = self.board();
        let failed = board.fail(unit, ticket, &error);
        if is_permanent(&error) {
            self.tracker.damaged(&failed);
        }
        board.ended().into_iter().for_each(|why| self.tracker.fail(why));
        drop(board);
        self.notify();
        !is_permanent(&error)
    }

    /// Loads those of `groups` that are not loaded yet.
    async fn try_load(&self, groups: &KeyGroupSet, ticket: Ticket) -> Result<()> {
        let rewrites = || lock(&self.chain).rewrites();
        loop {
            let before = rewrites();
            match self.load_once(groups, ticket).await {
                // They were rewritten meanwhile, and the objects of before are deleted.
                Err(error) if is_permanent(&error) && rewrites() != before => {}
                loaded => return loaded,
            }
        }
    }

    async fn load_once(&self, groups: &KeyGroupSet, ticket: Ticket) -> Result<()> {
        let groups = self.board().loading(groups, ticket);
        let mut parts = self.parts(&groups).await?;
        // A group that comes in pieces is alone in its parts.
        let mut open: Option<(KeyGroup, ArrivedContent)> = None;
        while let Some(part) = parts.next().await? {
            match &mut open {
                Some((group, content)) if part.continues => self.add(*group, content, &part).await?,
                _ => {
                    open.take().into_iter().for_each(|(group, content)| self.loaded(group, ticket, content));
                    for group in part.groups.iter() {
                        let content = self.load(group, &part.rows, None).await?;
                        if part.groups.len() > 1 {
                            self.loaded(group, ticket, content)
                        } else {
                            open = Some((group, content))
                        }
                    }
                }
            }
        }
        open.into_iter().for_each(|(group, content)| self.loaded(group, ticket, content));
        Ok(())
    }

    fn loaded(&self, group: KeyGroup, ticket: Ticket, content: ArrivedContent) {
        let mut board = self.board();
        if board.loaded(group, ticket, content) {
            // Counted before anybody learns that the group is there.
            self.tracker.loaded(&std::iter::once(group).collect());
        }
        drop(board);
        self.notify();
    }

    /// Adds a further part of a group.
    async fn add(&self, group: KeyGroup, content: &mut ArrivedContent, part: &Part) -> Result<()> {
        let so_far = match content {
            ArrivedContent::Rows(rows) => {
                rows.push(Arc::clone(&part.rows));
                return Ok(());
            }
            ArrivedContent::Loaded(so_far) => std::mem::replace(so_far, Box::new(())),
        };
        *content = self.load(group, &part.rows, Some(so_far)).await?;
        match content {
            ArrivedContent::Loaded(_) => Ok(()),
            ArrivedContent::Rows(_) => {
                Err(Error::config("a large key group has rows of a table that its checkpoint does not list")
                    .with("remedy", "raise restore_bytes to twice the group"))
            }
        }
    }

    /// Loads rows of one group.
    async fn load(&self, group: KeyGroup, rows: &Arc<dyn RowSource>, so_far: Option<Loaded>) -> Result<ArrivedContent> {
        let groups: KeyGroupSet = std::iter::once(group).collect();
        let loader = self.loader().clone();
        if let Some(loader) = loader {
            let (rows, groups) = (Arc::clone(rows), groups.clone());
            let load = move || {
                let load = || loader.load(&*rows, &groups, so_far);
                catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err(panicked()))
            };
            if let Some(loaded) = run_blocking(&**self.store.runtime(), load).await? {
                return Ok(ArrivedContent::Loaded(loaded));
            }
        }
        let alone: Arc<dyn RowSource> = Arc::new(Narrowed { groups, rows: Arc::clone(rows) });
        Ok(ArrivedContent::Rows(vec![alone]))
    }
}

/// The groups share nothing, so a panic of a table's own function is an error of the group that it was called for.
fn panicked() -> Error {
    Error::usage("a function of a table panicked while a key group was loaded")
}
