//! Encoding one link into segments of bounded size, in slices of time.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Pipeline;
use crate::checkpoint::segment_chain::{Content, LinkId, PendingLink, Seals};
use crate::control::coordinator::Participant;
use crate::error::Result;
use crate::row::SegmentKind;
use crate::runtime::run_blocking;
use crate::segment::{Encoded, Encoder};

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
            let Some(encoder) = self.encoder.take() else { return Ok(()) };
            let (polled, encoder) = self.pipeline.encode_slice(encoder).await?;
            self.encoder = (!encoder.is_done()).then_some(encoder);
            let Poll::Ready(encoded) = polled else { continue };
            let Some(encoded) = encoded else { return Ok(()) };
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

impl Pipeline {
    /// Lets an encoder work, then pauses for as long as its share of the time demands.
    async fn encode_slice(&self, mut encoder: Encoder) -> Result<(Poll<Option<Encoded>>, Encoder)> {
        let (share, clock) = (self.settings.encoder_share.clamp(1, 100), Arc::clone(&self.runtime));
        let started = clock.monotonic();
        let is_time = move || share < 100 && clock.monotonic().since(started) >= SLICE;
        let work = move || Ok((encoder.poll_segment(is_time)?, encoder));
        let encoded = run_blocking(&*self.runtime, work).await?;
        let pause = self.runtime.monotonic().since(started) * (100 - share) / share;
        if !pause.is_zero() {
            self.runtime.sleep(pause).await;
        }
        Ok(encoded)
    }
}
