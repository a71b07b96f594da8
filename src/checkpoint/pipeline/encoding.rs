//! Encoding one link into segments of bounded size.

use std::sync::Arc;

use super::Pipeline;
use crate::checkpoint::segment_chain::{Content, LinkId, PendingLink, Seals};
use crate::control::coordinator::Participant;
use crate::error::Result;
use crate::row::SegmentKind;
use crate::runtime::run_blocking;
use crate::segment::{Encoded, Encoder};

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
            let work = move || Ok((encoder.next_segment()?, encoder));
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
