//! The store layer on real backends, in memory and on a disk, and on ones that do not keep what they promise.

use std::fmt;
use std::sync::Arc;

use alluvium::Seq;
use alluvium::Store;
use alluvium::internals::store::{Key, KeyClass, Put};
use alluvium::{Access, RequestCounts, list_jobs, open_url};
use alluvium::{Applied, ErrorKind};
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
async fn a_name_that_a_foreign_object_has_is_taken() {
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

/// How a store breaks its promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    /// It overwrites, whatever was asked.
    IgnoresCreate,
    /// It has no conditional writes.
    LacksCreate,
    ReadOnly,
    NoBucket,
    OutOfReach,
    /// It gives back something else than it took.
    Forgets,
    KeepsWhatIsDeleted,
}

#[derive(Debug)]
struct Vicious(InMemory, Vice);

impl fmt::Display for Vicious {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.1)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Vicious {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let path = key.to_string();
        match self.1 {
            Vice::IgnoresCreate => options.mode = PutMode::Overwrite,
            Vice::LacksCreate => {
                let (operation, implementer) = ("create".into(), "vicious".into());
                return Err(object_store::Error::NotImplemented { operation, implementer });
            }
            Vice::ReadOnly => return Err(object_store::Error::PermissionDenied { path, source: "403".into() }),
            Vice::NoBucket => return Err(object_store::Error::NotFound { path, source: "NoSuchBucket".into() }),
            Vice::OutOfReach => {
                return Err(object_store::Error::Generic { store: "vicious", source: "connection refused".into() });
            }
            Vice::Forgets => {
                let mut bytes = Bytes::from(payload).to_vec();
                bytes[50] ^= 1;
                return self.0.put_opts(key, bytes.into(), options).await;
            }
            Vice::KeepsWhatIsDeleted => {}
        }
        self.0.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        if self.1 == Vice::OutOfReach {
            return Err(object_store::Error::Generic { store: "vicious", source: "connection refused".into() });
        }
        self.0.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.1 == Vice::KeepsWhatIsDeleted {
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
    let vices = [
        (Vice::IgnoresCreate, ErrorKind::Config, "ignores create-if-absent"),
        (Vice::LacksCreate, ErrorKind::Config, "lacks create-if-absent"),
        (Vice::ReadOnly, ErrorKind::Denied, "refuses access"),
        (Vice::NoBucket, ErrorKind::Config, "bucket or container"),
        (Vice::OutOfReach, ErrorKind::Unavailable, "connection refused"),
        (Vice::Forgets, ErrorKind::Config, "gives back"),
    ];
    for (vice, kind, text) in vices {
        let error = store(Arc::new(Vicious(InMemory::new(), vice)), &Path::default()).probe().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{vice:?}: {error}");
        assert!(error.chain().contains(text), "{vice:?}: {}", error.chain());
    }
    store(Arc::new(Vicious(InMemory::new(), Vice::KeepsWhatIsDeleted)), &Path::default()).probe().await.unwrap();
}

#[tokio::test]
async fn what_a_store_out_of_reach_was_sent_is_unknown() {
    let store = store(Arc::new(Vicious(InMemory::new(), Vice::OutOfReach)), &Path::default());
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
    // A privileged user may write anywhere.
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
    // A folder that stands where an object belongs is damage, not an object that is missing.
    let error = store.folder().read(&Key::Manifest(Seq(5)), 100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_read_is_no_empty_one() {
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
    // A privileged user may read anything.
    if !privileged {
        let beside = beside.unwrap();
        assert_eq!((beside.entries.len(), beside.foreign), (1, 1));
        assert_eq!(beside.foreign_names, ["manifest/below (an unreadable folder)"]);
        assert_eq!(whole.unwrap_err().kind(), ErrorKind::Denied);
    }
}
