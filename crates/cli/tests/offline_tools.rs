//! The offline tools as a user runs them: manifest keys, dropped savepoints.

use alluvium_testkit::tool::{self, Bench, fails, json, run, stderr, words};

#[test]
fn the_tool_signs_verifies_and_never_prints_a_key() {
    let bench = Bench::new();
    let input = bench.write("in.csv", "k\na\nb\na\n");
    let digits = "5ec2e7a9".repeat(8);
    let key = bench.write("key", format!("{digits}\n"));
    let other = bench.write("other", "0".repeat(64));
    let bad = bench.write("bad", &digits[1..]);
    let place = format!("--store {} --job j", bench.store("s"));
    let call = |args: &str, key: Option<&std::path::Path>| {
        let mut args = words(&format!("{args} {place}"));
        args.extend(key.into_iter().flat_map(|key| ["--manifest-key".to_owned(), key.display().to_string()]));
        let output = run(args);
        let printed = [&output.stdout[..], &output.stderr[..]].concat();
        assert!(!String::from_utf8_lossy(&printed).contains("5ec2e7a9"), "a key was printed");
        output
    };
    let aggregate = format!("run --input {} --key k --agg count", input.display());
    assert!(fails(&call(&aggregate, Some(&bad)), "config").contains("bad"));
    let first = call(&aggregate, Some(&key));
    assert!(first.status.success(), "{}", stderr(&first));
    for command in ["list", "inspect", "verify", "sweep"] {
        fails(&call(command, None), "denied");
        let good = call(command, Some(&key));
        assert!(good.status.success(), "{command}: {}", stderr(&good));
    }
    fails(&call(&aggregate, None), "denied");
    fails(&call("inspect", Some(&other)), "corrupt");
    assert_eq!(call("verify", Some(&other)).status.code(), Some(3), "to who has another key, all is damaged");
}

#[test]
fn the_tool_drops_savepoints() {
    let bench = Bench::new();
    bench.write("in.csv", "k\na\nb\n");
    let (input, from, to) = (bench.path("in.csv"), bench.store("from"), bench.store("to"));
    let run = |store: &str| format!("run -i {} -k k -a count -s {store} -j j --retain 1 --json", input.display());
    let on = |text: &str| tool::run(words(text));
    json(&on(&run(&from)));
    json(&on(&format!("savepoint -s {from} -j j --to {to} --json")));
    json(&on(&run(&to)));
    let ids = || {
        let listed = json(&on(&format!("list -s {to} -j j --json")));
        let ids = listed["jobs"][0]["checkpoints"].as_array().unwrap().iter();
        ids.map(|checkpoint| checkpoint["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let before = ids();
    assert_eq!(before[0], 1);
    let manifest = bench.path("to/j/manifest/00000000000000000001");
    std::fs::remove_file(manifest).unwrap();
    fails(&on(&format!("sweep -s {to} -j j --delete")), "corrupt");
    fails(&on(&format!("drop -s {to} -j j --savepoint 99")), "not_found");
    fails(&on(&format!("drop -s {to} -j j --savepoint {}", before[1])), "usage");
    let dry = json(&on(&format!("drop -s {to} -j j --savepoint 1 --json")));
    assert_eq!((&dry["dropped"], &dry["checkpoints"][0]["kind"]), (&false.into(), &"savepoint".into()));
    assert_eq!(ids(), before[1..], "its manifest cannot be read");
    let done = json(&on(&format!("drop -s {to} -j j --savepoint 1 --yes --json")));
    assert_eq!((&done["dropped"], &done["deleted"]), (&true.into(), &dry["deletable"]));
    assert_eq!(ids(), before[1..]);
    json(&on(&format!("sweep -s {to} -j j --delete --json")));
    assert!(on(&format!("verify -s {to} -j j")).status.success());
}
