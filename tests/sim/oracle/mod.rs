//! The oracle: observes every effect on the store at its instant and every outcome reported to a node, and checks the
//! invariants. It shares no code with the crate.
//!
//! | invariant | checked by |
//! |---|---|
//! | I1: a manifest's objects exist and are whole, cover each key group once, and hold the model's state | `content::i01_references_are_whole`, `content::i01_records_have_no_gap`, `content::i01_groups_are_covered_once`, `stack::judge::Judge::i01_state_is_the_models` |
//! | I2: an acknowledged checkpoint stays restorable until retention drops it | `Oracle::reported_restored`, `stack::judge::Judge::i02_acknowledged_is_restorable` |
//! | I3: no delete hits an object of a live manifest | `State::i03_nothing_live_is_deleted` |
//! | I4: each number is used once, attempts rise, only the owner appends, positions never fall | `State::i04_lineage`, `State::i04_markers_are_dense`, `State::live_after` |
//! | I5: the reported outcome of a commit agrees with the chain | `Oracle::reported_committed`, `Oracle::reported_refused`, `State::manifest_born` |
//! | I6: damage costs only the checkpoints that need the damaged object, and errors name that object | `stack::atlas` |
//! | I7: the output of committed checkpoints is published, once each, and no other output | `stack::sink::Sink::i07_published_is_committed`, `stack::judge::Judge::i07_output_is_the_models` |
//! | I8: no orphan stays, all memory is released | `Oracle::i08_orphans`, `stack::judge::Judge::i08_memory_is_given_back` |
//! | I9: once faults stop, a node leads, commits and restores | `cluster::Cluster::heal_and_finish` |
//! | I10: a seed determines its run | `modes::Suite::random_seeds` |
//! | I11: each manifest's name is a linearizable write-once register | `testkit::sim::history::i11_is_linearizable` |
//! | I12: no log line or error contains a secret | `Oracle::check_for_secrets` |

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use alluvium::Error;

use crate::points::SECRET;
use crate::stack::Transaction;
use crate::wire::{PutId, SeenManifest};
use alluvium_testkit::sim::{Objects, Sim, Watcher};

pub(crate) use content::Content;

/// The last outcome reported to a node for its draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    /// The commit has begun. If the node dies, the draft stays in this state.
    Started,
    Acknowledged,
    Fenced,
    NotApplied,
}

/// A created manifest.
struct Born {
    manifest: SeenManifest,
    /// Position of its creation among all effects on the store.
    order: u64,
    /// Whether its number was already used.
    void: bool,
}

#[derive(Default)]
struct State {
    violations: Vec<String>,
    order: u64,
    markers: BTreeMap<u64, u64>,
    born: Vec<Born>,
    newest: Option<SeenManifest>,
    /// The newest manifest and the manifests it lists.
    live: BTreeMap<u64, SeenManifest>,
    live_objects: BTreeSet<String>,
    beliefs: BTreeMap<u64, Belief>,
    /// Manifests yet to be compared with the model, each with a copy of the store at its creation.
    newborn: Vec<(SeenManifest, Objects)>,
    /// Sink transactions listed by manifests in the chain.
    transactions: BTreeSet<Transaction>,
    committed: u64,
    restored: u64,
}

/// The oracle. Clones share it.
#[derive(Clone)]
pub(crate) struct Oracle {
    sim: Sim,
    content: Content,
    state: Arc<Mutex<State>>,
}

impl Oracle {
    /// Returns an oracle of jobs whose manifests hold `content`.
    pub(crate) fn new(sim: &Sim, content: Content) -> Self {
        Self { sim: sim.clone(), content, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns the violations so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(crate) fn violation(&self, what: String) {
        self.sim.trace(format_args!("VIOLATION {what}"));
        self.state().violations.push(what);
    }

    /// Takes the manifests created since the last call, each with a copy of the store at its creation.
    pub(crate) fn take_newborn(&self) -> Vec<(SeenManifest, Objects)> {
        std::mem::take(&mut self.state().newborn)
    }

    /// Returns the live manifests, by number.
    pub(crate) fn live(&self) -> BTreeMap<u64, SeenManifest> {
        self.state().live.clone()
    }

    /// Returns the number of commits acknowledged to nodes.
    pub(crate) fn committed(&self) -> u64 {
        self.state().committed
    }

    /// Returns the number of checked restores.
    pub(crate) fn restores(&self) -> u64 {
        self.state().restored
    }

    /// Returns whether the manifest with this number and put-id is live.
    pub(crate) fn is_live(&self, id: (u64, PutId)) -> bool {
        self.state().live.get(&id.0).is_some_and(|live| live.put_id == id.1)
    }

    /// Returns whether a manifest in the chain lists `transaction`.
    pub(crate) fn has_listed(&self, transaction: Transaction) -> bool {
        self.state().transactions.contains(&transaction)
    }

    /// Counts a comparison of restored state with the model.
    pub(crate) fn count_restore(&self) {
        self.state().restored += 1;
    }

    /// Checks a log line or error of the code under test.
    pub(crate) fn check_for_secrets(&self, line: &str) {
        if line.contains(SECRET) {
            self.violation(format!("I12: a secret was disclosed: {line}"));
        }
    }

    /// Returns the data objects in `objects` without a reference from a live manifest.
    pub(crate) fn i08_orphans(&self, objects: &Objects) -> Vec<String> {
        let state = self.state();
        let data = objects.keys().filter_map(|key| key.strip_prefix("job/data/"));
        data.filter(|name| !state.live_objects.contains(*name)).map(str::to_owned).collect()
    }

    /// Records that a node is about to commit a new draft; returns the draft's number.
    pub(crate) fn drafted(&self) -> u64 {
        let mut state = self.state();
        let intent = state.beliefs.len() as u64;
        state.beliefs.insert(intent, Belief::Started);
        intent
    }

    /// Records that a node is about to commit draft `intent`.
    pub(crate) fn started(&self, intent: u64) {
        self.state().beliefs.insert(intent, Belief::Started);
    }

    /// Records that a commit was acknowledged to a node, and checks it against the chain.
    pub(crate) fn reported_committed(&self, intent: u64, attempt: u64, id: (u64, PutId)) {
        self.sim.trace(format_args!("a{attempt} committed draft {intent} as {}", id.0));
        let mut state = self.state();
        state.committed += 1;
        state.beliefs.insert(intent, Belief::Acknowledged);
        let successor = state.markers.get(&(attempt + 1)).copied();
        let born = state.born.iter().find(|born| born.manifest.intent == Some(intent));
        let verdict = match born {
            None => Err("that draft is not in the chain"),
            Some(born) if born.manifest.id() != id => Err("another manifest has that draft"),
            Some(born) if born.void => Err("that manifest is void"),
            Some(born) if successor.is_some_and(|begun| begun < born.order) => Err("a newer attempt had begun"),
            Some(_) => Ok(()),
        };
        drop(state);
        if successor.is_some() {
            self.sim.hit("writer outlived by its successor");
        }
        if let Err(why) = verdict {
            self.violation(format!(
                "I5: draft {intent} of attempt {attempt} was acknowledged as manifest {}, but {why}",
                id.0
            ));
        }
    }

    /// Records that a node was fenced.
    pub(crate) fn reported_fenced(&self, intent: u64, by: u64) {
        let mut state = self.state();
        state.beliefs.insert(intent, Belief::Fenced);
        if !state.markers.contains_key(&by) {
            drop(state);
            self.violation(format!("I4: a node was fenced by attempt {by}, which has not begun"));
        }
    }

    /// Records that a commit was reported as not applied: the draft must never be in the chain.
    pub(crate) fn reported_refused(&self, intent: u64) {
        let mut state = self.state();
        state.beliefs.insert(intent, Belief::NotApplied);
        let present = state.born.iter().any(|born| born.manifest.intent == Some(intent));
        drop(state);
        self.sim.hit("commit refused, proved not done");
        if present {
            self.violation(format!("I5: draft {intent} was reported as not applied, but is in the chain"));
        }
    }

    /// Records that a node restored from a manifest; `outcome` is the number of its records.
    pub(crate) fn reported_restored(&self, id: (u64, PutId), epoch: u64, outcome: Result<u64, Error>) {
        self.state().restored += 1;
        match outcome {
            Ok(records) if records == epoch => {}
            Ok(records) => self.violation(format!("I1: manifest {} holds {records} records, not {epoch}", id.0)),
            // Only a live checkpoint must be restorable; others may have been dropped.
            Err(error) if error.kind().name() == "not_found" && self.is_live(id) => {
                self.violation(format!("I2: manifest {} is live but cannot be restored: {}", id.0, error.chain()));
            }
            Err(error) => {
                if error.kind().name() == "not_found" {
                    self.sim.hit("restore of a checkpoint that was dropped meanwhile");
                }
                self.failed("restore", &error, &["not_found"]);
            }
        }
    }

    /// Records the error of a node's call. Expected are an unreachable store, refused credentials, and the `allowed` kinds;
    /// a healthy store must never look damaged.
    pub(crate) fn failed(&self, what: &str, error: &Error, allowed: &[&str]) {
        let kind = error.kind().name();
        self.sim.trace(format_args!("{what} failed: {kind}: {}", error.chain()));
        self.check_for_secrets(&error.chain());
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

    fn manifest_born(&mut self, sim: &Sim, content: Content, manifest: SeenManifest, objects: &Objects) -> Vec<String> {
        let newest = self.newest.as_ref().map_or(0, |newest| newest.seq);
        let void = manifest.seq <= newest;
        let mut wrong = Vec::new();
        if manifest.seq > newest + 1 {
            wrong.push(format!("I4: manifest {} follows {newest}", manifest.seq));
        }
        if let Some(intent) = manifest.intent
            && self.beliefs.get(&intent) == Some(&Belief::NotApplied)
        {
            wrong.push(format!("I5: draft {intent}, reported as not applied, became manifest {}", manifest.seq));
        }
        if void {
            sim.hit("manifest landed under a number used before");
        } else {
            self.i04_lineage(&manifest, &mut wrong);
            content.check(&manifest, objects, &mut wrong);
            self.live = self.live_after(&manifest, &mut wrong);
            let live = self.live.values().flat_map(|live| &live.objects);
            self.live_objects = live.map(|object| object.name.clone()).collect();
            self.newest = Some(manifest.clone());
            if content == Content::Segments && !manifest.is_claim() {
                self.transactions.extend(content::transactions(&manifest, objects));
                self.newborn.push((manifest.clone(), objects.clone()));
            }
        }
        self.born.push(Born { manifest, order: self.order, void });
        wrong
    }

    /// Attempts rise, only the owner appends, the record count never falls, and a claim skips no commit.
    fn i04_lineage(&self, manifest: &SeenManifest, wrong: &mut Vec<String>) {
        let Some(newest) = &self.newest else { return };
        let seq = manifest.seq;
        let (attempt, owner) = (manifest.attempt, newest.attempt);
        if if manifest.is_claim() { attempt <= owner } else { attempt != owner } {
            wrong.push(format!("I4: manifest {seq} of attempt {attempt} follows a manifest of attempt {owner}"));
        }
        if manifest.job != newest.job {
            wrong.push(format!("I4: manifest {seq} belongs to another job"));
        }
        let parent = manifest.parent.and_then(|(seq, put_id)| self.live.get(&seq).filter(|live| live.put_id == put_id));
        match (manifest.parent, parent) {
            (Some(id), None) => wrong.push(format!("I4: parent {} of manifest {seq} is not live", id.0)),
            (_, Some(parent)) if manifest.epoch < parent.epoch => {
                wrong.push(format!("I4: manifest {seq} has {} records, its parent {}", manifest.epoch, parent.epoch));
            }
            _ => {}
        }
        let newest_restorable = if newest.is_claim() { newest.parent } else { Some(newest.id()) };
        if manifest.is_claim() && manifest.writer.ends_with("Newest") && manifest.parent != newest_restorable {
            wrong.push(format!("I4: claim {seq} skips the newest checkpoint {newest_restorable:?}"));
        }
    }

    /// Attempts begin in order, each once.
    fn i04_markers_are_dense(&mut self, attempt: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        if attempt > 1 && !self.markers.contains_key(&(attempt - 1)) {
            wrong.push(format!("I4: attempt {attempt} began before {}", attempt - 1));
        }
        if self.markers.insert(attempt, self.order).is_some() {
            wrong.push(format!("I4: attempt {attempt} began twice"));
        }
        wrong
    }

    /// No live manifest, no object of a live manifest, and no marker is deleted.
    fn i03_nothing_live_is_deleted(&self, key: &str) -> Option<String> {
        if key.starts_with("job/attempt/") {
            return Some(format!("I3: marker {key} was deleted"));
        }
        // The store refuses a void write under a live number, so the object under that key is the live manifest.
        let live = match (key.strip_prefix("job/manifest/"), key.strip_prefix("job/data/")) {
            (Some(seq), _) => self.live.contains_key(&seq.parse().expect("a manifest is a number")),
            (_, Some(name)) => self.live_objects.contains(name),
            _ => false,
        };
        live.then(|| format!("I3: live {key} was deleted"))
    }

    /// Returns the live manifests once `manifest` is the newest: no void manifest may come back.
    fn live_after(&self, manifest: &SeenManifest, wrong: &mut Vec<String>) -> BTreeMap<u64, SeenManifest> {
        let mut live = BTreeMap::from([(manifest.seq, manifest.clone())]);
        for (seq, put_id) in &manifest.retained {
            match self.live.get(seq).filter(|known| known.put_id == *put_id) {
                Some(known) => drop(live.insert(*seq, known.clone())),
                None => wrong.push(format!("I4: manifest {} lists {seq}, which is not live", manifest.seq)),
            }
        }
        if manifest.is_claim() && manifest.parent.is_some_and(|(parent, _)| !live.contains_key(&parent)) {
            wrong.push(format!("I4: claim {} does not list its parent", manifest.seq));
        }
        live
    }
}

impl Watcher for Oracle {
    fn created(&mut self, key: &str, objects: &Objects) {
        let mut state = self.state();
        state.order += 1;
        if let Some(attempt) = key.strip_prefix("job/attempt/") {
            let wrong = state.i04_markers_are_dense(attempt.parse().expect("a marker is a number"));
            wrong.into_iter().for_each(|wrong| state.fail(&self.sim, wrong));
        } else if key.starts_with("job/manifest/") {
            let mut manifest = SeenManifest::parse(&objects[key].bytes);
            self.content.complete(&mut manifest);
            let wrong = state.manifest_born(&self.sim, self.content, manifest, objects);
            wrong.into_iter().for_each(|wrong| state.fail(&self.sim, wrong));
        }
    }

    fn deleted(&mut self, key: &str, _: &Objects) {
        let mut state = self.state();
        state.order += 1;
        if let Some(wrong) = state.i03_nothing_live_is_deleted(key) {
            state.fail(&self.sim, wrong);
        }
    }
}
