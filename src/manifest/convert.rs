//! Conversion between a manifest's messages and its types, field by field; `rules` checks across fields.

use bytes::Bytes;

use super::{
    DurabilityLevel, Extension, Layout, Manifest, ManifestKind, ObjectRef, ObjectSlice, OperatorManifest, Program,
    Retained, Schema, StateKind, SubtaskEntry, SubtaskSlice, TableSchema, Ttl, proto,
};
use crate::codec::stored_enum;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, Hash, JobId, ManifestId, ObjectId, OperatorId, PutId, Seq, TableId};
use crate::key_group::Partitioner;
use crate::time::Timestamp;

stored_enum!(ManifestKind { Claim, Checkpoint, Savepoint });
stored_enum!(DurabilityLevel { Captured, Local, Peers, ObjectStore });
stored_enum!(StateKind { Value, List, Map, Reducing, Aggregating, Timers });

/// Returns a field written by every version.
pub(crate) fn required<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| Error::corrupt("field is missing").with("field", name))
}

/// Returns a field of 128 bits.
pub(crate) fn bits128(bytes: &Bytes, name: &str) -> Result<[u8; 16]> {
    let wrong = |_| Error::corrupt("field does not have 16 bytes").with("field", name).with("found", bytes.len());
    <[u8; 16]>::try_from(bytes.as_ref()).map_err(wrong)
}

/// Converts all items, or returns the first error.
pub(crate) fn each<A, B: TryFrom<A, Error = Error>>(items: Vec<A>) -> Result<Vec<B>> {
    items.into_iter().map(B::try_from).collect()
}

pub(crate) fn bytes128(bits: [u8; 16]) -> Bytes {
    Bytes::copy_from_slice(&bits)
}

impl From<&Manifest> for proto::Manifest {
    fn from(manifest: &Manifest) -> Self {
        let (version, seed) = manifest.partitioner.version_and_seed();
        Self {
            job: bytes128(manifest.job.0),
            seq: manifest.seq.0,
            kind: manifest.kind as u32,
            attempt: manifest.attempt.0,
            epoch: manifest.epoch.0,
            parent: manifest.parent.map(Into::into),
            retained: manifest.retained.iter().map(Into::into).collect(),
            created_at_ms: manifest.created_at.as_millis(),
            writer: manifest.writer.clone(),
            program: Some(proto::Program {
                bytes: manifest.program.bytes.clone(),
                hash: bytes128(manifest.program.hash.0),
            }),
            partitioner: Some(proto::Partitioner { name: manifest.partitioner.name().to_owned(), version, seed }),
            max_parallelism: u32::from(manifest.max_parallelism),
            objects: manifest.objects.iter().map(Into::into).collect(),
            level: manifest.level as u32,
            operators: manifest.operators.iter().map(Into::into).collect(),
            extensions: manifest.extensions.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Manifest> for Manifest {
    type Error = Error;

    fn try_from(message: proto::Manifest) -> Result<Self> {
        let program = required(message.program, "program")?;
        let partitioner = required(message.partitioner, "partitioner")?;
        let max_parallelism = u16::try_from(message.max_parallelism)
            .map_err(|_| Error::corrupt("max parallelism is too large").with("found", message.max_parallelism))?;
        Ok(Self {
            job: JobId(bits128(&message.job, "job")?),
            seq: Seq(message.seq),
            kind: ManifestKind::from_stored(message.kind)?,
            attempt: Attempt(message.attempt),
            epoch: Epoch(message.epoch),
            parent: message.parent.map(TryInto::try_into).transpose()?,
            retained: each(message.retained)?,
            created_at: Timestamp::from_millis(message.created_at_ms),
            writer: message.writer,
            program: Program { hash: Hash(bits128(&program.hash, "program hash")?), bytes: program.bytes },
            partitioner: Partitioner::from_parts(&partitioner.name, partitioner.version, partitioner.seed)?,
            max_parallelism,
            objects: each(message.objects)?,
            level: DurabilityLevel::from_stored(message.level)?,
            operators: each(message.operators)?,
            extensions: each(message.extensions)?,
        })
    }
}

impl From<ManifestId> for proto::ManifestId {
    fn from(id: ManifestId) -> Self {
        Self { seq: id.seq.0, put_id: bytes128(id.put_id.0) }
    }
}

impl TryFrom<proto::ManifestId> for ManifestId {
    type Error = Error;

    fn try_from(message: proto::ManifestId) -> Result<Self> {
        Ok(Self { seq: Seq(message.seq), put_id: PutId(bits128(&message.put_id, "put-id")?) })
    }
}

impl From<&Retained> for proto::Retained {
    fn from(retained: &Retained) -> Self {
        Self { id: Some(retained.id.into()), hash: bytes128(retained.hash.0), kind: retained.kind as u32 }
    }
}

impl TryFrom<proto::Retained> for Retained {
    type Error = Error;

    fn try_from(message: proto::Retained) -> Result<Self> {
        Ok(Self {
            id: required(message.id, "retained id")?.try_into()?,
            hash: Hash(bits128(&message.hash, "retained hash")?),
            kind: ManifestKind::from_stored(message.kind)?,
        })
    }
}

impl From<ObjectId> for proto::ObjectId {
    fn from(id: ObjectId) -> Self {
        Self { attempt: id.attempt.0, random: bytes128(id.random) }
    }
}

impl TryFrom<proto::ObjectId> for ObjectId {
    type Error = Error;

    fn try_from(message: proto::ObjectId) -> Result<Self> {
        Ok(Self { attempt: Attempt(message.attempt), random: bits128(&message.random, "object id")? })
    }
}

impl From<&ObjectRef> for proto::Object {
    fn from(object: &ObjectRef) -> Self {
        let layout = match object.layout {
            Layout::Whole => proto::Layout::Whole(proto::Whole {}),
            Layout::Shards { k, m, shard_bytes } => proto::Layout::Shards(proto::Shards { k, m, shard_bytes }),
        };
        Self {
            id: Some(object.id.into()),
            put_id: bytes128(object.put_id.0),
            bytes: object.bytes,
            hash: bytes128(object.hash.0),
            layout: Some(layout),
            cipher: object.cipher,
            key_id: object.key_id.clone(),
        }
    }
}

impl TryFrom<proto::Object> for ObjectRef {
    type Error = Error;

    fn try_from(message: proto::Object) -> Result<Self> {
        let layout = match message.layout {
            Some(proto::Layout::Whole(proto::Whole {})) => Layout::Whole,
            Some(proto::Layout::Shards(proto::Shards { k, m, shard_bytes })) => Layout::Shards { k, m, shard_bytes },
            None => return Err(Error::version("object has a layout that this build lacks")),
        };
        Ok(Self {
            id: required(message.id, "object id")?.try_into()?,
            put_id: PutId(bits128(&message.put_id, "object put-id")?),
            bytes: message.bytes,
            hash: Hash(bits128(&message.hash, "object hash")?),
            layout,
            cipher: message.cipher,
            key_id: message.key_id,
        })
    }
}

impl From<&OperatorManifest> for proto::Operator {
    fn from(operator: &OperatorManifest) -> Self {
        Self {
            id: operator.id.0,
            name: operator.name.clone(),
            parallelism: operator.parallelism,
            tables: operator.tables.iter().map(Into::into).collect(),
            subtasks: operator.subtasks.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Operator> for OperatorManifest {
    type Error = Error;

    fn try_from(message: proto::Operator) -> Result<Self> {
        Ok(Self {
            id: OperatorId(message.id),
            name: message.name,
            parallelism: message.parallelism,
            tables: each(message.tables)?,
            subtasks: each(message.subtasks)?,
        })
    }
}

impl From<&SubtaskEntry> for proto::SubtaskEntry {
    fn from(entry: &SubtaskEntry) -> Self {
        let subtask = match entry {
            SubtaskEntry::Inline(subtask) => proto::Subtask::Inline(subtask.into()),
            SubtaskEntry::Slice(SubtaskSlice { slice, summary }) => {
                proto::Subtask::Slice(proto::SubtaskSlice { slice: Some(slice.into()), summary: Some(summary.into()) })
            }
        };
        Self { subtask: Some(subtask) }
    }
}

impl TryFrom<proto::SubtaskEntry> for SubtaskEntry {
    type Error = Error;

    fn try_from(message: proto::SubtaskEntry) -> Result<Self> {
        match message.subtask {
            Some(proto::Subtask::Inline(subtask)) => subtask.try_into().map(Self::Inline),
            Some(proto::Subtask::Slice(stored)) => Ok(Self::Slice(SubtaskSlice {
                slice: required(stored.slice, "slice")?.try_into()?,
                summary: required(stored.summary, "summary")?.try_into()?,
            })),
            None => Err(Error::version("subtask is stored in a way that this build lacks")),
        }
    }
}

impl From<&ObjectSlice> for proto::ObjectSlice {
    fn from(slice: &ObjectSlice) -> Self {
        Self {
            object: Some(slice.object.into()),
            offset: slice.offset,
            length: slice.length,
            hash: bytes128(slice.hash.0),
        }
    }
}

impl TryFrom<proto::ObjectSlice> for ObjectSlice {
    type Error = Error;

    fn try_from(message: proto::ObjectSlice) -> Result<Self> {
        Ok(Self {
            object: required(message.object, "slice object")?.try_into()?,
            offset: message.offset,
            length: message.length,
            hash: Hash(bits128(&message.hash, "slice hash")?),
        })
    }
}

impl From<&TableSchema> for proto::Table {
    fn from(table: &TableSchema) -> Self {
        Self {
            id: table.id.0,
            name: table.name.clone(),
            kind: table.kind as u32,
            key: Some((&table.key).into()),
            namespace: Some((&table.namespace).into()),
            sub: Some((&table.sub).into()),
            value: Some((&table.value).into()),
            ttl: table.ttl.map(Into::into),
            merge_operator: table.merge_operator.clone(),
        }
    }
}

impl TryFrom<proto::Table> for TableSchema {
    type Error = Error;

    fn try_from(message: proto::Table) -> Result<Self> {
        Ok(Self {
            id: TableId(message.id),
            name: message.name,
            kind: StateKind::from_stored(message.kind)?,
            key: required(message.key, "key schema")?.into(),
            namespace: required(message.namespace, "namespace schema")?.into(),
            sub: required(message.sub, "sub-key schema")?.into(),
            value: required(message.value, "value schema")?.into(),
            ttl: message.ttl.map(Into::into),
            merge_operator: message.merge_operator,
        })
    }
}

impl From<Ttl> for proto::Ttl {
    fn from(ttl: Ttl) -> Self {
        Self {
            life_ms: ttl.millis,
            on_read: ttl.on_read,
            event_time: ttl.event_time,
            since_ms: ttl.since.map(Timestamp::as_millis),
            dead_until_ms: ttl.dead_until.map(Timestamp::as_millis),
        }
    }
}

impl From<proto::Ttl> for Ttl {
    fn from(message: proto::Ttl) -> Self {
        Self {
            millis: message.life_ms,
            on_read: message.on_read,
            event_time: message.event_time,
            since: message.since_ms.map(Timestamp::from_millis),
            dead_until: message.dead_until_ms.map(Timestamp::from_millis),
        }
    }
}

impl From<&Schema> for proto::Schema {
    fn from(schema: &Schema) -> Self {
        Self { name: schema.name.clone(), version: schema.version }
    }
}

impl From<proto::Schema> for Schema {
    fn from(message: proto::Schema) -> Self {
        Self { name: message.name, version: message.version }
    }
}

impl From<&Extension> for proto::Extension {
    fn from(extension: &Extension) -> Self {
        Self { tag: extension.tag.clone(), required: extension.required, bytes: extension.bytes.clone() }
    }
}

impl TryFrom<proto::Extension> for Extension {
    type Error = Error;

    fn try_from(message: proto::Extension) -> Result<Self> {
        // This version has no required extensions.
        if message.required {
            let error = Error::version("manifest needs an extension that this build lacks");
            return Err(error.with("tag", message.tag.escape_debug()));
        }
        Ok(Self { tag: message.tag, required: message.required, bytes: message.bytes })
    }
}
