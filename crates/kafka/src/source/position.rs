//! A place in a partition, as checkpoints keep it.
//!
//! ```text
//! version 1 (u8) | id of the topic (16 bytes) | next offset (i64, little-endian)
//! ```

use alluvium::source::Position;
use alluvium::{Error, Result};

const VERSION: u8 = 1;
const BYTES: usize = 25;

/// The offset of the next record, in one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// A topic that is created anew under the same name has another; zeros if the brokers do not say.
    pub(super) topic_id: [u8; 16],
    pub(super) next: i64,
}

impl Place {
    pub(super) fn to_position(self) -> Result<Position> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend(self.topic_id);
        bytes.extend(self.next.to_le_bytes());
        Position::new(bytes)
    }

    /// # Errors
    /// `Corrupt`; `Version` if a later version wrote it.
    pub(super) fn parse(position: &Position) -> Result<Self> {
        let damaged = || Error::corrupt("position in a partition of Kafka is damaged");
        let (&version, rest) = position.bytes().split_first().ok_or_else(damaged)?;
        match version {
            VERSION => {}
            // No version will have these: they are what erased storage reads as.
            0 | u8::MAX => return Err(damaged()),
            _ => {
                let error = Error::version("position in a partition of Kafka has an unknown version");
                return Err(error.with("version", version));
            }
        }
        let (topic_id, next) = rest.split_first_chunk().ok_or_else(damaged)?;
        let next = i64::from_le_bytes(next.try_into().map_err(|_| damaged())?);
        if next < 0 {
            return Err(damaged());
        }
        Ok(Self { topic_id: *topic_id, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;

    fn kind(bytes: &[u8]) -> ErrorKind {
        Place::parse(&Position::new(bytes.to_vec()).unwrap()).unwrap_err().kind()
    }

    #[test]
    fn places_come_back_and_anything_else_is_refused() {
        let place = Place { topic_id: [7; 16], next: 1 << 40 };
        let position = place.to_position().unwrap();
        assert_eq!(Place::parse(&position).unwrap(), place);
        let bytes = position.bytes();
        for end in 0..bytes.len() {
            assert_eq!(kind(&bytes[..end]), ErrorKind::Corrupt, "{end}");
        }
        assert_eq!(kind(&[bytes, &[0]].concat()), ErrorKind::Corrupt);
        assert_eq!(kind(&[0xff; BYTES]), ErrorKind::Corrupt);
        assert_eq!(kind(&[0; BYTES]), ErrorKind::Corrupt);
        let negative = Place { next: -1, ..place }.to_position().unwrap();
        assert_eq!(kind(negative.bytes()), ErrorKind::Corrupt);
        let later = [&[2], &bytes[1..]].concat();
        assert_eq!(kind(&later), ErrorKind::Version);
        assert_eq!(kind(&later[..7]), ErrorKind::Version, "it may be shorter");
    }

    #[test]
    fn the_encoding_stays_as_it_is() {
        let position = Place { topic_id: [0xab; 16], next: 258 }.to_position().unwrap();
        assert_eq!(position.bytes(), [&[1][..], &[0xab; 16], &[2, 1, 0, 0, 0, 0, 0, 0]].concat());
    }
}
