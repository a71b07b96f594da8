//! Objects: the envelope and each kind of content.

use std::collections::BTreeMap;

use alluvium::internals::control::interval::{Controller, Learned};
use alluvium::internals::envelope;
use alluvium::internals::envelope::{ENVELOPE_HEADER_BYTES, ObjectKind};
use alluvium::internals::place::pack::Pack;
use alluvium::internals::rescale::OperatorPlan;
use alluvium::interval::{Goals, IntervalSettings};
use alluvium::manifest::{AttemptMarker, Extension, Manifest, ObjectId, PutId, SubtaskManifest};
use alluvium::offline::Summary;
use alluvium::{Attempt, MacKey, MacKeys, OperatorId, Result, Seq, Timestamp};
use bytes::Bytes;

use super::seal;

/// Identities in the golden files.
pub const PACK: ObjectId = ObjectId { attempt: Attempt(2), random: [0x11; 16] };
pub const SEQS: [Seq; 2] = [Seq(7), Seq(8)];
pub const ATTEMPT: Attempt = Attempt(3);
pub const MAX_PARALLELISM: u16 = 8;

/// Any bytes as an object, raw and with checksums corrected.
pub fn object_envelope(data: &[u8]) -> Result<()> {
    let open = |bytes: &[u8]| {
        let object = Bytes::copy_from_slice(bytes);
        let (kind, others) = match bytes.get(8) {
            Some(1) => (ObjectKind::Attempt, [ObjectKind::Manifest, ObjectKind::Pack]),
            Some(3) => (ObjectKind::Pack, [ObjectKind::Attempt, ObjectKind::Manifest]),
            _ => (ObjectKind::Manifest, [ObjectKind::Attempt, ObjectKind::Pack]),
        };
        assert!(others.into_iter().all(|other| envelope::decode(other, &object).is_err()), "an object is of one kind");
        let keys = MacKeys::signing(MacKey::new([7; 32]));
        assert!(envelope::decode_signed(kind, &object, &keys).is_err(), "a forged signature was accepted");
        let opened = envelope::decode(kind, &object)?;
        assert_eq!(opened.put_id, envelope::peek_put_id(&bytes[..ENVELOPE_HEADER_BYTES]).expect("it was read"));
        let again = envelope::encode(kind, opened.put_id, &opened.body);
        assert_eq!(envelope::decode(kind, &again).expect("encoded output decodes"), opened);
        Ok(())
    };
    let _refused = open(&seal::envelope(data));
    open(data)
}

/// Any bytes as a pack, raw and with checksums corrected.
pub fn pack(data: &[u8]) -> Result<()> {
    let open = |bytes: &[u8]| {
        let pack = Pack::decode(PACK, &Bytes::copy_from_slice(bytes))?;
        let mut end = pack.slices.first().map_or(0, |slice| slice.offset);
        for slice in &pack.slices {
            assert_eq!(slice.offset, end, "slices are contiguous");
            end += slice.length;
            assert_eq!(pack.bytes(slice).expect("it lies in the pack").len() as u64, slice.length);
        }
        Ok(())
    };
    let _refused = open(&seal::pack(data));
    open(data)
}

/// Any bytes as a manifest, a subtask manifest, an attempt's marker, `heat`, `statistics` and a controller's learned
/// state, raw and with checksums corrected.
pub fn manifest(data: &[u8]) -> Result<()> {
    let _ignored = heat(data);
    let _ignored = statistics(data);
    let _ignored = learned(data);
    let sealed = [seal::envelope(data), seal::subtask(data)];
    for bytes in &sealed {
        let _refused = any_manifest(bytes);
    }
    any_manifest(data)
}

fn any_manifest(bytes: &[u8]) -> Result<()> {
    let object = Bytes::copy_from_slice(bytes);
    if bytes.starts_with(b"ALSM") {
        let subtask = SubtaskManifest::decode(bytes, MAX_PARALLELISM)?;
        let again = subtask.encode(MAX_PARALLELISM).expect("decoded input encodes");
        assert_eq!(SubtaskManifest::decode(&again, MAX_PARALLELISM).expect("encoded output decodes"), subtask);
        return Ok(());
    }
    if let Ok((marker, put_id)) = AttemptMarker::decode(&object, ATTEMPT) {
        assert_eq!(
            AttemptMarker::decode(&marker.encode(put_id), ATTEMPT).expect("encoded output decodes"),
            (marker, put_id)
        );
        return Ok(());
    }
    let [first, second] = SEQS;
    let seq = if Manifest::decode(&object, first).is_ok() { first } else { second };
    let (manifest, put_id) = Manifest::decode(&object, seq)?;
    let again = manifest.encode(put_id).expect("decoded input encodes");
    assert_eq!(Manifest::decode(&again, seq).expect("encoded output decodes"), (manifest.clone(), put_id));
    use_manifest(&manifest);
    Ok(())
}

/// Calls what readers call on a manifest before they read further.
fn use_manifest(manifest: &Manifest) {
    let _summary = Summary::of(manifest, Some(manifest));
    for operator in &manifest.operators {
        let _heat = manifest.heat(operator.id);
        let _statistics = manifest.statistics(operator.id);
        for parallelism in [1, 3, u32::from(manifest.max_parallelism)] {
            let Ok(plan) = OperatorPlan::new(manifest, operator.id, parallelism) else { continue };
            let groups: usize = plan.shares.iter().map(|share| share.groups.len()).sum();
            assert_eq!(groups, usize::from(manifest.max_parallelism), "each group has one owner");
        }
    }
}

fn heat(data: &[u8]) -> Result<()> {
    let (mut manifest, _) = golden();
    let told = |bytes, manifest: &mut Manifest| {
        manifest.extensions = vec![Extension { tag: "heat".into(), required: false, bytes }];
        manifest.heat(OperatorId(1))
    };
    let groups = told(Bytes::copy_from_slice(data), &mut manifest)?;
    let again = told(Extension::heat(vec![(OperatorId(1), groups.clone())]).bytes, &mut manifest);
    assert!(again.expect("encoded output decodes").len() <= groups.len());
    Ok(())
}

fn statistics(data: &[u8]) -> Result<()> {
    let (mut manifest, _) = golden();
    manifest.extensions =
        vec![Extension { tag: "statistics".into(), required: false, bytes: Bytes::copy_from_slice(data) }];
    let told = manifest.statistics(OperatorId(1))?;
    let by_name: BTreeMap<_, _> = told.iter().map(|told| (told.name.clone(), told.value)).collect();
    manifest.extensions = Extension::statistics([(OperatorId(1), by_name)].into()).into_iter().collect();
    assert!(manifest.statistics(OperatorId(1)).expect("encoded output decodes").len() <= told.len());
    Ok(())
}

/// A controller restored from any learned state chooses a valid interval.
fn learned(data: &[u8]) -> Result<()> {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let settings = IntervalSettings::default();
    let controller = Controller::resume(settings, Goals::default(), now, &Learned::from_bytes(data)?)?;
    let reason = &controller.decision().reason;
    assert!((1.0..=3600.0).contains(&reason.interval_s), "{reason}");
    assert!(controller.predicted_recovery(now) >= 0.0 && controller.mtbf() > 0.0, "{reason}");
    let again = Learned::from_bytes(&controller.learned().to_bytes()).expect("what was written");
    assert_eq!(again, controller.learned());
    Ok(())
}

/// Returns the golden claim: a manifest without segments.
pub fn golden() -> (Manifest, PutId) {
    let claim = Bytes::from_static(include_bytes!("../../../../tests/golden/v1/claim.manifest"));
    SEQS.into_iter().find_map(|seq| Manifest::decode(&claim, seq).ok()).expect("a golden file")
}
