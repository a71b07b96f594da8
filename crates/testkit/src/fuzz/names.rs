//! Names: external text that becomes a key, a path or an identity.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use alluvium::internals::store::KeyClass;
use alluvium::manifest::{Hash, ObjectId, PutId};
use alluvium::{Access, Attempt, Error, ErrorKind, JobId, JobName, Result, Seq, list_jobs, open_url};
use object_store::path::Path;

use super::world;

/// Each line as a job's name, as an identity, as a URL, and as the path of a foreign object in a job's folders.
pub fn names(data: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(data);
    let mut refused = Ok(());
    for line in text.lines() {
        let named = name(line);
        refused = refused.and(named);
        // Numbers may have several spellings, but nothing else parses as one.
        let _parsed = (line.parse::<Attempt>(), line.parse::<Seq>());
        one_spelling::<ObjectId>(line);
        one_spelling::<PutId>(line);
        one_spelling::<JobId>(line);
        one_spelling::<Hash>(line);
        url(line);
    }
    world::run(listing(&text))?;
    refused
}

fn name(line: &str) -> Result<()> {
    let name: JobName = line.parse()?;
    assert_eq!(name.as_str(), line);
    assert_eq!(Path::parse(line).expect("a name is a path").parts().count(), 1, "a name is one segment");
    assert_eq!(Path::from(line).as_ref(), line, "no store spells it in another way");
    Ok(())
}

fn one_spelling<T: FromStr<Err = Error> + Display + Debug + PartialEq>(line: &str) {
    match line.parse::<T>() {
        Ok(id) => assert_eq!(id.to_string(), line, "one identity, one spelling"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Usage),
    }
}

/// A URL opens or is refused, and no error shows its secrets.
fn url(line: &str) {
    const SECRET: &str = "PlantedSecret";
    for url in [line.to_owned(), format!("s3://user:{SECRET}@{line}"), format!("{line}?sig={SECRET}#{SECRET}")] {
        // The fuzzer must not touch this machine's folders.
        if url.trim_start().to_ascii_lowercase().starts_with("file") {
            continue;
        }
        if let Err(error) = open_url(&url, Access::Read) {
            let secret = error.chain().contains(SECRET) && !line.contains(SECRET);
            assert!(!secret, "{}", error.chain());
        }
    }
}

/// Each entry recognised by a listing exists, under exactly the name the crate would give it.
async fn listing(text: &str) -> Result<()> {
    let folders = [
        ("attempt", KeyClass::Attempt),
        ("manifest", KeyClass::Manifest),
        ("data", KeyClass::Data),
        ("probe", KeyClass::Probe),
    ];
    let mut objects = world::Objects::new();
    for line in text.lines() {
        for (folder, _) in folders {
            for key in [format!("job/{folder}/{line}"), format!("{line}/{folder}/1")] {
                if let Ok(path) = Path::parse(&key) {
                    objects.insert(path.to_string(), bytes::Bytes::new());
                }
            }
        }
    }
    let (memory, store) = world::store(&objects, 1).await;
    for (folder, class) in folders {
        let listing = store.folder().list(class).await?;
        for (key, _) in &listing.entries {
            assert!(objects.contains_key(&format!("job/{key}")), "{key} is not there");
        }
        let prefix = format!("job/{folder}/");
        let all = objects.keys().filter(|key| key.starts_with(&prefix)).count() as u64;
        assert_eq!(listing.entries.len() as u64 + listing.foreign, all);
    }
    let settings = store.settings().clone();
    for name in list_jobs(memory.as_ref(), &Path::default(), &world::runtime(2), &settings).await? {
        assert!(objects.keys().any(|key| key.split('/').next() == Some(name.as_str())), "{name} is not there");
    }
    Ok(())
}
