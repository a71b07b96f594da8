//! A minimal parser of stored bytes that shares no code with the crate: the envelope's header and protobuf fields.

use alluvium_testkit::sim::Objects;

/// Length of the envelope's header.
pub(crate) const HEADER_BYTES: usize = 48;

const CHECKPOINT: u64 = 2;
const CLAIM: u64 = 1;

pub(crate) type PutId = [u8; 16];

/// The fields of a manifest that the oracle needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenManifest {
    pub(crate) put_id: PutId,
    pub(crate) job: Vec<u8>,
    pub(crate) seq: u64,
    pub(crate) kind: u64,
    pub(crate) attempt: u64,
    pub(crate) epoch: u64,
    pub(crate) parent: Option<(u64, PutId)>,
    pub(crate) retained: Vec<(u64, PutId)>,
    pub(crate) writer: String,
    pub(crate) max_parallelism: u64,
    pub(crate) objects: Vec<SeenObject>,
    pub(crate) operators: Vec<SeenOperator>,
    /// The scenario's number of the draft, if any.
    pub(crate) intent: Option<u64>,
}

/// A manifest's reference to a data object.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenObject {
    /// Last segment of its key.
    pub(crate) name: String,
    pub(crate) put_id: PutId,
    pub(crate) bytes: u64,
    pub(crate) hash: Vec<u8>,
}

/// An operator, with its subtasks inlined in the manifest.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenOperator {
    pub(crate) id: u64,
    pub(crate) parallelism: u64,
    pub(crate) subtasks: Vec<SeenSubtask>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SeenSubtask {
    pub(crate) groups: Vec<(u64, u64)>,
    pub(crate) segments: Vec<SeenSlice>,
    pub(crate) opaques: Vec<SeenOpaque>,
}

/// A part of a data object.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenSlice {
    pub(crate) object: String,
    pub(crate) groups: Vec<(u64, u64)>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SeenOpaque {
    pub(crate) role: u64,
    pub(crate) name: String,
    pub(crate) inline: Vec<u8>,
    pub(crate) stored: Option<SeenSlice>,
}

impl SeenManifest {
    pub(crate) fn parse(object: &[u8]) -> Self {
        let mut seen = Self { put_id: put_id(object), ..Self::default() };
        for (field, value) in fields(body(object)) {
            match field {
                1 => seen.job = value.bytes().to_vec(),
                2 => seen.seq = value.number(),
                3 => seen.kind = value.number(),
                4 => seen.attempt = value.number(),
                5 => seen.epoch = value.number(),
                6 => seen.parent = Some(manifest_id(value.bytes())),
                7 => {
                    let id = fields(value.bytes()).find(|(field, _)| *field == 1).expect("a retained entry has an id");
                    seen.retained.push(manifest_id(id.1.bytes()));
                }
                9 => seen.writer = text(value.bytes()),
                12 => seen.max_parallelism = value.number(),
                13 => seen.objects.push(SeenObject::parse(value.bytes())),
                15 => seen.operators.push(SeenOperator::parse(value.bytes())),
                16 if is_intent(value.bytes()) => {
                    let bytes = fields(value.bytes()).find(|(field, _)| *field == 3).expect("an extension has bytes");
                    seen.intent = Some(u64::from_le_bytes(bytes.1.bytes().try_into().expect("a number")));
                }
                _ => {}
            }
        }
        seen
    }

    pub(crate) fn is_claim(&self) -> bool {
        self.kind == CLAIM
    }

    pub(crate) fn is_checkpoint(&self) -> bool {
        self.kind == CHECKPOINT
    }

    pub(crate) fn id(&self) -> (u64, PutId) {
        (self.seq, self.put_id)
    }
}

impl SeenObject {
    fn parse(message: &[u8]) -> Self {
        let mut seen = Self::default();
        for (field, value) in fields(message) {
            match field {
                1 => seen.name = object_name(value.bytes()),
                2 => seen.put_id = value.bytes().try_into().expect("a put-id has 16 bytes"),
                3 => seen.bytes = value.number(),
                4 => seen.hash = value.bytes().to_vec(),
                _ => {}
            }
        }
        seen
    }
}

impl SeenOperator {
    fn parse(message: &[u8]) -> Self {
        let mut seen = Self::default();
        for (field, value) in fields(message) {
            match field {
                1 => seen.id = value.number(),
                3 => seen.parallelism = value.number(),
                5 => {
                    let inline = fields(value.bytes()).find(|(field, _)| *field == 1).expect("subtasks are inline");
                    seen.subtasks.push(SeenSubtask::parse(inline.1.bytes()));
                }
                _ => {}
            }
        }
        seen
    }
}

impl SeenSubtask {
    fn parse(message: &[u8]) -> Self {
        let mut seen = Self::default();
        for (field, value) in fields(message) {
            match field {
                2 => seen.groups.push(range(value.bytes())),
                4 => seen.segments.push(SeenSlice::parse(value.bytes())),
                5 => seen.opaques.push(SeenOpaque::parse(value.bytes())),
                _ => {}
            }
        }
        seen
    }
}

impl SeenSlice {
    fn parse(message: &[u8]) -> Self {
        let mut seen = Self::default();
        for (field, value) in fields(message) {
            match field {
                4 => seen.groups.push(range(value.bytes())),
                5 => seen.object = object_name(value.bytes()),
                6 => seen.offset = value.number(),
                7 => seen.length = value.number(),
                _ => {}
            }
        }
        seen
    }
}

impl SeenOpaque {
    fn parse(message: &[u8]) -> Self {
        let mut seen = Self::default();
        for (field, value) in fields(message) {
            match field {
                1 => seen.role = value.number(),
                2 => seen.name = text(value.bytes()),
                6 => seen.inline = value.bytes().to_vec(),
                7 => seen.stored = Some(SeenSlice::parse(value.bytes())),
                _ => {}
            }
        }
        seen
    }
}

impl SeenOpaque {
    /// Returns the opaque's bytes, inline or from a data object.
    pub(crate) fn bytes(&self, objects: &Objects) -> Vec<u8> {
        let Some(slice) = &self.stored else { return self.inline.clone() };
        let Some(object) = objects.get(&format!("job/data/{}", slice.object)) else { return Vec::new() };
        let [start, end] = [slice.offset, slice.offset + slice.length].map(|at| usize::try_from(at).expect("a length"));
        object.bytes[start..end].to_vec()
    }
}

/// Returns whether an extension is the scenario's draft number.
fn is_intent(extension: &[u8]) -> bool {
    fields(extension).any(|(field, value)| field == 1 && value.bytes() == b"intent")
}

fn range(message: &[u8]) -> (u64, u64) {
    let mut range = (0, 0);
    for (field, value) in fields(message) {
        match field {
            1 => range.0 = value.number(),
            2 => range.1 = value.number(),
            _ => {}
        }
    }
    range
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the field is UTF-8")
}

/// Returns the put-id in an object's envelope.
pub(crate) fn put_id(object: &[u8]) -> PutId {
    object[20..36].try_into().expect("a slice of 16")
}

/// Returns the body in an object's envelope.
pub(crate) fn body(object: &[u8]) -> &[u8] {
    let length = u64::from_le_bytes(object[36..44].try_into().expect("a slice of 8"));
    &object[HEADER_BYTES..HEADER_BYTES + usize::try_from(length).expect("the object is in memory")]
}

/// Returns the range of records in a data object of the scenario.
pub(crate) fn records(object: &[u8]) -> (u64, u64) {
    let (from, to) = body(object).split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("a slice of 8"));
    (number(from), number(to))
}

fn manifest_id(message: &[u8]) -> (u64, PutId) {
    let mut id = (0, PutId::default());
    for (field, value) in fields(message) {
        match field {
            1 => id.0 = value.number(),
            2 => id.1 = value.bytes().try_into().expect("a put-id has 16 bytes"),
            _ => {}
        }
    }
    id
}

fn object_name(message: &[u8]) -> String {
    let (mut attempt, mut random) = (0, String::new());
    for (field, value) in fields(message) {
        match field {
            1 => attempt = value.number(),
            2 => random = value.bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
            _ => {}
        }
    }
    format!("{attempt}-{random}")
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => panic!("not a number"),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Number(_) => panic!("not bytes"),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Returns the fields of a protobuf message as (number, value).
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let tag = varint(&mut message);
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)),
            1 => Value::Bytes(take(&mut message, 8)),
            2 => {
                let length = varint(&mut message);
                Value::Bytes(take(&mut message, length))
            }
            5 => Value::Bytes(take(&mut message, 4)),
            other => panic!("wire type {other}"),
        };
        Some((tag >> 3, value))
    })
}

fn take<'a>(message: &mut &'a [u8], length: u64) -> &'a [u8] {
    let (head, rest) = message.split_at(usize::try_from(length).expect("the object is in memory"));
    *message = rest;
    head
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().expect("the varint ends within the message");
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}
