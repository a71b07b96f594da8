//! A backend whose groups are resident or absent.
//!
//! ```text
//! absent group = its segments (known to the source), its times, the clears since
//!    | touched, or loaded in the background          ^
//!    v                                               | evicted: cold, and all of it is in segments
//! resident group: the wrapped backend owns it -------+
//! ```
//!
//! The wrapped backend owns the resident groups alone, and knows nothing of the others. Every access to an absent group
//! loads it first, except a clear, which is logged.
//!
//! Invariants:
//! - an absent group has no writes of its own but clears: its segments are its state, so a seal hands out nothing of it;
//! - an absent group's times stay as they were recorded;
//! - once no group is absent, an operation costs one comparison more than in the wrapped backend.

mod access;
mod clears;
mod source;

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result, broken};
use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet};
use crate::row::{GroupTimes, Rules, Stack, later_times, times_of};
use crate::time::Timestamp;

use self::clears::Clears;
use super::StateBackend;
use super::checks::{check_owned, check_unowned};

pub use source::{Arrived, ArrivedContent, GroupLoader, GroupSource, Loaded};

/// A backend that loads some of its groups when they are needed.
///
/// [`KeyedState`](super::KeyedState) wraps every backend in one. Without a [`GroupSource`] no group is ever absent.
#[derive(Debug)]
pub struct LazyBackend<B> {
    resident: B,
    owned: KeyGroupSet,
    /// `None` if all groups are resident.
    absent: Option<Box<Absent>>,
    source: Option<Arc<dyn GroupSource>>,
    rules: Rules,
    evictions: u64,
}

/// The absent groups.
#[derive(Debug)]
struct Absent {
    groups: KeyGroupSet,
    /// One bit per group number.
    bits: Vec<u64>,
    /// Their times.
    times: Vec<GroupTimes>,
    /// Those whose times the wrapped backend does not know: groups that were evicted.
    evicted: KeyGroupSet,
    clears: Clears,
    source: Arc<dyn GroupSource>,
}

impl Absent {
    fn contains(&self, group: KeyGroup) -> bool {
        let word = self.bits.get(usize::from(group.0 / 64)).copied().unwrap_or(0);
        word >> (group.0 % 64) & 1 == 1
    }

    fn set_groups(&mut self, groups: KeyGroupSet) {
        self.bits.clear();
        self.bits.resize(groups.ranges().last().map_or(0, |last| usize::from(last.end).div_ceil(64)), 0);
        for group in groups.iter() {
            if let Some(word) = self.bits.get_mut(usize::from(group.0 / 64)) {
                *word |= 1 << (group.0 % 64);
            }
        }
        self.times = times_of(&self.times, &groups);
        self.evicted = self.evicted.intersection(&groups);
        self.groups = groups;
    }
}

impl<B: StateBackend> LazyBackend<B> {
    /// Returns `backend`, all of whose groups are resident.
    #[must_use]
    pub fn new(backend: B) -> Self {
        let (owned, rules) = (backend.groups().clone(), Rules::none());
        Self { owned, resident: backend, absent: None, source: None, rules, evictions: 0 }
    }

    /// Returns the wrapped backend, which owns the resident groups.
    #[must_use]
    pub fn resident(&self) -> &B {
        &self.resident
    }

    /// Returns the absent groups.
    #[must_use]
    pub fn absent(&self) -> KeyGroupSet {
        self.absent.as_ref().map_or_else(KeyGroupSet::empty, |absent| absent.groups.clone())
    }

    /// Returns how many groups were evicted so far, each as often as it was.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Sets where evicted groups are loaded from.
    pub fn set_source(&mut self, source: Arc<dyn GroupSource>) {
        self.source = Some(source);
    }

    /// Adds `groups`, all absent, which the [source](Self::set_source) loads when they are needed.
    ///
    /// * `times`: what the checkpoint recorded of them. [`StateBackend::resume`] has them already.
    ///
    /// # Errors
    /// `Usage` if a group is owned already, or there is no source.
    pub fn add_absent(&mut self, groups: &KeyGroupSet, times: &[GroupTimes]) -> Result<()> {
        check_unowned(&self.owned, groups)?;
        if groups.is_empty() {
            return Ok(());
        }
        let source = self.source()?;
        self.owned = self.owned.union(groups);
        self.set_absent(groups, times, source);
        Ok(())
    }

    fn source(&self) -> Result<Arc<dyn GroupSource>> {
        self.source.clone().ok_or_else(|| Error::usage("the backend has no source to load groups from"))
    }

    /// Makes resident groups absent again. All their state lies in segments that the source knows: they have no writes
    /// that were not sealed and stored.
    ///
    /// # Errors
    /// `Usage` if a group is not resident, has writes that are not sealed and stored, or is in use; or there is no source.
    pub fn evict(&mut self, groups: &KeyGroupSet) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        check_owned(self.resident.groups(), groups)?;
        let dirty = self.resident.dirty_groups().intersection(groups);
        if !dirty.is_empty() {
            return Err(Error::usage("key groups have writes that are not sealed").with("groups", dirty));
        }
        let source = self.source()?;
        let is_kept = |group: &KeyGroup| source.coldest(&std::iter::once(*group).collect()).is_none();
        if let Some(kept) = groups.iter().find(is_kept) {
            return Err(Error::usage("key group has state that is not stored, or is in use").with("group", kept));
        }
        self.evict_stored(groups, source)
    }

    /// Evicts clean groups that are stored and not in use.
    fn evict_stored(&mut self, groups: &KeyGroupSet, source: Arc<dyn GroupSource>) -> Result<()> {
        let times = times_of(&self.resident.times(), groups);
        // Tables may have been defined since the last loader was made.
        source.set_loader(self.resident.group_loader(&[]));
        self.resident.drop_groups(groups)?;
        self.evictions += groups.len() as u64;
        source.take_back(groups);
        let evicted = self.set_absent(groups, &times, source);
        evicted.evicted = evicted.evicted.union(groups);
        Ok(())
    }

    /// Evicts the least used group, if one can be evicted now. Returns whether it did.
    ///
    /// * `kept`: groups that stay.
    ///
    /// # Errors
    /// None from the crate's own backends.
    pub(crate) fn evict_coldest(&mut self, kept: &KeyGroupSet) -> Result<bool> {
        let Some(source) = self.source.clone() else { return Ok(false) };
        let clean = self.resident.groups().difference(&self.resident.dirty_groups()).difference(kept);
        let Some(coldest) = source.coldest(&clean) else { return Ok(false) };
        self.evict_stored(&std::iter::once(coldest).collect(), source).map(|()| true)
    }

    fn set_absent(&mut self, groups: &KeyGroupSet, times: &[GroupTimes], source: Arc<dyn GroupSource>) -> &mut Absent {
        let absent = self.absent.get_or_insert_with(|| {
            let (groups, evicted) = (KeyGroupSet::empty(), KeyGroupSet::empty());
            let (times, clears) = (Vec::new(), Clears::default());
            Box::new(Absent { groups, bits: Vec::new(), times, evicted, clears, source })
        });
        // A group without a record was never advanced.
        let unrecorded = groups.ranges().iter().map(|range| GroupTimes::new(*range, Timestamp::MIN, Timestamp::MIN));
        let times = later_times(&unrecorded.collect::<Vec<_>>(), &times_of(times, groups));
        absent.times = later_times(&absent.times, &times);
        let all = absent.groups.union(groups);
        absent.set_groups(all);
        absent
    }

    /// Has `groups` loaded soon, where they are absent. Does not block.
    pub fn request(&self, groups: &KeyGroupSet) {
        if let Some(absent) = &self.absent {
            let wanted = absent.groups.intersection(groups);
            if !wanted.is_empty() {
                absent.source.request(&wanted);
            }
        }
    }

    /// Makes all of `groups` resident; the calling thread waits for those that are not loaded.
    ///
    /// # Errors
    /// As [`GroupSource::wait`]; groups before the failing one are resident. `Limit` if memory has no room for all.
    pub fn ensure(&mut self, groups: &KeyGroupSet) -> Result<()> {
        self.request(groups);
        let wanted = groups.intersection(&self.absent());
        wanted.iter().try_for_each(|group| self.bring(group, groups))
    }

    /// Returns a lower bound of the times of the group's timers in `table`, while the group is absent; `None` if it has no
    /// timers there, or is resident.
    pub(super) fn earliest_timer(&self, table: TableId, group: KeyGroup) -> Option<Timestamp> {
        self.absent.as_ref().filter(|absent| absent.contains(group))?.source.earliest_timer(table, group)
    }

    /// Makes a group resident before it is used.
    #[inline(always)]
    pub(super) fn touch(&mut self, group: KeyGroup) -> Result<()> {
        match &self.absent {
            None => Ok(()),
            Some(absent) if !absent.contains(group) => Ok(()),
            Some(_) => self.bring(group, &KeyGroupSet::empty()),
        }
    }

    /// Adopts an absent group, and whatever else is loaded. While memory is short, evicts others, but none of `kept`.
    #[cold]
    #[inline(never)]
    fn bring(&mut self, group: KeyGroup, kept: &KeyGroupSet) -> Result<()> {
        loop {
            match self.adopt_loaded().and_then(|()| self.adopt_one(group)) {
                Ok(()) => break,
                // Cold rows or another group make room for this one.
                Err(error)
                    if error.kind() == ErrorKind::Limit
                        && (self.resident.make_room() || self.evict_coldest(kept)? || self.wait_for_loads()) => {}
                Err(error) => return Err(error),
            }
        }
        let kept = kept.union(&std::iter::once(group).collect());
        if self.source.as_ref().is_some_and(|source| source.is_crowded()) {
            // What can go to the disk goes first.
            self.resident.advance(Timestamp::MIN, Timestamp::MIN);
        }
        while self.source.as_ref().is_some_and(|source| source.is_crowded()) && self.evict_coldest(&kept)? {}
        Ok(())
    }

    /// Waits for loads of the background, which are adopted and can be evicted then. Returns whether there were any.
    fn wait_for_loads(&self) -> bool {
        self.absent.as_ref().is_some_and(|absent| absent.source.wait_for_loads())
    }

    /// Waits for a group, if it is absent, and adopts it.
    fn adopt_one(&mut self, group: KeyGroup) -> Result<()> {
        let Some(absent) = self.absent.as_ref().filter(|absent| absent.contains(group)) else { return Ok(()) };
        let arrived = absent.source.wait(group)?;
        self.adopt_arrived(arrived)
    }

    /// Adopts the groups that are loaded and cost nothing to adopt.
    ///
    /// # Errors
    /// `Limit` if a clear of one of them could not be repeated; that group stays absent.
    fn adopt_loaded(&mut self) -> Result<()> {
        let Some(source) = self.absent.as_ref().map(|absent| Arc::clone(&absent.source)) else { return Ok(()) };
        let mut adopted = Ok(());
        for arrived in source.take_loaded() {
            match adopted {
                Ok(()) => adopted = self.adopt_arrived(arrived),
                Err(_) => source.take_back(&arrived.groups),
            }
        }
        adopted
    }

    fn adopt_arrived(&mut self, arrived: Arrived) -> Result<()> {
        let Some(absent) = &mut self.absent else { broken("only absent groups arrive") };
        let Arrived { groups, content } = arrived;
        let evicted = absent.evicted.intersection(&groups);
        if !evicted.is_empty() {
            self.resident.resume(&times_of(&absent.times, &evicted));
        }
        let adopted = load_arrived(&mut self.resident, content, &groups);
        let adopted = adopted.and_then(|()| {
            let cleared = groups.iter().try_for_each(|group| absent.clears.apply(group, &mut self.resident));
            cleared.or_else(|error| self.resident.drop_groups(&groups).and(Err(error)))
        });
        if adopted.is_err() {
            absent.source.take_back(&groups);
            // The wrapped backend has forgotten their times.
            absent.evicted = absent.evicted.union(&groups);
            return adopted;
        }
        self.end_absence(&groups);
        Ok(())
    }

    /// Makes absent groups resident and empty, whatever is stored of them. Their next seal must be a base.
    ///
    /// # Errors
    /// `Usage` if a group is not absent.
    pub(crate) fn give_up(&mut self, groups: &KeyGroupSet) -> Result<()> {
        let Some(absent) = self.absent.as_mut().filter(|absent| groups.difference(&absent.groups).is_empty()) else {
            return Err(Error::usage("only absent key groups can be given up").with("groups", groups));
        };
        self.resident.resume(&times_of(&absent.times, &absent.evicted.intersection(groups)));
        self.resident.load(&Stack::default(), groups)?;
        absent.source.forget(groups);
        self.end_absence(groups);
        Ok(())
    }

    fn end_absence(&mut self, groups: &KeyGroupSet) {
        let Some(absent) = &mut self.absent else { return };
        absent.clears.forget(groups);
        let left = absent.groups.difference(groups);
        if left.is_empty() { self.absent = None } else { absent.set_groups(left) }
    }

    /// Makes the groups of all keys resident, loading several at a time.
    #[inline]
    fn touch_all<'k>(&mut self, keys: impl Iterator<Item = &'k CurrentKey<'k>> + Clone) -> Result<()> {
        match &self.absent {
            None => Ok(()),
            Some(absent) if !keys.clone().any(|key| absent.contains(key.group)) => Ok(()),
            Some(_) => self.ensure(&keys.map(|key| key.group).collect()),
        }
    }
}

/// Adds arrived groups to `backend`; none of them after an error.
fn load_arrived(backend: &mut impl StateBackend, content: ArrivedContent, groups: &KeyGroupSet) -> Result<()> {
    let rows = match content {
        ArrivedContent::Loaded(loaded) => return backend.adopt(loaded, groups),
        ArrivedContent::Rows(rows) => rows,
    };
    let mut rows = rows.iter();
    let Some(first) = rows.next() else { broken("an arrived group has rows, or an empty source of them") };
    backend.load(&**first, groups)?;
    let more = rows.try_for_each(|rows| backend.load_more(&**rows, groups));
    more.or_else(|error| backend.drop_groups(groups).and(Err(error)))
}
