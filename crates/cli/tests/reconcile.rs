//! `alluvium reconcile`: input and output against the checkpoints, undamaged and damaged.

use std::fs;
use std::path::PathBuf;

use alluvium_testkit::oracle::sample::sample;
use alluvium_testkit::oracle::{WINDOWED, expected};
use alluvium_testkit::tool::{Bench, fails, json, run, stderr, words};
use serde_json::Value;

/// A finished job from a file to a folder, in three runs at three parallelisms.
struct Finished {
    bench: Bench,
    input: PathBuf,
}

impl Finished {
    fn new() -> Self {
        let bench = Bench::new();
        let input = bench.write("sample.csv", sample());
        let finished = Self { bench, input };
        for more in ["--limit 700 --parallelism 3", "--limit 1500 --parallelism 1", "--parallelism 2"] {
            json(&run(finished.words(&format!("run --interval 20ms --retain 100 --emit on-close {more}"), true)));
        }
        finished
    }

    fn words(&self, text: &str, is_run: bool) -> Vec<String> {
        let mut args = words(&format!("{text} --json --store {} --job j", self.bench.store("state")));
        args.extend(["--input".to_owned(), self.input.display().to_string()]);
        args.extend(["--output".to_owned(), self.parts().display().to_string()]);
        args.extend(WINDOWED.flags().into_iter().filter(|_| is_run));
        args
    }

    fn parts(&self) -> PathBuf {
        self.bench.path("parts")
    }

    /// Returns the parts by name, those of the earliest epochs first.
    fn part_names(&self) -> Vec<String> {
        let names = fs::read_dir(self.parts()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut parts: Vec<_> = names.filter(|name| name.starts_with("part-")).collect();
        parts.sort_by_key(|name| epoch_of(name));
        parts
    }

    /// Returns the exit code, and the outcomes of input and output.
    fn reconcile(&self, more: &str) -> (i32, Value, Value) {
        let output = run(self.words(&format!("reconcile {more}"), false));
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", stderr(&output));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let [input, folder] = document["ends"].as_array().unwrap().as_slice() else { panic!("{document}") };
        assert_eq!((&input["end"], &folder["end"]), (&"input".into(), &"output".into()));
        (output.status.code().unwrap(), input.clone(), folder.clone())
    }
}

fn epoch_of(part: &str) -> u64 {
    part.split('-').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_job_that_lost_nothing_is_the_same_at_both_ends() {
    let finished = Finished::new();
    let answer = expected(sample().as_bytes(), &WINDOWED);
    for more in ["", "--since-oldest"] {
        let (code, input, folder) = finished.reconcile(more);
        assert_eq!((code, &input["outcome"], &folder["outcome"]), (0, &"same".into(), &"same".into()));
        assert_eq!(input["found"], answer.records);
        assert_eq!(folder["found"], csv::Reader::from_reader(answer.output.as_bytes()).records().count());
    }
}

#[test]
fn each_damage_of_an_output_is_found_at_its_epoch() {
    let finished = Finished::new();
    let parts = finished.part_names();
    assert!(parts.len() >= 3, "{parts:?}");
    let path = |part: &str| finished.parts().join(part);
    for part in [&parts[0], &parts[1], parts.last().unwrap()] {
        let before = fs::read_to_string(path(part)).unwrap();
        let check = |what: &str| {
            let (code, input, folder) = finished.reconcile("");
            assert_eq!((code, &input["outcome"], &folder["outcome"]), (3, &"same".into(), &"differs".into()), "{what}");
            assert_eq!(folder["differs_at"], epoch_of(part), "{what}: {folder}");
            assert!(folder["same_at"].as_u64() < Some(epoch_of(part)), "{what}: {folder}");
        };
        fs::remove_file(path(part)).unwrap();
        check("a lost part");
        let (header, rows) = before.split_once('\n').unwrap();
        fs::write(path(part), format!("{header}\n{rows}{rows}")).unwrap();
        check("rows twice");
        let other = if rows.contains('1') { rows.replacen('1', "2", 1) } else { rows.replacen('2', "3", 1) };
        fs::write(path(part), format!("{header}\n{other}")).unwrap();
        check("an altered row");
        fs::write(path(part), before).unwrap();
        let copy = part.replace(".csv", "9.csv");
        fs::copy(path(part), path(&copy)).unwrap();
        check("a part twice");
        fs::remove_file(path(&copy)).unwrap();
    }
    assert_eq!(finished.reconcile("").0, 0);
}

#[test]
fn a_part_that_is_still_staged_is_not_a_difference() {
    let finished = Finished::new();
    let last = finished.part_names().pop().unwrap();
    let owner = fs::read_to_string(finished.parts().join("_owner.json")).unwrap();
    let owner: Value = serde_json::from_str(&owner).unwrap();
    let staged = format!(".staged-{}-1-{last}", owner["id"].as_str().unwrap());
    fs::rename(finished.parts().join(&last), finished.parts().join(staged)).unwrap();
    let (code, _, folder) = finished.reconcile("");
    assert_eq!((code, &folder["outcome"]), (0, &"unpublished".into()));
    // It does not excuse other damage.
    fs::remove_file(finished.parts().join(&finished.part_names()[0])).unwrap();
    let (code, _, folder) = finished.reconcile("");
    assert_eq!((code, &folder["outcome"]), (3, &"differs".into()));
}

#[test]
fn a_part_that_no_checkpoint_counts_is_found() {
    let finished = Finished::new();
    let parts = finished.part_names();
    for stray in ["part-999-1.csv", "part-1-1-copy.csv", "part-1-1.csv.bak"] {
        fs::copy(finished.parts().join(&parts[0]), finished.parts().join(stray)).unwrap();
        let (code, _, folder) = finished.reconcile("");
        assert_eq!((code, &folder["outcome"]), (3, &"differs".into()), "{stray}");
        fs::remove_file(finished.parts().join(stray)).unwrap();
    }
}

#[test]
fn a_changed_input_is_found() {
    let finished = Finished::new();
    let before = fs::read_to_string(&finished.input).unwrap();
    let lines: Vec<&str> = before.lines().collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n") + "\n";
    let twice = |at: usize| [&lines[..at], &lines[at - 1..]].concat().join("\n") + "\n";
    let shorter = lines[..lines.len() - 3].join("\n") + "\n";
    for (what, changed) in [("lost", without(5)), ("twice", twice(900)), ("cut", shorter)] {
        fs::write(&finished.input, changed).unwrap();
        let (code, input, folder) = finished.reconcile("");
        assert_eq!((code, &input["outcome"], &folder["outcome"]), (3, &"differs".into(), &"same".into()), "{what}");
    }
    // More input than the job has read is no difference.
    fs::write(&finished.input, format!("{before}{}\n", lines.last().unwrap())).unwrap();
    assert_eq!(finished.reconcile("").0, 0);
}

#[test]
fn without_ends_it_shows_what_the_checkpoint_says() {
    let finished = Finished::new();
    let shown = run(words(&format!("reconcile --store {} --job j", finished.bench.store("state"))));
    assert!(shown.status.success());
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("sample.csv/0") && text.contains("not asked"), "{text}");
    let mut other = finished.words("reconcile", false);
    let input = other.iter().position(|arg| arg == "--input").unwrap() + 1;
    other[input] = finished.bench.write("other.csv", "a\n").display().to_string();
    assert!(fails(&run(other), "config").contains("differs from the stored program"));
    let absent = run(words(&format!("reconcile --store {} --job k", finished.bench.store("state"))));
    fails(&absent, "not_found");
}

#[test]
fn checkpoints_of_a_history_that_the_job_has_left_are_not_compared() {
    let finished = Finished::new();
    let listed = json(&run(words(&format!("list --store {} --job j --json", finished.bench.store("state")))));
    let oldest = listed["jobs"][0]["checkpoints"].as_array().unwrap()[0]["id"].as_u64().unwrap();
    let back = format!("run --interval 20ms --retain 100 --emit on-close --checkpoint {oldest} --publish-again");
    json(&run(finished.words(&back, true)));
    let (code, input, folder) = finished.reconcile("");
    assert_eq!((code, &input["outcome"]), (3, &"same".into()), "{input}");
    assert_eq!(folder["outcome"], "differs", "parts after that checkpoint are there twice");
}
