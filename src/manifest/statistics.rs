//! The `statistics` extension: numbers reported by the backends, or by the engines below them. Readers may ignore it.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::weight::STATISTICS;
use super::{Extension, Manifest, proto};
use crate::error::Result;
use crate::id::OperatorId;
use crate::row::Statistic;

const TAG: &str = "statistics";

/// Maximum number of statistics per operator.
const MAX_STATISTICS: usize = 64;

impl Extension {
    /// Returns the extension with each operator's numbers by name; `None` without any.
    #[must_use]
    pub fn statistics(operators: BTreeMap<OperatorId, BTreeMap<String, u64>>) -> Option<Self> {
        let of_operator = |(id, statistics): (OperatorId, BTreeMap<String, u64>)| {
            let statistics = statistics.into_iter().take(MAX_STATISTICS);
            let statistics = statistics.map(|(name, value)| proto::Statistic { name, value }).collect();
            proto::OperatorStatistics { id: id.0, statistics }
        };
        let operators: Vec<_> =
            operators.into_iter().filter(|(_, numbers)| !numbers.is_empty()).map(of_operator).collect();
        if operators.is_empty() {
            return None;
        }
        let bytes = proto::Statistics { operators }.encode_to_vec();
        Some(Self { tag: TAG.to_owned(), required: false, bytes: Bytes::from(bytes) })
    }
}

impl Manifest {
    /// Returns the numbers reported by the backends of `operator`, or the engines below them, summed over subtasks, by name; empty
    /// without any.
    ///
    /// # Errors
    /// `Corrupt` if the extension is malformed.
    pub fn statistics(&self, operator: OperatorId) -> Result<Vec<Statistic>> {
        let stored: proto::Statistics = self.extension(TAG, STATISTICS)?;
        let of_operator = stored.operators.into_iter().filter(|stored| stored.id == operator.0);
        let statistics = of_operator.flat_map(|stored| stored.statistics);
        Ok(statistics.map(|proto::Statistic { name, value }| Statistic { name, value }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::manifest::tests::manifest;

    #[test]
    fn each_operator_has_its_own_numbers() {
        let mut manifest = manifest();
        let many = (0..100u64).map(|n| (format!("n{n:03}"), n)).collect();
        let one = BTreeMap::from([("sst_bytes".to_owned(), u64::MAX)]);
        let reported = BTreeMap::from([(OperatorId(1), one), (OperatorId(2), many), (OperatorId(3), BTreeMap::new())]);
        manifest.extensions = Extension::statistics(reported).into_iter().collect();
        let first = Statistic { name: "sst_bytes".to_owned(), value: u64::MAX };
        assert_eq!(manifest.statistics(OperatorId(1)).unwrap(), [first]);
        let second = manifest.statistics(OperatorId(2)).unwrap();
        assert!(second.len() == MAX_STATISTICS && second[63] == Statistic { name: "n063".to_owned(), value: 63 });
        assert_eq!(manifest.statistics(OperatorId(3)).unwrap(), []);
        manifest.extensions[0].bytes = Bytes::from_static(b"\xff\xff");
        assert_eq!(manifest.statistics(OperatorId(1)).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(Extension::statistics(BTreeMap::from([(OperatorId(1), BTreeMap::new())])).is_none());
    }
}
