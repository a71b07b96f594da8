//! The oracle: sees every effect on the store at the instant that it happens, and everything that nodes believe, and
//! knows what must never be. It shares no code with the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use alluvium::error::Error;

use crate::harness::{Objects, Sim, Watcher};
use crate::wire::{self, PutId, SeenManifest};

/// What a node believes of a draft that it wanted committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    Unknown,
    Committed,
    Fenced,
    NotDone,
}

/// A manifest as it came into being.
struct Born {
    manifest: SeenManifest,
    /// Its place in the order of all effects.
    order: u64,
    /// Whether its number had been used before.
    void: bool,
}

#[derive(Default)]
struct State {
    violations: Vec<String>,
    order: u64,
    markers: BTreeMap<u64, u64>,
    born: Vec<Born>,
    newest: Option<SeenManifest>,
    /// The newest manifest and those that it lists.
    live: BTreeMap<u64, SeenManifest>,
    live_objects: BTreeSet<String>,
    beliefs: BTreeMap<u64, Belief>,
    committed: u64,
    restored: u64,
}

/// The oracle. Clones share it.
#[derive(Clone)]
pub(crate) struct Oracle {
    sim: Sim,
    state: Arc<Mutex<State>>,
}

impl Oracle {
    pub(crate) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns what must never have happened, but did.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(crate) fn violation(&self, what: String) {
        self.sim.trace(format_args!("VIOLATION {what}"));
        self.state().violations.push(what);
    }

    /// Returns the commits that nodes have been told of.
    pub(crate) fn committed(&self) -> u64 {
        self.state().committed
    }

    /// Returns the restores that were checked.
    pub(crate) fn restores(&self) -> u64 {
        self.state().restored
    }

    /// Returns whether that write of a manifest is live.
    pub(crate) fn is_live(&self, id: (u64, PutId)) -> bool {
        self.state().live.get(&id.0).is_some_and(|live| live.put_id == id.1)
    }

    /// Returns the data objects in `objects` that no live manifest refers to.
    pub(crate) fn orphans(&self, objects: &Objects) -> Vec<String> {
        let state = self.state();
        let data = objects.keys().filter_map(|key| key.strip_prefix("job/data/"));
        data.filter(|name| !state.live_objects.contains(*name)).map(str::to_owned).collect()
    }

    /// Takes note that a node is about to commit a draft; returns its number.
    pub(crate) fn drafted(&self) -> u64 {
        let mut state = self.state();
        let intent = state.beliefs.len() as u64;
        state.beliefs.insert(intent, Belief::Unknown);
        intent
    }

    /// A node was told that its draft is committed.
    pub(crate) fn was_committed(&self, intent: u64, attempt: u64, id: (u64, PutId)) {
        self.sim.trace(format_args!("a{attempt} committed draft {intent} as {}", id.0));
        let mut state = self.state();
        state.committed += 1;
        state.beliefs.insert(intent, Belief::Committed);
        let successor = state.markers.get(&(attempt + 1)).copied();
        let born = state.born.iter().find(|born| born.manifest.intent == Some(intent));
        let verdict = match born {
            None => Err("it is not in the chain"),
            Some(born) if born.manifest.id() != id => Err("it is another write"),
            Some(born) if born.void => Err("it is void"),
            Some(born) if successor.is_some_and(|begun| begun < born.order) => Err("a newer attempt had begun"),
            Some(_) => Ok(()),
        };
        drop(state);
        if let Err(why) = verdict {
            self.violation(format!(
                "attempt {attempt} was told that its draft {intent} is manifest {}, but {why}",
                id.0
            ));
        }
    }

    /// A node was told that it is fenced.
    pub(crate) fn was_fenced(&self, intent: u64, by: u64) {
        let mut state = self.state();
        state.beliefs.insert(intent, Belief::Fenced);
        if !state.markers.contains_key(&by) {
            drop(state);
            self.violation(format!("a node was fenced by attempt {by}, which nobody has begun"));
        }
    }

    /// A node was told that its draft is not in the chain and never will be.
    pub(crate) fn was_refused(&self, intent: u64) {
        let mut state = self.state();
        state.beliefs.insert(intent, Belief::NotDone);
        let present = state.born.iter().any(|born| born.manifest.intent == Some(intent));
        drop(state);
        if present {
            self.violation(format!("draft {intent} was given up as not done, but it is in the chain"));
        }
    }

    /// A node restored from a manifest; `outcome` is what its records came to.
    pub(crate) fn was_restored(&self, id: (u64, PutId), epoch: u64, outcome: Result<u64, Error>) {
        self.state().restored += 1;
        match outcome {
            Ok(records) if records == epoch => {}
            Ok(records) => self.violation(format!("manifest {} holds {records} records, not {epoch}", id.0)),
            // It may have been dropped meanwhile.
            Err(error) if error.kind().name() == "not_found" && self.is_live(id) => {
                self.violation(format!("manifest {} is live but cannot be restored: {}", id.0, error.chain()));
            }
            Err(error) => self.failed("restore", &error, &["not_found"]),
        }
    }

    /// A node's call failed. A store out of reach or out of rights is to be expected, besides `allowed` kinds; a healthy
    /// store never looks damaged.
    pub(crate) fn failed(&self, what: &str, error: &Error, allowed: &[&str]) {
        let kind = error.kind().name();
        self.sim.trace(format_args!("{what} failed: {kind}: {}", error.chain()));
        if kind != "unavailable" && kind != "denied" && !allowed.contains(&kind) {
            self.violation(format!("{what} failed with error[{kind}]: {}", error.chain()));
        }
    }
}

impl State {
    fn fail(&mut self, sim: &Sim, what: String) {
        sim.trace(format_args!("VIOLATION {what}"));
        self.violations.push(what);
    }

    fn manifest_born(&mut self, manifest: SeenManifest, objects: &Objects) -> Vec<String> {
        let newest = self.newest.as_ref().map_or(0, |newest| newest.seq);
        let void = manifest.seq <= newest;
        let mut wrong = Vec::new();
        if manifest.seq > newest + 1 {
            wrong.push(format!("manifest {} follows {newest}", manifest.seq));
        }
        if let Some(intent) = manifest.intent
            && self.beliefs.get(&intent) == Some(&Belief::NotDone)
        {
            wrong.push(format!("draft {intent}, given up as not done, became manifest {}", manifest.seq));
        }
        if !void {
            self.check_lineage(&manifest, &mut wrong);
            check_content(&manifest, objects, &mut wrong);
            self.live = self.live_after(&manifest, &mut wrong);
            self.live_objects = self.live.values().flat_map(|live| live.objects.iter().cloned()).collect();
            self.newest = Some(manifest.clone());
        }
        self.born.push(Born { manifest, order: self.order, void });
        wrong
    }

    /// Attempts rise, only the owner appends, records never get fewer, and no commit is passed over.
    fn check_lineage(&self, manifest: &SeenManifest, wrong: &mut Vec<String>) {
        let Some(newest) = &self.newest else { return };
        let seq = manifest.seq;
        let (attempt, owner) = (manifest.attempt, newest.attempt);
        if if manifest.is_claim() { attempt <= owner } else { attempt != owner } {
            wrong.push(format!("manifest {seq} of attempt {attempt} follows one of attempt {owner}"));
        }
        if manifest.job != newest.job {
            wrong.push(format!("manifest {seq} is of another job"));
        }
        let parent = manifest.parent.and_then(|(seq, put_id)| self.live.get(&seq).filter(|live| live.put_id == put_id));
        match (manifest.parent, parent) {
            (Some(id), None) => wrong.push(format!("parent {} of manifest {seq} is not live", id.0)),
            (_, Some(parent)) if manifest.epoch < parent.epoch => {
                wrong.push(format!("manifest {seq} has {} records, its parent {}", manifest.epoch, parent.epoch));
            }
            _ => {}
        }
        let newest_restorable = if newest.is_claim() { newest.parent } else { Some(newest.id()) };
        if manifest.is_claim() && manifest.writer.ends_with("Newest") && manifest.parent != newest_restorable {
            wrong.push(format!("claim {seq} passes over the newest checkpoint {newest_restorable:?}"));
        }
    }

    /// What lives with `manifest`: nothing that did not live before.
    fn live_after(&self, manifest: &SeenManifest, wrong: &mut Vec<String>) -> BTreeMap<u64, SeenManifest> {
        let mut live = BTreeMap::from([(manifest.seq, manifest.clone())]);
        for (seq, put_id) in &manifest.retained {
            match self.live.get(seq).filter(|known| known.put_id == *put_id) {
                Some(known) => drop(live.insert(*seq, known.clone())),
                None => wrong.push(format!("manifest {} lists {seq}, which was void", manifest.seq)),
            }
        }
        if manifest.is_claim() && manifest.parent.is_some_and(|(parent, _)| !live.contains_key(&parent)) {
            wrong.push(format!("claim {} does not list its parent", manifest.seq));
        }
        live
    }
}

/// All references exist, and what they hold is the records from the first on, without a gap.
fn check_content(manifest: &SeenManifest, objects: &Objects, wrong: &mut Vec<String>) {
    let mut ranges = Vec::new();
    for name in &manifest.objects {
        match objects.get(&format!("job/data/{name}")) {
            Some(stored) => ranges.push(wire::records(&stored.bytes)),
            None => wrong.push(format!("manifest {} refers to {name}, which is not there", manifest.seq)),
        }
    }
    ranges.sort_unstable();
    let mut next = 0;
    for (from, to) in ranges {
        if from != next {
            wrong.push(format!("manifest {} has a gap at {next}", manifest.seq));
        }
        next = to;
    }
    if manifest.is_checkpoint() && next != manifest.epoch {
        wrong.push(format!("manifest {} holds {next} records, not {}", manifest.seq, manifest.epoch));
    }
}

impl Watcher for Oracle {
    fn created(&mut self, key: &str, objects: &Objects) {
        let mut state = self.state();
        state.order += 1;
        if let Some(attempt) = key.strip_prefix("job/attempt/") {
            let attempt: u64 = attempt.parse().expect("a marker is a number");
            let order = state.order;
            if attempt > 1 && !state.markers.contains_key(&(attempt - 1)) {
                state.fail(&self.sim, format!("attempt {attempt} was begun before {}", attempt - 1));
            }
            if state.markers.insert(attempt, order).is_some() {
                state.fail(&self.sim, format!("attempt {attempt} was begun twice"));
            }
        } else if key.starts_with("job/manifest/") {
            let manifest = SeenManifest::parse(&objects[key].bytes);
            let wrong = state.manifest_born(manifest, objects);
            wrong.into_iter().for_each(|wrong| state.fail(&self.sim, wrong));
        }
    }

    fn deleted(&mut self, key: &str, _: &Objects) {
        let mut state = self.state();
        state.order += 1;
        if key.starts_with("job/attempt/") {
            state.fail(&self.sim, format!("marker {key} was deleted"));
        } else if let Some(seq) = key.strip_prefix("job/manifest/") {
            // Void writes under a live number are refused as taken, so what goes is what is live.
            if state.live.contains_key(&seq.parse().expect("a manifest is a number")) {
                state.fail(&self.sim, format!("live {key} was deleted"));
            }
        } else if let Some(name) = key.strip_prefix("job/data/")
            && state.live_objects.contains(name)
        {
            state.fail(&self.sim, format!("{key}, which a live manifest refers to, was deleted"));
        }
    }
}
