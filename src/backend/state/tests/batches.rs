//! Batch methods give the same rows as single calls.

use super::Lab;
use crate::ErrorKind;
use crate::backend::TableOptions;
use crate::codec::schema::Schema;
use crate::codec::typed::{Codec, Fixed, Utf8};
use crate::error::{Error, Result};
use crate::key_group::CurrentKey;

/// Keys with repetitions, more than the backend prefetches at a time.
fn keys() -> Vec<Vec<u8>> {
    (0..300u32).map(|n| (n % 90).to_be_bytes().to_vec()).collect()
}

fn located<'k>(lab: &Lab, keys: &'k [Vec<u8>]) -> Vec<CurrentKey<'k>> {
    keys.iter().map(|key| lab.state.locate(key).unwrap()).collect()
}

#[test]
fn a_batch_of_values_equals_single_updates() {
    let (mut many, mut single) = (Lab::new(), Lab::new());
    let options = || TableOptions::new("v").namespaced(Schema::new("utf8"));
    let value = many.state.value(options(), Fixed).unwrap();
    single.state.value::<u64, _>(options(), Fixed).unwrap();
    let keys = keys();
    let located = located(&many, &keys);
    let step = |at: usize, n: &mut Option<u64>| {
        *n = if at % 7 == 3 { None } else { Some(n.unwrap_or(0) * 3 + at as u64) };
    };
    value.update_many(&mut many.state.in_namespace(b"w"), &located, step).unwrap();
    for (at, key) in keys.iter().enumerate() {
        single.state.set_key(key).unwrap();
        value.update(&mut single.state.in_namespace(b"w"), |n| step(at, n)).unwrap();
    }
    let mut expected = Vec::new();
    for key in &keys {
        single.state.set_key(key).unwrap();
        expected.push(value.read(&mut single.state.in_namespace(b"w")).unwrap());
    }
    let mut found = Vec::new();
    value
        .get_many(&mut many.state.in_namespace(b"w"), &located, |at, n| {
            assert_eq!(at, found.len());
            found.push(n);
        })
        .unwrap();
    assert_eq!(found, expected);
    assert_eq!(many.seal(false), single.seal(false));
    assert_eq!(value.read(&mut many.state.in_namespace(b"w")).unwrap(), None, "the current key stays");
}

#[test]
fn a_batch_of_entries_equals_single_updates() {
    let (mut many, mut single) = (Lab::new(), Lab::new());
    let map = many.state.map("m", Utf8, Fixed).unwrap();
    single.state.map::<String, u64, _, _>("m", Utf8, Fixed).unwrap();
    let keys = keys();
    let subs = (0..).map(|n: usize| (n * n % 11).to_string());
    let items: Vec<_> = located(&many, &keys).into_iter().zip(subs).collect();
    map.update_many(&mut many.state, &items, |at, n| *n = Some(n.unwrap_or(0) + at as u64)).unwrap();
    for (at, (key, sub)) in items.iter().enumerate() {
        single.state.set_key(key.bytes).unwrap();
        map.update(&mut single.state, sub, |n| *n = Some(n.unwrap_or(0) + at as u64)).unwrap();
    }
    let mut found = Vec::new();
    map.get_many(&mut many.state, &items, |_, n| found.push(n)).unwrap();
    for ((key, sub), found) in items.iter().zip(found) {
        single.state.set_key(key.bytes).unwrap();
        assert_eq!(map.read(&mut single.state, sub).unwrap(), found);
    }
    assert_eq!(many.seal(false), single.seal(false));
}

#[test]
fn a_batch_of_additions_equals_single_additions() {
    let mut lab = Lab::new();
    let list = lab.state.list("l", Fixed).unwrap();
    let sum = lab.state.reducing("r", Fixed, "sum", |a: u64, b| a + b).unwrap();
    let keys = keys();
    let items: Vec<_> = located(&lab, &keys).into_iter().zip(0u64..).collect();
    list.add_many(&mut lab.state, &items).unwrap();
    sum.add_many(&mut lab.state, &items).unwrap();
    let located = located(&lab, &keys);
    let (mut lists, mut sums) = (Vec::new(), Vec::new());
    list.get_many(&mut lab.state, &located, |_, values| lists.push(values)).unwrap();
    sum.get_many(&mut lab.state, &located, |_, sum| sums.push(sum.unwrap())).unwrap();
    assert_eq!((&lists[0], &lists[89]), (&vec![0, 90, 180, 270], &vec![89, 179, 269]));
    assert!(lists.iter().zip(sums).all(|(list, sum)| list.iter().sum::<u64>() == sum));
}

/// Encodes text, and refuses empty text.
#[derive(Debug, Clone)]
struct NotEmpty;

impl Codec<String> for NotEmpty {
    fn schema(&self) -> Schema {
        Schema::new("some")
    }

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<()> {
        if value.is_empty() { Err(Error::usage("planned")) } else { Utf8.encode(value, out) }
    }

    fn decode(&self, bytes: &[u8]) -> Result<String> {
        Utf8.decode(bytes)
    }
}

#[test]
fn the_first_failure_ends_a_batch() {
    let mut lab = Lab::new();
    let map = lab.state.map("m", NotEmpty, Fixed).unwrap();
    let value = lab.state.value(TableOptions::new("v"), NotEmpty).unwrap();
    let keys = keys();
    let located = located(&lab, &keys);
    let subs = (0..).map(|n| if n == 70 { String::new() } else { "s".to_owned() });
    let items: Vec<_> = located.iter().copied().zip(subs).collect();
    let mut updated = 0;
    let result = map.update_many(&mut lab.state, &items, |_, n: &mut Option<u8>| {
        updated += 1;
        *n = Some(1);
    });
    assert_eq!((result.unwrap_err().kind(), updated, lab.rows()), (ErrorKind::Usage, 70, 70));
    let result = value.update_many(&mut lab.state, &located, |at, text| {
        *text = Some(if at == 20 { String::new() } else { "t".to_owned() });
    });
    assert_eq!((result.unwrap_err().kind(), lab.rows()), (ErrorKind::Usage, 90));
    let in_namespace = value.get_many(&mut lab.state.in_namespace(b"w"), &located, |_, _| {});
    assert_eq!(in_namespace.unwrap_err().kind(), ErrorKind::Usage);
}
