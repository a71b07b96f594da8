//! Reads what it needs of stored bytes, sharing no code with the crate: the envelope's header and protobuf fields.

/// Length of the envelope's header.
pub(crate) const HEADER_BYTES: usize = 48;

const CHECKPOINT: u64 = 2;
const CLAIM: u64 = 1;

pub(crate) type PutId = [u8; 16];

/// A manifest, as the oracle sees it.
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
    /// Last segments of the objects' keys.
    pub(crate) objects: Vec<String>,
    /// The number that the scenario gave the draft.
    pub(crate) intent: Option<u64>,
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
                9 => seen.writer = String::from_utf8(value.bytes().to_vec()).expect("the writer is text"),
                13 => {
                    let id = fields(value.bytes()).find(|(field, _)| *field == 1).expect("an object has an id");
                    seen.objects.push(object_name(id.1.bytes()));
                }
                16 => {
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

/// Returns the put-id in an object's envelope.
pub(crate) fn put_id(object: &[u8]) -> PutId {
    object[20..36].try_into().expect("a slice of 16")
}

/// Returns the body in an object's envelope.
pub(crate) fn body(object: &[u8]) -> &[u8] {
    let length = u64::from_le_bytes(object[36..44].try_into().expect("a slice of 8"));
    &object[HEADER_BYTES..HEADER_BYTES + usize::try_from(length).expect("it is in memory")]
}

/// Returns the records that a data object of the scenario holds.
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

/// Returns the fields of a protobuf message, with their numbers.
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
    let (head, rest) = message.split_at(usize::try_from(length).expect("it is in memory"));
    *message = rest;
    head
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().expect("a varint is whole");
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}
