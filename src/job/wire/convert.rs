//! Conversion between messages and their protobuf form, field by field.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    Acknowledge, Acknowledgement, Assign, AssignedOperator, Body, Hello, Kept, Placed, Protobuf, Settle, StateSummary,
    TableEntry, ToOwner, ToWorker, proto,
};
use crate::backend::{CheckpointTimes, Outcome};
use crate::checkpoint::pipeline::PipelineSettings;
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::Participant;
use crate::control::estimate::LoadSample;
use crate::control::interval::Observation;
use crate::error::{Applied, Error, ErrorKind, Result};
use crate::id::{Epoch, Hash, Lineage, OperatorId, Subtask};
use crate::job::Strategy;
use crate::key_group::{Partitioner, check_parallelism};
use crate::manifest::convert::{bits128, bytes128, each, required};
use crate::manifest::proto as manifest;
use crate::manifest::{MAX_NAME_BYTES, SubtaskEntry, check_groups};
use crate::row::{GroupHeat, Statistic};
use crate::time::Timestamp;

/// Bytes of an error's message, or of its sources' text, beyond which a message cuts it.
const MAX_ERROR_BYTES: usize = 8 << 10;

impl Body for ToOwner {
    fn to_proto(&self) -> Protobuf {
        Protobuf(match self {
            Self::Hello(hello) => proto::Body::Hello(hello.into()),
            Self::Restored(subtask) => proto::Body::Restored(participant(*subtask)),
            Self::Arrived(epoch, subtasks) => proto::Body::Arrived(proto::Arrived {
                epoch: epoch.0,
                subtasks: subtasks.iter().copied().map(participant).collect(),
            }),
            Self::Acknowledge(acknowledge) => proto::Body::Acknowledge((&**acknowledge).into()),
            Self::Decline(epoch, reason) => {
                proto::Body::Decline(proto::Decline { epoch: epoch.0, reason: Some(failure(reason)) })
            }
            Self::Dropped(subtask, last) => proto::Body::Dropped(proto::Dropped {
                participant: Some(participant(*subtask)),
                last: last.map(|epoch| epoch.0),
            }),
            Self::Observed(observation) => {
                proto::Body::Observed(proto::Observed { observation: observed(*observation) })
            }
            Self::Refused(error) => proto::Body::Refused(failure(error)),
        })
    }

    fn from_proto(Protobuf(body): Protobuf) -> Result<Self> {
        Ok(match body {
            proto::Body::Hello(hello) => Self::Hello(hello.try_into()?),
            proto::Body::Restored(subtask) => Self::Restored(subtask_of(subtask)),
            proto::Body::Arrived(arrived) => {
                Self::Arrived(Epoch(arrived.epoch), arrived.subtasks.into_iter().map(subtask_of).collect())
            }
            proto::Body::Acknowledge(acknowledge) => Self::Acknowledge(Box::new(acknowledge.try_into()?)),
            proto::Body::Decline(decline) => {
                Self::Decline(Epoch(decline.epoch), error_of(required(decline.reason, "reason")?)?)
            }
            proto::Body::Dropped(dropped) => {
                let subtask = required(dropped.participant, "subtask")?;
                Self::Dropped(subtask_of(subtask), dropped.last.map(Epoch))
            }
            proto::Body::Observed(message) => Self::Observed(observation_of(message)?),
            proto::Body::Refused(error) => Self::Refused(error_of(error)?),
            proto::Body::Assign(_) | proto::Body::Settle(_) | proto::Body::Stop(_) => return Err(other_direction()),
        })
    }
}

impl Body for ToWorker {
    fn to_proto(&self) -> Protobuf {
        Protobuf(match self {
            Self::Assign(assign) => proto::Body::Assign((&**assign).into()),
            Self::Settle(Settle { epoch, outcome, chain, rewrite }) => proto::Body::Settle(proto::Settle {
                epoch: epoch.0,
                committed: *outcome == Outcome::Commit,
                chain: chain.map(chain_to),
                rewrite: rewrite.iter().copied().map(Into::into).collect(),
            }),
            Self::Stop(error) => proto::Body::Stop(failure(error)),
        })
    }

    fn from_proto(Protobuf(body): Protobuf) -> Result<Self> {
        match body {
            proto::Body::Assign(assign) => Ok(Self::Assign(Box::new(assign.try_into()?))),
            proto::Body::Settle(settle) => Ok(Self::Settle(Settle {
                epoch: Epoch(settle.epoch),
                outcome: if settle.committed { Outcome::Commit } else { Outcome::Abort },
                chain: settle.chain.map(chain_of).transpose()?,
                rewrite: each(settle.rewrite)?,
            })),
            proto::Body::Stop(error) => Ok(Self::Stop(error_of(error)?)),
            _ => Err(other_direction()),
        }
    }
}

fn other_direction() -> Error {
    Error::usage("message goes in the other direction")
}

fn participant((operator, subtask): Participant) -> proto::Participant {
    proto::Participant { operator: operator.0, subtask: subtask.0 }
}

fn subtask_of(message: proto::Participant) -> Participant {
    (OperatorId(message.operator), Subtask(message.subtask))
}

impl From<&Hello> for proto::Hello {
    fn from(hello: &Hello) -> Self {
        let Hello { host, domain, writer, program } = hello.clone();
        Self { host, domain, writer, program: bytes128(program.0) }
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = Error;

    fn try_from(message: proto::Hello) -> Result<Self> {
        let proto::Hello { host, domain, writer, program } = message;
        for name in [&host, &domain, &writer] {
            if name.len() > MAX_NAME_BYTES {
                return Err(Error::corrupt("name is too long").with("bytes", name.len()).with("limit", MAX_NAME_BYTES));
            }
        }
        Ok(Self { host, domain, writer, program: Hash(bits128(&program, "program")?) })
    }
}

impl From<&Acknowledge> for proto::Acknowledge {
    fn from(acknowledge: &Acknowledge) -> Self {
        let Placed { acknowledgements, objects, kept, bytes, new_base_bytes, uploads } = &acknowledge.placed;
        let mut before: Option<&Arc<[TableEntry]>> = None;
        let mut subtasks = Vec::with_capacity(acknowledgements.len());
        for acknowledgement in acknowledgements {
            let tables = &acknowledgement.summary.tables;
            let message = proto::Acknowledgement::from(acknowledgement);
            let same = before.replace(tables).is_some_and(|before| before == tables);
            subtasks.push(if same { proto::Acknowledgement { tables: None, ..message } } else { message });
        }
        Self {
            epoch: acknowledge.epoch.0,
            subtasks,
            objects: objects.iter().map(Into::into).collect(),
            kept: kept.iter().map(|kept| kept.id.into()).collect(),
            kept_live_bytes: kept.iter().map(|kept| kept.live_bytes).collect(),
            bytes: *bytes,
            new_base_bytes: *new_base_bytes,
            uploads: *uploads,
            requests: acknowledge.requests,
        }
    }
}

impl TryFrom<proto::Acknowledge> for Acknowledge {
    type Error = Error;

    fn try_from(message: proto::Acknowledge) -> Result<Self> {
        let mut tables: Arc<[TableEntry]> = Arc::from([]);
        let mut acknowledgements = Vec::with_capacity(message.subtasks.len());
        for subtask in message.subtasks {
            if let Some(own) = &subtask.tables {
                tables = own.tables.iter().cloned().map(TableEntry::try_from).collect::<Result<_>>()?;
            }
            acknowledgements.push(acknowledgement_of(subtask, Arc::clone(&tables))?);
        }
        let placed = Placed {
            acknowledgements,
            objects: each(message.objects)?,
            kept: kept_of(message.kept, message.kept_live_bytes)?,
            bytes: message.bytes,
            new_base_bytes: message.new_base_bytes,
            uploads: message.uploads,
        };
        Ok(Self { epoch: Epoch(message.epoch), placed, requests: message.requests })
    }
}

impl From<&Acknowledgement> for proto::Acknowledgement {
    fn from(acknowledgement: &Acknowledgement) -> Self {
        let Acknowledgement { participant: subtask, entry, summary } = acknowledgement;
        let StateSummary { tables, heat, statistics } = summary;
        let statistic = |it: &Statistic| manifest::Statistic { name: it.name.clone(), value: it.value };
        Self {
            participant: Some(participant(*subtask)),
            entry: Some(entry.into()),
            tables: Some(proto::Tables { tables: tables.iter().map(Into::into).collect() }),
            heat: heat.iter().map(Into::into).collect(),
            statistics: statistics.iter().map(statistic).collect(),
        }
    }
}

/// Without `live_bytes`, all of each object is needed.
///
/// # Errors
/// `Corrupt` if the lists differ in length.
fn kept_of(ids: Vec<manifest::ObjectId>, mut live_bytes: Vec<u64>) -> Result<Vec<Kept>> {
    if live_bytes.is_empty() {
        live_bytes.resize(ids.len(), u64::MAX);
    }
    if ids.len() != live_bytes.len() {
        return Err(Error::corrupt("kept objects and their live bytes differ in number"));
    }
    ids.into_iter().zip(live_bytes).map(|(id, live_bytes)| Ok(Kept { id: id.try_into()?, live_bytes })).collect()
}

fn acknowledgement_of(message: proto::Acknowledgement, tables: Arc<[TableEntry]>) -> Result<Acknowledgement> {
    let statistic = |it: manifest::Statistic| Statistic { name: it.name, value: it.value };
    let heat: Vec<GroupHeat> = each(message.heat)?;
    Ok(Acknowledgement {
        participant: subtask_of(required(message.participant, "subtask")?),
        entry: required(message.entry, "entry")?.try_into()?,
        summary: StateSummary { tables, heat, statistics: message.statistics.into_iter().map(statistic).collect() },
    })
}

impl From<&TableEntry> for proto::Table {
    fn from(table: &TableEntry) -> Self {
        Self { schema: Some((&table.schema).into()), declared: table.declared }
    }
}

impl TryFrom<proto::Table> for TableEntry {
    type Error = Error;

    fn try_from(message: proto::Table) -> Result<Self> {
        Ok(Self { schema: required(message.schema, "schema")?.try_into()?, declared: message.declared })
    }
}

/// Sends at most [`MAX_ERROR_BYTES`] of each text: a store may answer with a whole page.
fn failure(error: &Error) -> proto::Failure {
    let chain = error.chain();
    let source = chain.strip_prefix(error.message()).unwrap_or_default().trim_start_matches(": ");
    let head = |text: &str| text.get(..text.floor_char_boundary(MAX_ERROR_BYTES)).unwrap_or_default().to_owned();
    proto::Failure {
        kind: error.kind().name().to_owned(),
        message: head(error.message()),
        source: head(source),
        applied_unknown: error.applied() == Applied::Unknown,
    }
}

fn error_of(message: proto::Failure) -> Result<Error> {
    let kind = ErrorKind::named(&message.kind)
        .ok_or_else(|| Error::version("unknown kind of error").with("found", message.kind.escape_debug()))?;
    let error = Error::new(kind, message.message);
    let error = if message.source.is_empty() { error } else { error.with_source(message.source) };
    Ok(if message.applied_unknown { error.unknown() } else { error })
}

/// Returns `None` for what only the owner observes.
fn observed(observation: Observation) -> Option<proto::Observation> {
    match observation {
        Observation::Load(LoadSample { received, processed, updates, busy, backlog }) => {
            Some(proto::Observation::Load(proto::Load { received, processed, updates, busy, backlog }))
        }
        Observation::Paused(seconds) => Some(proto::Observation::Paused(seconds)),
        Observation::CaughtUp => Some(proto::Observation::CaughtUp(proto::CaughtUp {})),
        _ => None,
    }
}

fn observation_of(message: proto::Observed) -> Result<Observation> {
    match message.observation {
        Some(proto::Observation::Load(load)) => {
            let proto::Load { received, processed, updates, busy, backlog } = load;
            let numbers = [Some(received), Some(processed), updates, busy, backlog];
            if numbers.iter().flatten().any(|number| !number.is_finite() || *number < 0.0) {
                return Err(Error::corrupt("load is out of range"));
            }
            Ok(Observation::Load(LoadSample { received, processed, updates, busy, backlog }))
        }
        Some(proto::Observation::Paused(seconds)) if seconds.is_finite() && seconds >= 0.0 => {
            Ok(Observation::Paused(seconds))
        }
        Some(proto::Observation::Paused(_)) => Err(Error::corrupt("pause is out of range")),
        Some(proto::Observation::CaughtUp(_)) => Ok(Observation::CaughtUp),
        None => Err(Error::version("unknown observation")),
    }
}

impl From<&Assign> for proto::Assign {
    fn from(assign: &Assign) -> Self {
        let (version, seed) = assign.partitioner.version_and_seed();
        let PipelineSettings { pack_bytes, segment_bytes, encoders, uploads, zstd_level, encoder_share } =
            assign.pipeline;
        let (encoders, uploads) = (encoders as u64, uploads as u64);
        Self {
            first_epoch: assign.first_epoch.0,
            restored: assign.restored.map(Into::into),
            partitioner: Some(manifest::Partitioner { name: assign.partitioner.name().to_owned(), version, seed }),
            max_parallelism: u32::from(assign.max_parallelism),
            full: assign.strategy == Strategy::Full,
            chain: assign.chain.map(chain_to),
            pipeline: Some(proto::Pipeline { pack_bytes, segment_bytes, encoders, uploads, zstd_level, encoder_share }),
            inline_bytes: assign.inline_bytes,
            operators: assign.operators.iter().map(Into::into).collect(),
            payload: assign.payload.clone(),
            lineage: bytes128(assign.lineage.0),
            restored_lineage: bytes128(assign.restored_lineage.0),
        }
    }
}

impl TryFrom<proto::Assign> for Assign {
    type Error = Error;

    fn try_from(message: proto::Assign) -> Result<Self> {
        let partitioner = required(message.partitioner, "partitioner")?;
        let pipeline = required(message.pipeline, "pipeline")?;
        let max_parallelism = u16::try_from(message.max_parallelism)
            .map_err(|_| Error::corrupt("max parallelism is too large").with("found", message.max_parallelism))?;
        check_parallelism(1, max_parallelism)
            .map_err(|_| Error::corrupt("max parallelism is out of range").with("found", max_parallelism))?;
        let operators: Vec<AssignedOperator> = each(message.operators)?;
        let mut ids = BTreeSet::new();
        for operator in &operators {
            check_operator(operator, max_parallelism).map_err(|error| error.with("operator", operator.id))?;
            if !ids.insert(operator.id) {
                return Err(Error::corrupt("operator is assigned twice").with("operator", operator.id));
            }
        }
        Ok(Self {
            first_epoch: Epoch(message.first_epoch),
            restored: message.restored.map(TryInto::try_into).transpose()?,
            partitioner: Partitioner::from_parts(&partitioner.name, partitioner.version, partitioner.seed)?,
            max_parallelism,
            strategy: if message.full { Strategy::Full } else { Strategy::Incremental },
            chain: message.chain.map(chain_of).transpose()?,
            pipeline: PipelineSettings {
                pack_bytes: pipeline.pack_bytes,
                segment_bytes: pipeline.segment_bytes,
                encoders: size(pipeline.encoders)?,
                uploads: size(pipeline.uploads)?,
                zstd_level: pipeline.zstd_level,
                encoder_share: pipeline.encoder_share,
            },
            inline_bytes: message.inline_bytes,
            operators,
            payload: Bytes::clone(&message.payload),
            lineage: Lineage(bits128(&message.lineage, "lineage")?),
            restored_lineage: Lineage(bits128(&message.restored_lineage, "restored lineage")?),
        })
    }
}

/// Checks what planning the restore relies on.
fn check_operator(operator: &AssignedOperator, max_parallelism: u16) -> Result<()> {
    check_parallelism(operator.parallelism, max_parallelism)
        .map_err(|_| Error::corrupt("parallelism out of range").with("found", operator.parallelism))?;
    let seats = operator.seats.iter().all(|seat| seat.0 < operator.parallelism);
    if !seats || !operator.seats.is_sorted_by(|a, b| a < b) {
        return Err(Error::corrupt("seats are not subtasks of their operator, in order"));
    }
    let sources = operator.sources.iter().all(|(subtask, _)| subtask.0 < operator.stored_parallelism);
    if !sources || !operator.sources.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(Error::corrupt("sources are not stored subtasks, in order"));
    }
    operator.sources.iter().try_for_each(|(subtask, entry)| {
        let checked = match entry {
            SubtaskEntry::Inline(manifest) => manifest.check(max_parallelism),
            SubtaskEntry::Slice(stored) => check_groups(&stored.summary.groups, max_parallelism),
        };
        checked.map_err(|error| error.with("subtask", subtask))
    })
}

impl From<&AssignedOperator> for proto::Operator {
    fn from(operator: &AssignedOperator) -> Self {
        let begun = |time: Timestamp| (time != Timestamp::MIN).then(|| time.as_millis());
        Self {
            id: operator.id.0,
            key: Some((&operator.key).into()),
            parallelism: operator.parallelism,
            seats: operator.seats.iter().map(|seat| seat.0).collect(),
            stored_parallelism: operator.stored_parallelism,
            tables: operator.tables.iter().map(Into::into).collect(),
            event_time_ms: begun(operator.times.event_time),
            processing_time_ms: begun(operator.times.processing_time),
            sources: operator
                .sources
                .iter()
                .map(|(subtask, entry)| proto::Source { subtask: subtask.0, entry: Some(entry.into()) })
                .collect(),
        }
    }
}

impl TryFrom<proto::Operator> for AssignedOperator {
    type Error = Error;

    fn try_from(message: proto::Operator) -> Result<Self> {
        let time = |millis: Option<i64>| millis.map_or(Timestamp::MIN, Timestamp::from_millis);
        let source =
            |source: proto::Source| Ok((Subtask(source.subtask), required(source.entry, "entry")?.try_into()?));
        Ok(Self {
            id: OperatorId(message.id),
            key: required(message.key, "key")?.into(),
            parallelism: message.parallelism,
            seats: message.seats.into_iter().map(Subtask).collect(),
            stored_parallelism: message.stored_parallelism,
            tables: each(message.tables)?,
            times: CheckpointTimes {
                event_time: time(message.event_time_ms),
                processing_time: time(message.processing_time_ms),
            },
            sources: message.sources.into_iter().map(source).collect::<Result<_>>()?,
        })
    }
}

fn chain_to(chain: ChainPolicy) -> proto::Chain {
    let ChainPolicy { max_segments, spread } = chain;
    proto::Chain { max_segments: max_segments as u64, spread: spread as u64 }
}

fn chain_of(chain: proto::Chain) -> Result<ChainPolicy> {
    Ok(ChainPolicy { max_segments: size(chain.max_segments)?, spread: size(chain.spread)? })
}

fn size(number: u64) -> Result<usize> {
    usize::try_from(number).map_err(|_| Error::corrupt("number is too large").with("found", number))
}
