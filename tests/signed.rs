//! Signed manifests: without the key, nobody can forge or change one.

use std::sync::Arc;

use alluvium::manifest::{Manifest, PutId};
use alluvium::offline::{self, RestoreOptions};
use alluvium::{Epoch, ErrorKind, JobSettings, MacKey, MacKeys, ManifestLog, RestoreFrom, Result, Seq, Store};
use alluvium_testkit::{Counting, Gate, store};
use bytes::Bytes;

fn key(byte: u8) -> MacKey {
    MacKey::new([byte; 32])
}

fn store_with(gate: &Arc<Gate>, keys: &MacKeys) -> Store {
    store(&gate.objects()).with_manifest_keys(keys.clone())
}

/// Opens the job at `parallelism`, adds to its state and takes a checkpoint; returns its number.
async fn run_once(gate: &Arc<Gate>, keys: &MacKeys, parallelism: u32) -> Result<Seq> {
    let (settings, from) = (JobSettings::default(), RestoreFrom::Newest);
    let mut job = Counting::open_on(store_with(gate, keys), parallelism, settings, from).await?;
    job.add(0..100)?;
    Ok(job.checkpoint().await?.expect("the checkpoint is committed").seq)
}

async fn refusal(gate: &Arc<Gate>, keys: &MacKeys) -> Option<ErrorKind> {
    run_once(gate, keys, 1).await.err().map(|error| error.kind())
}

/// Restores the job with `keys`; returns the count of each of its keys.
async fn counts(gate: &Arc<Gate>, keys: &MacKeys) -> Result<Vec<u64>> {
    let (settings, from) = (JobSettings::default(), RestoreFrom::Newest);
    let mut job = Counting::open_on(store_with(gate, keys), 2, settings, from).await?;
    Ok(job.content()?.into_values().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_job_refuses_other_keys_and_none() -> Result<()> {
    let (gate, ours) = (Gate::new(), MacKeys::signing(key(1)));
    run_once(&gate, &ours, 2).await?;
    run_once(&gate, &ours, 3).await?;
    let before = gate.dump().await;
    assert_eq!(refusal(&gate, &MacKeys::default()).await, Some(ErrorKind::Denied));
    assert_eq!(refusal(&gate, &MacKeys::signing(key(2))).await, Some(ErrorKind::Corrupt));
    assert!(gate.dump().await == before, "a refused job writes nothing");
    assert_eq!(counts(&gate, &ours).await?, vec![2; 100]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_manifest_is_refused_though_its_checksums_match() -> Result<()> {
    let (gate, ours) = (Gate::new(), MacKeys::signing(key(1)));
    let seq = run_once(&gate, &ours, 2).await?;
    let path = format!("job/manifest/{:020}", seq.0);
    let object = gate.dump().await.remove(&path).expect("the manifest is stored");
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
        let error = counts(&gate, &ours).await.expect_err("a forged manifest was accepted");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    }
    gate.damage(&path, None).await;
    gate.damage(&path, Some(object)).await;
    assert_eq!(counts(&gate, &ours).await?, vec![1; 100]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_adopts_a_key_and_rotates_it() -> Result<()> {
    let gate = Gate::new();
    let [first, second] = [1, 2].map(|byte| MacKeys::signing(key(byte)));
    run_once(&gate, &MacKeys::default(), 2).await?;
    assert_eq!(refusal(&gate, &first).await, Some(ErrorKind::Corrupt));
    run_once(&gate, &first.clone().or_unsigned(), 3).await?;
    // That start signed its claim, so the next one needs no exception for unsigned manifests.
    run_once(&gate, &first, 1).await?;
    assert_eq!(refusal(&gate, &second).await, Some(ErrorKind::Corrupt));
    run_once(&gate, &second.clone().or_signed_by(key(1)), 2).await?;
    assert_eq!(counts(&gate, &second).await?, vec![4; 100]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_signed_with_the_targets_key() -> Result<()> {
    let (from, to) = (Gate::new(), Gate::new());
    let [ours, theirs] = [1, 2].map(|byte| MacKeys::signing(key(byte)));
    run_once(&from, &ours, 2).await?;
    let source = store_with(&from, &ours);
    let mut chain = ManifestLog::load(&source).await?;
    let checkpoint = offline::open(&source, &mut chain, None).await?;
    offline::restore(&source, &checkpoint.manifest, &store_with(&to, &theirs), &RestoreOptions::default(), &|_, _| {})
        .await?;
    assert_eq!(counts(&to, &theirs).await?, vec![1; 100]);
    assert_eq!(refusal(&to, &ours).await, Some(ErrorKind::Corrupt));
    Ok(())
}
