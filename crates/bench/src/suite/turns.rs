//! The same figures measured several times.

use alluvium::{Error, Result};
use serde_json::{Map, Value};

use super::report::Figures;

/// Returns the median of each figure; of an even number of turns, the greater of the two in the middle.
pub(super) fn medians(turns: &[Figures]) -> Result<Figures> {
    let unsuitable = |source| Error::usage("figures have no JSON form").with_source(source);
    let turns: Vec<_> = turns.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(unsuitable)?;
    serde_json::from_value(median(&turns.iter().collect::<Vec<_>>())).map_err(unsuitable)
}

/// Returns the median of numbers, where any of `values` is one; of documents, the document of medians; else the first.
fn median(values: &[&Value]) -> Value {
    let mut numbers: Vec<_> = values.iter().copied().filter(|value| value.is_number()).collect();
    numbers.sort_by(|a, b| a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()));
    if let Some(middle) = numbers.get(numbers.len() / 2) {
        return (*middle).clone();
    }
    let each =
        |of: &dyn Fn(&Value) -> Option<&Value>| median(&values.iter().copied().filter_map(of).collect::<Vec<_>>());
    match values.first() {
        Some(Value::Array(items)) => (0..items.len()).map(|at| each(&|value| value.get(at))).collect(),
        Some(Value::Object(fields)) => {
            fields.keys().map(|name| (name.clone(), each(&|value| value.get(name)))).collect::<Map<_, _>>().into()
        }
        Some(first) => (*first).clone(),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_median_of_documents_has_the_median_of_each_number() {
        let turns = [
            json!({"name": "log", "ops": 3.5, "list": [{"n": 7}, 1], "absent": null}),
            json!({"name": "log", "ops": 1.0, "list": [{"n": 9}, 3], "absent": 4}),
            json!({"name": "log", "ops": 2.0, "list": [{"n": 8}, 2], "absent": null}),
        ];
        let expected = json!({"name": "log", "ops": 2.0, "list": [{"n": 8}, 2], "absent": 4});
        assert_eq!(median(&turns.iter().collect::<Vec<_>>()), expected);
        assert_eq!(median(&[&json!(1), &json!(2)]), json!(2));
        assert_eq!(median(&[&turns[0]]), turns[0]);
    }
}
