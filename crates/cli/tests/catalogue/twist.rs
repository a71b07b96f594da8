//! An in-memory store that answers some reads wrongly.

use std::fmt;
use std::sync::{Arc, Mutex};

use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// How an answer differs from the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Twist {
    /// Returns the whole object with a matching range, whatever range was requested.
    Whole,
    /// Returns the bytes before the range, labelled as the range.
    Shifted,
    /// Reports that the object does not exist.
    Missing,
}

/// The twist, the part of keys it applies to, and the reads left.
type Plan = Option<(Twist, &'static str, u64)>;

#[derive(Debug, Default)]
pub(crate) struct Twisted {
    inner: InMemory,
    plan: Mutex<Plan>,
}

impl Twisted {
    pub(crate) fn objects(self: &Arc<Self>) -> Arc<dyn ObjectStore> {
        Arc::<Self>::clone(self)
    }

    /// Applies `twist` to the next `count` reads of keys that contain `part`.
    pub(crate) fn set(&self, twist: Twist, part: &'static str, count: u64) {
        *self.plan.lock().unwrap() = Some((twist, part, count));
    }

    pub(crate) fn clear(&self) {
        *self.plan.lock().unwrap() = None;
    }

    fn meets(&self, key: &Path) -> Option<Twist> {
        let mut plan = self.plan.lock().unwrap();
        let (twist, part, left) = plan.as_mut()?;
        let meets = *left > 0 && key.as_ref().contains(*part);
        *left -= u64::from(meets);
        meets.then_some(*twist)
    }
}

impl fmt::Display for Twisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("twisted")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Twisted {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("no multipart upload is ever made");
    }

    async fn get_opts(&self, key: &Path, mut options: GetOptions) -> Result<GetResult> {
        let twist = self.meets(key);
        match (twist, options.range.clone()) {
            (Some(Twist::Missing), _) => Err(Error::NotFound { path: key.to_string(), source: "404".into() }),
            (Some(Twist::Whole), _) => {
                options.range = None;
                self.inner.get_opts(key, options).await
            }
            (Some(Twist::Shifted), Some(GetRange::Bounded(range))) => {
                options.range = Some(GetRange::Bounded(range.start - 1..range.end - 1));
                let answer = self.inner.get_opts(key, options).await?;
                Ok(GetResult { range, ..answer })
            }
            _ => self.inner.get_opts(key, options).await,
        }
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nothing is ever copied in a store");
    }
}
