//! Objects kept because a part of them is live (C).

use alluvium::offline::{self, Depth};
use alluvium::{ManifestLog, Result};

use crate::committed::Committed;
use alluvium_testkit::{self, Counting, Gate};

#[tokio::test]
async fn c11_a_pack_stays_as_long_as_one_slice_of_it_is_live() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 4).await;
    // The first pack holds the bases of all groups; later checkpoints replace the bases a few groups at a time.
    job.add(0..5000)?;
    let mut partly_live = 0;
    for round in 0..60 {
        job.add(round..round + 200)?;
        job.checkpoint().await?.unwrap();
        let store = alluvium_testkit::store(&gate.objects());
        let newest = offline::open(&store, &mut ManifestLog::load(&store).await?, None).await?;
        let inspected = offline::inspect(&store, &newest.manifest, None, Depth::Manifest).await?;
        partly_live += inspected.objects.iter().filter(|object| object.used_bytes * 2 < object.bytes).count();
        Committed::of(&store).await?.check(&store, &format!("round {round}")).await;
    }
    assert!(partly_live > 20, "{partly_live} packs were half dead");
    let data = gate.dump().await.into_keys().filter(|key| key.contains("/data/")).count();
    assert!(data < 60, "{data} packs: those without a live slice are gone");
    job.reopen(&gate.objects(), 3).await;
    Ok(())
}
