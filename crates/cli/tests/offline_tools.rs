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
fn inspect_shows_what_a_lazy_restore_loads_first() {
    let bench = Bench::new();
    let rows: String = (0..2000).map(|row| format!("{}\n", if row % 2 == 0 { 7 } else { row })).collect();
    let input = bench.write("in.csv", format!("k\n{rows}"));
    let place = format!("--store {} --job j", bench.store("s"));
    json(&run(words(&format!("run --input {} --key k --agg count --json {place}", input.display()))));
    let report = json(&run(words(&format!("inspect --json {place}"))));
    let operators = report["operators"].as_array().unwrap();
    let order =
        operators.iter().find(|it| it["name"] == "aggregate").unwrap()["load_order"].as_array().unwrap().clone();
    let uses: Vec<_> = order.iter().map(|step| step["uses"].as_f64().unwrap()).collect();
    assert!(uses.len() == 128 && uses[0] > 900.0 && uses[1] < 900.0, "{uses:?}");
    assert_eq!(order.last().unwrap()["uses_share"], 1.0);
    let shown = run(words(&format!("inspect {place}")));
    let text = String::from_utf8(shown.stdout).unwrap();
    let first = "  a lazy restore loads first\n    key group  uses of late";
    assert!(text.contains(first) && text.contains("of the recorded uses\n"), "{text}");
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

/// Returns the lines of the table's export that are rows of this key, after the header.
fn exported(on: &dyn Fn(&str) -> std::process::Output, place: &str, table: &str, file: &str, key: &str) -> Vec<String> {
    json(&on(&format!("export {place} --table {table} -o {file} --json")));
    let text = std::fs::read_to_string(file).unwrap();
    let of_key = |line: &&str| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(','));
    let rows = text.lines().skip(1).filter(of_key).map(str::to_owned).collect();
    [vec![text.lines().next().unwrap().to_owned()], rows].concat()
}

#[test]
fn the_tool_gets_single_keys_as_it_exports_them() {
    let bench = Bench::new();
    let mut input = "user,site,page,at\n".to_owned();
    for n in 0..40_000u64 {
        let at = 1_700_000_000_000 + n * 40;
        input.push_str(&format!("u{},\"s,{}\",p{},{at}\n", n * n % 20_011, n % 3, n % 7));
    }
    bench.write("in.csv", input);
    let place = format!("-s {} -j j", bench.store("s"));
    let on = |text: &str| run(words(text));
    let command = format!(
        "run -i {} -k user,site -a count,distinct:page --window tumbling:10m --time at --max-parallelism 2 {place} --json",
        bench.path("in.csv").display()
    );
    json(&on(&format!("{command} --limit 38000")));
    json(&on(&command));
    let listed = json(&on(&format!("list {place} --json")));
    let newest = listed["jobs"][0]["checkpoints"].as_array().unwrap().last().unwrap().clone();
    let group_bytes = newest["total_bytes"].as_u64().unwrap() / 2;
    for (table, user, site) in
        [("aggregates", "u4", "s,2"), ("distinct_page", "u16", "s,1"), ("aggregate.aggregates", "u0", "s,1")]
    {
        let key = format!("{user},\"{site}\"");
        let file = bench.path("out.csv").display().to_string();
        let expected = exported(&on, &place, table, &file, &key);
        assert!(expected.len() > 1, "{key}");
        let found = run([words(&format!("get {place} --table {table} --key")), vec![key.clone()]].concat());
        assert!(found.status.success(), "{}", stderr(&found));
        assert_eq!(String::from_utf8(found.stdout).unwrap().lines().collect::<Vec<_>>(), expected);
        let as_json = format!("{{\"user\":\"{user}\",\"site\":\"{site}\"}}");
        let found = json(&run([words(&format!("get {place} -t {table} --json -k")), vec![as_json]].concat()));
        assert_eq!(found["rows"].as_array().unwrap().len(), expected.len() - 1);
        assert_eq!((&found["key"]["user"], &found["checkpoint"]), (&user.into(), &newest["id"]));
        assert!(found["rows"][0]["namespace"].is_i64() && found["rows"][0].get("key").is_none());
        let read = found["store"]["bytes_read"].as_u64().unwrap();
        assert!(read * 3 < group_bytes && read > 1000, "{read} of {group_bytes}");
    }
    let older = listed["jobs"][0]["checkpoints"][0]["id"].as_u64().unwrap();
    let absent = on(&format!("get {place} -t aggregates -c {older} --json --key nobody,s"));
    assert!(fails(&absent, "not_found").contains("no such key"), "and the document is printed");
    let document: serde_json::Value = serde_json::from_slice(&absent.stdout).unwrap();
    assert_eq!((&document["rows"], &document["checkpoint"]), (&serde_json::json!([]), &older.into()));
    let absent = on(&format!("get {place} -t aggregates --key nobody,s"));
    fails(&absent, "not_found");
    assert!(absent.stdout.is_empty());
    assert!(fails(&on(&format!("get {place} -t aggregates --key nobody")), "usage").contains("2"));
    fails(&on(&format!("get {place} -t nope --key a")), "not_found");
    fails(&on(&format!("get {place} --operator nope -t aggregates --key a,b")), "not_found");
    fails(&on(&format!("get {place} -t aggregates --checkpoint 99 --key a,b")), "not_found");
    assert_eq!(on(&format!("get {place} -t aggregates")).status.code(), Some(2));
}
