//! The store layer on real backends, in memory and on disk, and on backends that break their promises.

use std::fmt;
use std::sync::Arc;

use alluvium::internals::store::{Key, KeyClass, Put};
use alluvium::{Access, Applied, ErrorKind, RequestCounts, Seq, Store, list_jobs, open_url};
use alluvium_testkit::contract::{self, data, object, runtime, settings};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

fn store(objects: Arc<dyn ObjectStore>, prefix: &Path) -> Store {
    contract::store(objects, prefix, settings())
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let (objects, prefix) = open_url("memory:///deep/prefix", Access::Write).unwrap();
    assert_eq!(prefix.as_ref(), "deep/prefix");
    let store = store(objects, &prefix);
    contract::check(store.clone()).await;
    contract::race(&store).await;
}

#[tokio::test]
async fn a_folder_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("new/store").display());
    let (objects, prefix) = open_url(&url, Access::Write).unwrap();
    let store = store(objects, &prefix);
    contract::check(store.clone()).await;
    contract::race(&store).await;
}

#[tokio::test]
async fn foreign_files_are_counted_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let (objects, prefix) = open_url(&url, Access::Write).unwrap();
    let store = store(objects, &prefix);
    let (id, bytes) = object(1);
    store.folder().put_new(&Key::Manifest(Seq(3)), id, bytes).await.unwrap();
    for name in ["notes.txt", "3", "00000000000000000003.bak"] {
        std::fs::write(dir.path().join("job/manifest").join(name), "mine").unwrap();
    }
    let listing = store.folder().list(KeyClass::Manifest).await.unwrap();
    assert_eq!((listing.entries.len(), listing.foreign), (1, 3));
}

#[tokio::test]
async fn a_key_with_a_foreign_object_is_taken() {
    let objects = Arc::new(InMemory::new());
    let store = store(objects.clone(), &Path::default());
    for (seq, bytes) in
        [(1, ""), (2, "short"), (3, &"long enough to hold a header, but none of ours is in it".repeat(9))]
    {
        let path = Path::from(format!("job/manifest/{seq:020}"));
        objects.put(&path, PutPayload::from(bytes.as_bytes().to_vec())).await.unwrap();
        let (id, object) = object(1);
        assert_eq!(
            store.folder().put_new(&Key::Manifest(Seq(seq)), id, object).await.unwrap(),
            Put::Taken,
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn jobs_are_listed_by_name() {
    let objects = Arc::new(InMemory::new());
    for key in ["root/b/manifest/1", "root/a/data/x", "root/not a job/x", "root/.hidden/x", "root/file", "other/c/x"] {
        objects.put(&Path::from(key), PutPayload::new()).await.unwrap();
    }
    let jobs = list_jobs(objects.as_ref(), &Path::from("root"), &runtime(), &settings()).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

/// A broken promise of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Creates overwrite existing objects.
    IgnoresCreate,
    /// Conditional writes are not supported.
    LacksCreate,
    ReadOnly,
    NoBucket,
    Unreachable,
    /// Reads return other bytes than were written.
    ReturnsOtherBytes,
    IgnoresDelete,
}

#[derive(Debug)]
struct FaultyStore(InMemory, Fault);

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.1)
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let path = key.to_string();
        match self.1 {
            Fault::IgnoresCreate => options.mode = PutMode::Overwrite,
            Fault::LacksCreate => {
                let (operation, implementer) = ("create".into(), "faulty".into());
                return Err(object_store::Error::NotImplemented { operation, implementer });
            }
            Fault::ReadOnly => return Err(object_store::Error::PermissionDenied { path, source: "403".into() }),
            Fault::NoBucket => return Err(object_store::Error::NotFound { path, source: "NoSuchBucket".into() }),
            Fault::Unreachable => {
                return Err(object_store::Error::Generic { store: "faulty", source: "connection refused".into() });
            }
            Fault::ReturnsOtherBytes => {
                let mut bytes = Bytes::from(payload).to_vec();
                bytes[50] ^= 1;
                return self.0.put_opts(key, bytes.into(), options).await;
            }
            Fault::IgnoresDelete => {}
        }
        self.0.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        if self.1 == Fault::Unreachable {
            return Err(object_store::Error::Generic { store: "faulty", source: "connection refused".into() });
        }
        self.0.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.1 == Fault::IgnoresDelete {
            let denied = object_store::Error::PermissionDenied { path: String::new(), source: "403".into() };
            return Box::pin(futures_util::stream::once(async { Err(denied) }));
        }
        self.0.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a21_a22_a23_the_probe_refuses_stores_that_cannot_hold_a_job() {
    let faults = [
        (Fault::IgnoresCreate, ErrorKind::Config, "ignores create-if-absent"),
        (Fault::LacksCreate, ErrorKind::Config, "lacks create-if-absent"),
        (Fault::ReadOnly, ErrorKind::Denied, "refuses access"),
        (Fault::NoBucket, ErrorKind::Config, "bucket or container"),
        (Fault::Unreachable, ErrorKind::Unavailable, "connection refused"),
        (Fault::ReturnsOtherBytes, ErrorKind::Config, "gives back"),
    ];
    for (fault, kind, text) in faults {
        let error = store(Arc::new(FaultyStore(InMemory::new(), fault)), &Path::default()).probe().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?}: {error}");
        assert!(error.chain().contains(text), "{fault:?}: {}", error.chain());
    }
    store(Arc::new(FaultyStore(InMemory::new(), Fault::IgnoresDelete)), &Path::default()).probe().await.unwrap();
}

#[tokio::test]
async fn a_put_to_an_unreachable_store_has_an_unknown_outcome() {
    let store = store(Arc::new(FaultyStore(InMemory::new(), Fault::Unreachable)), &Path::default());
    let (id, bytes) = object(1);
    let error = store.folder().put_new(&data(1), id, bytes).await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Unavailable, Applied::Unknown));
    assert!(error.message().contains("tries=`2`"), "{error}");
    assert_eq!(store.requests(), RequestCounts { put: 2, get: 4, put_bytes: 304, ..RequestCounts::default() });
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_without_rights_is_denied() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let (objects, prefix) = open_url(&format!("file://{}", dir.path().display()), Access::Write).unwrap();
    let set = |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o555);
    let unprivileged = std::fs::write(dir.path().join("x"), "").is_err();
    let probed = store(objects, &prefix).probe().await;
    set(0o755);
    // Permissions do not stop a privileged user.
    if unprivileged {
        assert_eq!(probed.unwrap_err().kind(), ErrorKind::Denied);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn odd_names_in_a_folder_are_foreign_and_hide_nothing() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    let (objects, prefix) = open_url(&format!("file://{}", dir.path().display()), Access::Write).unwrap();
    let store = store(objects.clone(), &prefix);
    let (id, bytes) = object(1);
    store.folder().put_new(&Key::Manifest(Seq(3)), id, bytes).await.unwrap();
    let folder = dir.path().join("job/manifest");
    std::fs::write(folder.join(OsStr::from_bytes(b"b\xffd")), "").unwrap();
    std::fs::write(folder.join("line\nbreak"), "").unwrap();
    std::fs::write(folder.join("..%2F"), "").unwrap();
    symlink(&folder, folder.join("loop")).unwrap();
    symlink("itself", folder.join("itself")).unwrap();
    symlink("nowhere", folder.join("00000000000000000004")).unwrap();
    std::fs::create_dir_all(folder.join("00000000000000000005/deep")).unwrap();
    std::fs::write(folder.join("00000000000000000005/00000000000000000006"), "").unwrap();
    for name in ["back", "not a job"] {
        symlink(dir.path(), dir.path().join(name)).unwrap();
    }
    symlink("itself", dir.path().join("itself")).unwrap();
    std::fs::write(dir.path().join(OsStr::from_bytes(b"\xff")), "").unwrap();

    let listing = store.folder().list(KeyClass::Manifest).await.unwrap();
    assert_eq!(listing.entries.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [Key::Manifest(Seq(3))]);
    let mut names = listing.foreign_names;
    names.sort_unstable();
    let expected = [
        "manifest/..%2F",
        "manifest/00000000000000000004 (a link that leads nowhere)",
        "manifest/00000000000000000005/00000000000000000006",
        "manifest/b%FFd (a name that no object has)",
        "manifest/itself (a link that leads nowhere)",
        "manifest/line%0Abreak (a name that no object has)",
        "manifest/loop (a link to a folder)",
    ];
    assert_eq!((names.as_slice(), listing.foreign), (&expected.map(str::to_owned)[..], 7));
    let jobs = list_jobs(objects.as_ref(), &prefix, &runtime(), &settings()).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.as_str()).collect::<Vec<_>>(), ["back", "job"]);
    // A folder in an object's place is damage, not a missing object.
    let error = store.folder().read(&Key::Manifest(Seq(5)), 100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn an_unreadable_folder_is_not_empty() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let (objects, prefix) = open_url(&format!("file://{}", dir.path().display()), Access::Write).unwrap();
    let store = store(objects, &prefix);
    let (id, bytes) = object(1);
    store.folder().put_new(&Key::Manifest(Seq(3)), id, bytes).await.unwrap();
    let (folder, below) = (dir.path().join("job/manifest"), dir.path().join("job/manifest/below"));
    std::fs::create_dir(&below).unwrap();
    let set = |path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(&below, 0o000);
    let beside = store.folder().list(KeyClass::Manifest).await;
    let privileged = std::fs::read_dir(&below).is_ok();
    set(&below, 0o755);
    set(&folder, 0o000);
    let whole = store.folder().list(KeyClass::Manifest).await;
    set(&folder, 0o755);
    // Permissions do not stop a privileged user.
    if !privileged {
        let beside = beside.unwrap();
        assert_eq!((beside.entries.len(), beside.foreign), (1, 1));
        assert_eq!(beside.foreign_names, ["manifest/below (an unreadable folder)"]);
        assert_eq!(whole.unwrap_err().kind(), ErrorKind::Denied);
    }
}
