//! Manifests under a key: who lacks it can neither write one that is believed nor have one believed that was changed.

use std::sync::Arc;

use alluvium::JobSettings;
use alluvium::Store;
use alluvium::manifest::Manifest;
use alluvium::manifest::PutId;
use alluvium::offline::{self, RestoreOptions};
use alluvium::{Epoch, Seq};
use alluvium::{ErrorKind, Result};
use alluvium::{MacKey, MacKeys};
use alluvium::{ManifestLog, RestoreFrom};
use alluvium_testkit::{Counting, Gate, store};
use bytes::Bytes;

fn key(byte: u8) -> MacKey {
    MacKey::new([byte; 32])
}

fn under(gate: &Arc<Gate>, keys: &MacKeys) -> Store {
    store(&gate.objects()).with_manifest_keys(keys.clone())
}

/// Opens the job at `parallelism` and adds to it; returns the number of its checkpoint.
async fn go_on(gate: &Arc<Gate>, keys: &MacKeys, parallelism: u32) -> Result<Seq> {
    let (settings, from) = (JobSettings::default(), RestoreFrom::Newest);
    let mut job = Counting::open_on(under(gate, keys), parallelism, settings, from).await?;
    job.add(0..100)?;
    Ok(job.checkpoint().await?.expect("nobody aborts it").seq)
}

async fn refusal(gate: &Arc<Gate>, keys: &MacKeys) -> Option<ErrorKind> {
    go_on(gate, keys, 1).await.err().map(|error| error.kind())
}

/// Counts per key, as a reader with `keys` finds them.
async fn counts(gate: &Arc<Gate>, keys: &MacKeys) -> Result<Vec<u64>> {
    let (settings, from) = (JobSettings::default(), RestoreFrom::Newest);
    let mut job = Counting::open_on(under(gate, keys), 2, settings, from).await?;
    Ok(job.content()?.into_values().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_under_a_key_is_nobody_elses() -> Result<()> {
    let (gate, ours) = (Gate::new(), MacKeys::signing(key(1)));
    go_on(&gate, &ours, 2).await?;
    go_on(&gate, &ours, 3).await?;
    let before = gate.dump().await;
    assert_eq!(refusal(&gate, &MacKeys::default()).await, Some(ErrorKind::Denied));
    assert_eq!(refusal(&gate, &MacKeys::signing(key(2))).await, Some(ErrorKind::Corrupt));
    assert!(gate.dump().await == before, "who is refused writes nothing");
    assert_eq!(counts(&gate, &ours).await?, vec![2; 100]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_manifest_is_refused_whatever_its_checksums_say() -> Result<()> {
    let (gate, ours) = (Gate::new(), MacKeys::signing(key(1)));
    let seq = go_on(&gate, &ours, 2).await?;
    let path = format!("job/manifest/{:020}", seq.0);
    let object = gate.dump().await.remove(&path).expect("it stands there");
    let (manifest, put_id) = Manifest::decode_signed(&object, seq, &ours)?;
    let changed = Manifest { epoch: Epoch(manifest.epoch.0 + 1), ..manifest.clone() };
    let forgeries = [
        changed.encode(put_id)?,
        changed.encode_signed(put_id, &MacKeys::signing(key(2)))?,
        manifest.encode(PutId([9; 16]))?,
        Bytes::from(
            [
                &changed.encode_signed(put_id, &MacKeys::signing(key(2)))?[..object.len() - 32],
                &object[object.len() - 32..],
            ]
            .concat(),
        ),
    ];
    for forged in forgeries {
        gate.damage(&path, None).await;
        gate.damage(&path, Some(forged)).await;
        let error = counts(&gate, &ours).await.expect_err("it was believed");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    }
    gate.damage(&path, None).await;
    gate.damage(&path, Some(object)).await;
    assert_eq!(counts(&gate, &ours).await?, vec![1; 100]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_gets_a_key_and_changes_it() -> Result<()> {
    let gate = Gate::new();
    let [first, second] = [1, 2].map(|byte| MacKeys::signing(key(byte)));
    go_on(&gate, &MacKeys::default(), 2).await?;
    assert_eq!(refusal(&gate, &first).await, Some(ErrorKind::Corrupt));
    go_on(&gate, &first.clone().or_unsigned(), 3).await?;
    // The claim was signed, so the next start needs no exception.
    go_on(&gate, &first, 1).await?;
    assert_eq!(refusal(&gate, &second).await, Some(ErrorKind::Corrupt));
    go_on(&gate, &second.clone().or_signed_by(key(1)), 2).await?;
    assert_eq!(counts(&gate, &second).await?, vec![4; 100]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_signed_for_the_place_that_they_go_to() -> Result<()> {
    let (from, to) = (Gate::new(), Gate::new());
    let [ours, theirs] = [1, 2].map(|byte| MacKeys::signing(key(byte)));
    go_on(&from, &ours, 2).await?;
    let source = under(&from, &ours);
    let mut chain = ManifestLog::load(&source).await?;
    let checkpoint = offline::open(&source, &mut chain, None).await?;
    offline::restore(&source, &checkpoint.manifest, &under(&to, &theirs), &RestoreOptions::default(), &|_, _| {})
        .await?;
    assert_eq!(counts(&to, &theirs).await?, vec![1; 100]);
    assert_eq!(refusal(&to, &ours).await, Some(ErrorKind::Corrupt));
    Ok(())
}
