//! Names of the metrics, through the `metrics` facade.
