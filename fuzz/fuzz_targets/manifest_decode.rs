//! Any bytes as a manifest, a subtask manifest or an attempt marker: an error, or what reads back the same.
#![no_main]

use alluvium::id::{Attempt, Seq};
use alluvium::manifest::{AttemptMarker, Manifest, SubtaskManifest};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let object = Bytes::copy_from_slice(data);
    // The golden checkpoint and the golden claim.
    for seq in [Seq(7), Seq(8)] {
        if let Ok((manifest, put_id)) = Manifest::decode(&object, seq) {
            let again = manifest.encode(put_id).unwrap();
            assert_eq!(Manifest::decode(&again, seq).unwrap(), (manifest, put_id));
        }
    }
    if let Ok(subtask) = SubtaskManifest::decode(data, 8) {
        let again = subtask.encode(8).unwrap();
        assert_eq!(SubtaskManifest::decode(&again, 8).unwrap(), subtask);
    }
    if let Ok((marker, put_id)) = AttemptMarker::decode(&object, Attempt(3)) {
        assert_eq!(AttemptMarker::decode(&marker.encode(put_id), Attempt(3)).unwrap(), (marker, put_id));
    }
});
