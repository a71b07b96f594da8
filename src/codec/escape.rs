//! A self-terminating, order-preserving encoding of bytes of any length.
//!
//! A zero byte becomes `00 ff`, and `00 00` terminates. No escaped byte sorts below the terminator, so a prefix sorts
//! before its extensions: escaped bytes compare as the plain bytes do, and bytes that follow decide only between equals.

use std::borrow::Cow;

const ZERO: u8 = 0;
const END: u8 = 0;
const ESCAPED: u8 = 0xff;

/// Escapes and terminates all bytes of `out` from `start` on.
pub(crate) fn escape_from(out: &mut Vec<u8>, start: usize) {
    if out.iter().skip(start).any(|byte| *byte == ZERO) {
        for byte in out.split_off(start.min(out.len())) {
            out.push(byte);
            if byte == ZERO {
                out.push(ESCAPED);
            }
        }
    }
    out.extend_from_slice(&[ZERO, END]);
}

/// Takes escaped bytes and their terminator off the front of `rest`, and returns the plain bytes: borrowed if no byte
/// was escaped. `None` if an escape is invalid or the terminator is missing.
pub(super) fn take_escaped<'a>(rest: &mut &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let mut taken = Cow::Borrowed(&[][..]);
    loop {
        let zero = rest.iter().position(|byte| *byte == ZERO)?;
        let (plain, behind) = rest.split_at_checked(zero)?;
        if taken.is_empty() {
            taken = plain.into();
        } else {
            taken.to_mut().extend_from_slice(plain);
        }
        let (mark, left) = behind.split_first_chunk()?;
        *rest = left;
        match mark {
            [_, END] => return Some(taken),
            [_, ESCAPED] => taken.to_mut().push(ZERO),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    fn escaped(bytes: &[u8]) -> Vec<u8> {
        let mut out = [b"x", bytes].concat();
        escape_from(&mut out, 1);
        out.split_off(1)
    }

    #[test]
    fn zeros_are_escaped_and_two_zeros_terminate() {
        assert_eq!(escaped(b""), [0, 0]);
        assert_eq!(escaped(b"a"), [b'a', 0, 0]);
        assert_eq!(escaped(&[0, 0xff, 0]), [0, 0xff, 0xff, 0, 0xff, 0, 0]);
        for bad in [&[][..], &[1], &[0], &[0, 0xff], &[0, 1, 0, 0], &[0, 0xff, 0, 0xfe]] {
            assert_eq!(take_escaped(&mut &*bad), None, "{bad:?}");
        }
    }

    /// Bytes rich in those that escaping treats specially.
    fn special_bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(1), Just(0xfe), Just(0xff)], 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Default::default() })]

        #[test]
        fn escaped_bytes_come_back_and_sort_as_before(a in special_bytes(), b in special_bytes(), tail in special_bytes()) {
            let (left, right) = (escaped(&a), escaped(&b));
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            prop_assert!(a == b || !left.starts_with(&right), "the tail would decide");
            let all = [left.as_slice(), &tail].concat();
            let mut rest = all.as_slice();
            prop_assert_eq!(take_escaped(&mut rest).unwrap(), a);
            prop_assert_eq!(rest, tail);
        }
    }
}
