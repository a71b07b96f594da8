//! Cells: a row's pieces and the routing hash of its key, encoded for layers and RocksDB.
//!
//! ```text
//! cell  := head, [routing u64], (bytes | piece*)
//! head  := u8: bit 0, routing present; bit 1, one plain piece: of the first version, without a stamp, bytes only
//! piece := flags u8 (bit 0, version present; bit 1, stamp present), [version u32], [stamp i64], length u32, bytes
//! ```

use crate::codec::bytes::{Reader, put_u8, put_u32, put_u64};
use crate::error::{Error, Result};
use crate::row::{FIRST_VERSION, OwnedPiece, Piece};
use crate::time::Timestamp;

const ROUTING: u8 = 1;
const PLAIN: u8 = 2;
const VERSION: u8 = 1;
const STAMP: u8 = 2;

/// A decoded cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell<'a> {
    pub(super) routing: Option<u64>,
    plain: bool,
    rest: &'a [u8],
}

impl<'a> Cell<'a> {
    /// Decodes a cell's head.
    ///
    /// # Errors
    /// `Corrupt` if the head is damaged.
    pub(super) fn read(cell: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(cell);
        let head = reader.u8()?;
        if head & !(ROUTING | PLAIN) != 0 {
            return Err(reader.corrupt("stored row has an unknown head"));
        }
        let routing = if head & ROUTING == 0 { None } else { Some(reader.u64()?) };
        Ok(Self { routing, plain: head & PLAIN != 0, rest: reader.rest() })
    }

    /// Returns the bytes of a cell with one plain piece.
    pub(super) fn plain(&self) -> Option<&'a [u8]> {
        self.plain.then_some(self.rest)
    }

    /// Returns whether the cell has no pieces.
    pub(super) fn is_empty(&self) -> bool {
        !self.plain && self.rest.is_empty()
    }

    /// Visits the pieces, oldest first.
    ///
    /// # Errors
    /// `Corrupt` if a piece is damaged; errors of `visit`.
    pub(super) fn visit_pieces(&self, mut visit: impl FnMut(Piece<'a>) -> Result<()>) -> Result<()> {
        if self.plain {
            return visit(Piece { bytes: self.rest, version: FIRST_VERSION, stamp: None });
        }
        let mut reader = Reader::new(self.rest);
        while reader.remaining() > 0 {
            let flags = reader.u8()?;
            if flags & !(VERSION | STAMP) != 0 {
                return Err(reader.corrupt("stored row has an unknown piece"));
            }
            let version = if flags & VERSION == 0 { FIRST_VERSION } else { reader.u32()? };
            let stamp = if flags & STAMP == 0 { None } else { Some(reader.u64()?.cast_signed()) };
            let length = reader.u32()?;
            let bytes = reader.bytes(length as usize)?;
            visit(Piece { bytes, version, stamp: stamp.map(Timestamp::from_millis) })?;
        }
        Ok(())
    }

    /// Appends the cell's pieces to `pieces`.
    ///
    /// # Errors
    /// As [`Cell::visit_pieces`].
    pub(super) fn push_to(&self, pieces: &mut Vec<OwnedPiece>) -> Result<()> {
        self.visit_pieces(|piece| {
            pieces.push(OwnedPiece::of(&piece));
            Ok(())
        })
    }

    /// Returns the bytes of the pieces; of a damaged cell, those of the pieces before the damage.
    pub(super) fn payload_bytes(&self) -> u64 {
        let mut bytes = 0;
        if self.plain {
            return self.rest.len() as u64;
        }
        // Reading the value reports the damage.
        let _damaged = self.visit_pieces(|piece| {
            bytes += piece.bytes.len() as u64;
            Ok(())
        });
        bytes
    }
}

/// Returns the pieces of cells, oldest first.
///
/// # Errors
/// `Corrupt` if one is damaged.
pub(super) fn pieces_of<'a>(cells: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<OwnedPiece>> {
    let mut pieces = Vec::new();
    cells.into_iter().try_for_each(|cell| Cell::read(cell)?.push_to(&mut pieces))?;
    Ok(pieces)
}

fn put_head(out: &mut Vec<u8>, flags: u8, routing: Option<u64>) {
    put_u8(out, flags | if routing.is_some() { ROUTING } else { 0 });
    if let Some(routing) = routing {
        put_u64(out, routing);
    }
}

/// Appends the cell of one piece.
///
/// # Errors
/// `Limit` if the piece is longer than 4 GiB.
pub(super) fn put_one(out: &mut Vec<u8>, routing: Option<u64>, piece: &Piece<'_>) -> Result<()> {
    if piece.version == FIRST_VERSION && piece.stamp.is_none() {
        put_head(out, PLAIN, routing);
        out.extend_from_slice(piece.bytes);
        return Ok(());
    }
    put_head(out, 0, routing);
    put_piece(out, piece)
}

/// Appends the cell of `pieces`, oldest first.
///
/// # Errors
/// `Limit` if one is longer than 4 GiB.
pub(super) fn put_all(out: &mut Vec<u8>, routing: Option<u64>, pieces: &[OwnedPiece]) -> Result<()> {
    if let [piece] = pieces {
        return put_one(out, routing, &piece.borrow());
    }
    put_head(out, 0, routing);
    pieces.iter().try_for_each(|piece| put_piece(out, &piece.borrow()))
}

fn put_piece(out: &mut Vec<u8>, piece: &Piece<'_>) -> Result<()> {
    let length = u32::try_from(piece.bytes.len())
        .map_err(|_| Error::limit("value is too long to be stored").with("bytes", piece.bytes.len()))?;
    let version = (piece.version != FIRST_VERSION).then_some(piece.version);
    put_u8(out, if version.is_some() { VERSION } else { 0 } | if piece.stamp.is_some() { STAMP } else { 0 });
    if let Some(version) = version {
        put_u32(out, version);
    }
    if let Some(stamp) = piece.stamp {
        put_u64(out, stamp.as_millis().cast_unsigned());
    }
    put_u32(out, length);
    out.extend_from_slice(piece.bytes);
    Ok(())
}

/// Returns the pieces of all `cells`, oldest first, as one cell with the newest cell's routing hash.
///
/// # Errors
/// `Corrupt` if one is damaged.
pub(super) fn concat_cells<'a>(cells: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>> {
    let (mut routing, mut pieces) = (None, Vec::new());
    for cell in cells {
        let cell = Cell::read(cell)?;
        routing = cell.routing;
        cell.push_to(&mut pieces)?;
    }
    let mut out = Vec::new();
    put_all(&mut out, routing, &pieces)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: &[u8], version: u32, stamp: Option<i64>) -> OwnedPiece {
        OwnedPiece { bytes: bytes.to_vec(), version, stamp: stamp.map(Timestamp::from_millis) }
    }

    fn cell(routing: Option<u64>, pieces: &[OwnedPiece]) -> Vec<u8> {
        let mut out = Vec::new();
        put_all(&mut out, routing, pieces).unwrap();
        out
    }

    #[test]
    fn cells_round_trip_and_a_plain_piece_costs_one_byte() {
        let cases = [
            vec![],
            vec![piece(b"", 1, None)],
            vec![piece(b"plain", 1, None)],
            vec![piece(b"stamped", 1, Some(-5))],
            vec![piece(b"old", 1, None), piece(b"new", 7, Some(9)), piece(b"", 7, None)],
        ];
        for (pieces, routing) in cases.iter().flat_map(|pieces| [(pieces, None), (pieces, Some(77))]) {
            let cell = cell(routing, pieces);
            assert_eq!(pieces_of([cell.as_slice()]).unwrap(), *pieces);
            let read = Cell::read(&cell).unwrap();
            assert_eq!(
                (read.routing, read.payload_bytes()),
                (routing, pieces.iter().map(|p| p.bytes.len() as u64).sum())
            );
        }
        assert_eq!(cell(None, &[piece(b"plain", 1, None)]), b"\x02plain");
    }

    #[test]
    fn concatenated_cells_keep_their_order_and_take_the_newest_hash() {
        let (a, b) =
            (cell(Some(1), &[piece(b"a", 1, None)]), cell(Some(2), &[piece(b"b", 1, Some(3)), piece(b"c", 1, None)]));
        let all = concat_cells([a.as_slice(), &b]).unwrap();
        assert_eq!(Cell::read(&all).unwrap().routing, Some(2));
        assert_eq!(pieces_of([all.as_slice()]).unwrap(), pieces_of([a.as_slice(), &b]).unwrap());
    }

    #[test]
    fn damaged_cells_are_refused() {
        let whole = cell(Some(9), &[piece(b"value", 2, Some(3)), piece(b"w", 1, None)]);
        let read = |bytes: &[u8]| pieces_of([bytes]);
        assert!(read(&[]).is_err() && read(&[4]).is_err() && read(&[0, 4]).is_err());
        for cut in (1..9).chain(10..14) {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read(&whole[..whole.len() - 1]).is_err());
    }
}
