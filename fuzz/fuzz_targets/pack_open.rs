//! Any bytes as a pack: an error, or slices that lie within it.
#![no_main]

use alluvium::id::{Attempt, ObjectId};
use alluvium::place::pack::Pack;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The golden pack's identity.
    let id = ObjectId { attempt: Attempt(2), random: [0x11; 16] };
    if let Ok(pack) = Pack::decode(id, &Bytes::copy_from_slice(data)) {
        for slice in &pack.slices {
            assert_eq!(pack.bytes(slice).unwrap().len() as u64, slice.length);
        }
    }
});
