//! Encoding one link into segments of bounded size, for a share of the time.

use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use crate::checkpoint::segment_chain::{Content, LinkId, PendingLink, Seals};
use crate::control::coordinator::Participant;
use crate::error::Result;
use crate::row::SegmentKind;
use crate::runtime::{SharedRuntime, run_blocking};
use crate::segment::{Encoded, Encoder};
use crate::time::Timestamp;

/// How long an encoder works before it pauses, if it may not work all the time.
const SLICE: Duration = Duration::from_millis(5);

/// A segment on its way into a pack.
pub(super) struct Segment {
    pub(super) participant: Participant,
    pub(super) link: LinkId,
    pub(super) seals: Seals,
    pub(super) encoded: Encoded,
}

/// A link being encoded. The first segment is encoded when the link's turn begins, each other one on demand.
pub(super) struct Encoding {
    pipeline: Arc<Pipeline>,
    participant: Participant,
    /// The link of the groups that are not encoded yet.
    link: LinkId,
    seals: Seals,
    encoder: Option<Encoder>,
    ready: Option<Segment>,
}

impl Encoding {
    pub(super) async fn begin(pipeline: Arc<Pipeline>, participant: Participant, link: PendingLink) -> Result<Self> {
        let PendingLink { id: link, seals, content } = link;
        let (encoder, ready) = match content {
            Content::Bytes(encoded) => (None, Some(Segment { participant, link, seals, encoded })),
            // The encoder owns the rows, so that their memory is freed before the uploads end.
            Content::Rows(part) => {
                (Some(Encoder::new(part, pipeline.encode_options(), pipeline.settings.segment_bytes)), None)
            }
        };
        let mut encoding = Self { pipeline, participant, link, seals, encoder, ready };
        encoding.encode().await?;
        Ok(encoding)
    }

    /// Returns the next segment, and the remaining encoding.
    pub(super) async fn next(mut self) -> Result<Option<(Segment, Self)>> {
        self.encode().await?;
        Ok(self.ready.take().map(|segment| (segment, self)))
    }

    /// Encodes the next segment that has rows, unless one is ready.
    async fn encode(&mut self) -> Result<()> {
        while self.ready.is_none() {
            let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
            let (share, runtime) = (self.pipeline.settings.encoder_share, Arc::clone(&self.pipeline.runtime));
            // Pauses block the thread, so that encoding continues while nothing polls this future.
            let work = move || {
                let mut throttle = Throttle::new(share, runtime);
                Ok((encoder.next_segment(|| throttle.pause())?, encoder))
            };
            let (encoded, encoder) = run_blocking(&*self.pipeline.runtime, work).await?;
            let Some(encoded) = encoded else { return Ok(()) };
            self.encoder = (!encoder.is_done()).then_some(encoder);
            let mut chain = self.pipeline.chain(self.participant);
            if encoded.records == 0 && encoded.kind == SegmentKind::Delta {
                chain.discard(self.link, &encoded.groups);
            } else {
                let link = chain.encoded(self.link, encoded.clone());
                self.ready = Some(Segment { participant: self.participant, link, seals: self.seals, encoded });
            }
        }
        Ok(())
    }
}

/// Lets a thread work for a share of the time.
struct Throttle {
    /// In percent.
    share: u32,
    runtime: SharedRuntime,
    /// When the slice began.
    started: Timestamp,
}

impl Throttle {
    fn new(share: u32, runtime: SharedRuntime) -> Self {
        Self { share: share.clamp(1, 100), started: runtime.monotonic(), runtime }
    }

    /// Sleeps if it is time.
    fn pause(&mut self) {
        if self.share == 100 {
            return;
        }
        let worked = self.runtime.monotonic().since(self.started);
        if worked >= SLICE {
            self.runtime.sleep_blocking(worked * (100 - self.share) / self.share);
            self.started = self.runtime.monotonic();
        }
    }
}
