//! Operator state from arbitrary opaques: restored state survives the next checkpoint, at any parallelism.

use alluvium::manifest::{Manifest, ManifestKind, OperatorManifest, SubtaskEntry, SubtaskManifest};
use alluvium::{
    Epoch, Fixed, Job, JobBuilder, JobSettings, LogBackend, Opaque, OpaqueContent, OpaqueRole, OperatorId,
    OperatorSpec, Raw, Redistribution, RestoreFrom, Result, Seq, Store, Subtask, Task, Timestamp, Utf8, subtask_range,
};
use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;

use super::object::{MAX_PARALLELISM, golden};
use super::world::{self, Objects};

const OPERATOR: OperatorId = OperatorId(1);

#[derive(Debug, Arbitrary)]
struct Case {
    subtasks: Vec<Vec<Carried>>,
    parallelism: [u8; 2],
}

#[derive(Debug, Arbitrary)]
struct Carried {
    name: Name,
    redistribution: u8,
    items: Vec<u8>,
    bytes: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
enum Name {
    List,
    UnionList,
    Broadcast,
    Other,
    Labels,
    Any(String),
}

impl Carried {
    fn opaque(&self) -> Opaque {
        let name = match &self.name {
            Name::List => "operator-state:list:1:5:bytes:list".into(),
            Name::UnionList => "operator-state:union-list:1:4:utf8:union".into(),
            Name::Broadcast => "operator-state:broadcast:1:5:bytes:1:5:u64le:rules".into(),
            Name::Other => "operator-state:list:1:5:bytes:no longer declared".into(),
            Name::Labels => "operator-state:labels".into(),
            Name::Any(rest) => format!("operator-state:{rest}"),
        };
        let kinds = [
            Redistribution::Split,
            Redistribution::Union,
            Redistribution::Broadcast,
            Redistribution::None,
            Redistribution::ByChannel,
            Redistribution::ByKeyGroup,
        ];
        // Usually the redistribution of that kind of state, so that fuzzing gets past the first check.
        let own = match &self.name {
            Name::List | Name::Other => 0,
            Name::UnionList => 1,
            Name::Broadcast | Name::Labels | Name::Any(_) => 2,
        };
        let redistribution =
            kinds[if self.redistribution < 200 { own } else { usize::from(self.redistribution) % kinds.len() }];
        let mut item_offsets: Vec<u64> = self.items.iter().map(|at| u64::from(*at)).collect();
        item_offsets.sort_unstable();
        let content = OpaqueContent::Inline(Bytes::copy_from_slice(&self.bytes));
        Opaque { role: OpaqueRole::Operator, name, redistribution, channel: None, item_offsets, content }
    }
}

/// Opaques of a checkpoint's subtasks, restored by a job that declares one state of each kind.
pub fn operator_state(data: &[u8]) -> Result<()> {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return Ok(()) };
    world::run(async {
        let mut objects = Objects::new();
        let Some(checkpoint) = checkpoint(&case) else { return Ok(()) };
        let (manifest, put_id) = golden();
        let claim = Manifest { seq: Seq(1), parent: None, retained: vec![], ..manifest };
        objects.insert("job/manifest/00000000000000000001".into(), claim.encode(put_id)?);
        objects.insert("job/manifest/00000000000000000002".into(), checkpoint.encode(put_id)?);
        let (_, store) = world::store(&objects, 1).await;
        let [first, second] = case.parallelism.map(|number| 1 + u32::from(number % 4));
        let mut job = Running::open(store.clone(), first).await?;
        let before = job.content()?;
        let epoch = job.checkpoint().await?;
        drop(job);
        let after = Running::open(store, second).await.and_then(|mut job| job.content());
        let after = after.unwrap_or_else(|error| panic!("epoch {epoch} does not restore: {}", error.chain()));
        assert_eq!(after, before);
        Ok(())
    })
}

/// Returns a checkpoint with the opaques; `None` if a manifest rule refuses them.
fn checkpoint(case: &Case) -> Option<Manifest> {
    let (manifest, put_id) = golden();
    let parallelism = u32::try_from(case.subtasks.len().clamp(1, usize::from(MAX_PARALLELISM))).ok()?;
    let subtask = |index| SubtaskManifest {
        subtask: Subtask(index),
        groups: subtask_range(manifest.max_parallelism, parallelism, index).into(),
        watermark: Timestamp::MIN,
        segments: vec![],
        opaques: case.subtasks.get(index as usize).into_iter().flatten().map(Carried::opaque).collect(),
        times: vec![],
        heat: vec![],
    };
    let subtasks = (0..parallelism).map(|index| SubtaskEntry::Inline(subtask(index))).collect();
    let operator = OperatorManifest { id: OPERATOR, name: "operator".into(), parallelism, tables: vec![], subtasks };
    let found = Manifest {
        seq: Seq(2),
        kind: ManifestKind::Checkpoint,
        parent: None,
        retained: vec![],
        epoch: Epoch(9),
        objects: vec![],
        operators: vec![operator],
        ..manifest
    };
    found.encode(put_id).is_ok().then_some(found)
}

struct Running {
    job: Job,
    tasks: Vec<Task<LogBackend>>,
}

/// All items of the list, then the union list and the rules as each subtask holds them.
type Content = (Vec<Vec<u8>>, Vec<String>, Vec<(Vec<u8>, u64)>);

impl Running {
    async fn open(store: Store, parallelism: u32) -> Result<Self> {
        let settings = JobSettings::default().with(|it| it.max_parallelism = golden().0.max_parallelism);
        let builder = JobBuilder::new(store).settings(settings).restore_from(RestoreFrom::Newest);
        let mut job = builder.operator(OperatorSpec::new(OPERATOR, "operator", parallelism)).open().await?;
        let mut tasks = Vec::new();
        for seat in job.take_seats() {
            tasks.push(seat.restore(LogBackend::new).await?);
        }
        Ok(Self { job, tasks })
    }

    /// Declares the states, clears the union list except on subtask 0, and returns the contents.
    fn content(&mut self) -> Result<Content> {
        let mut items = Vec::new();
        let mut same = Vec::new();
        for task in &mut self.tasks {
            let first = task.subtask().0 == 0;
            let state = task.operator_state();
            let list = state.list("list", Raw)?;
            let union = state.union_list("union", Utf8)?;
            let rules = state.broadcast("rules", Raw, Fixed)?;
            items.extend(list.get(state)?);
            let rules: Result<Vec<(Vec<u8>, u64)>> = rules.iter(state)?.collect();
            same.push((union.get(state)?, rules?));
            if !first {
                union.clear(state)?;
            }
        }
        items.sort_unstable();
        assert!(same.windows(2).all(|pair| pair[0] == pair[1]), "subtasks differ: {same:?}");
        let (union, rules) = same.swap_remove(0);
        Ok((items, union, rules))
    }

    async fn checkpoint(&mut self) -> Result<Epoch> {
        let barrier = self.job.trigger()?.expect("none is in flight");
        for task in &mut self.tasks {
            task.barrier(barrier, Timestamp::MIN, vec![])?;
        }
        assert!(self.job.wait(barrier).await?.is_some(), "aborted: {:?}", self.job.progress().last_decline);
        Ok(barrier.epoch)
    }
}
