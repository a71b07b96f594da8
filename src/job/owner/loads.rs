//! Joining the loads that workers report, about once a second each, to samples of the whole job.

use std::collections::BTreeMap;

use crate::control::estimate::LoadSample;
use crate::id::SessionId;

/// The samples since the last joined one.
#[derive(Debug)]
pub(super) struct Loads {
    workers: usize,
    waiting: BTreeMap<SessionId, LoadSample>,
}

impl Loads {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, waiting: BTreeMap::new() }
    }

    /// Adds a worker's sample. Returns a sample of the job once every worker has reported, or one reports again.
    pub(super) fn add(&mut self, worker: SessionId, sample: LoadSample) -> Option<LoadSample> {
        let again = self.waiting.contains_key(&worker).then(|| self.join());
        self.waiting.insert(worker, sample);
        if again.is_none() && self.waiting.len() == self.workers { Some(self.join()) } else { again }
    }

    /// Sums counts, and takes the mean of the busy shares.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 workers")]
    fn join(&mut self) -> LoadSample {
        let samples: Vec<_> = std::mem::take(&mut self.waiting).into_values().collect();
        let total = |count: fn(&LoadSample) -> f64| samples.iter().map(count).sum();
        let all = |count: fn(&LoadSample) -> Option<f64>| samples.iter().map(count).sum::<Option<f64>>();
        LoadSample {
            received: total(|sample| sample.received),
            processed: total(|sample| sample.processed),
            updates: all(|sample| sample.updates),
            busy: all(|sample| sample.busy).map(|busy| busy / samples.len().max(1) as f64),
            backlog: all(|sample| sample.backlog),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_the_job_sums_those_of_its_workers() {
        let sample = |count: f64, busy| LoadSample { received: count, processed: count, busy, ..LoadSample::default() };
        let [a, b] = [SessionId([1; 16]), SessionId([2; 16])];
        let mut loads = Loads::new(2);
        assert_eq!(loads.add(a, sample(10.0, Some(0.2))), None);
        let joined = loads.add(b, sample(30.0, Some(0.6))).unwrap();
        assert_eq!((joined.received, joined.busy, joined.backlog), (40.0, Some(0.4), None));
        assert_eq!(loads.add(a, sample(1.0, None)), None);
        let joined = loads.add(a, sample(2.0, Some(1.0))).unwrap();
        assert_eq!((joined.received, joined.busy), (1.0, None), "b is silent");
        let joined = loads.add(b, sample(5.0, Some(0.0))).unwrap();
        assert_eq!((joined.received, joined.busy), (7.0, Some(0.5)));
    }
}
