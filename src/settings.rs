//! Settings are plain structs that may gain fields. Outside the crate they are made from their defaults.

/// Gives each of the settings a method that changes some of its fields.
macro_rules! adjustable {
    ($($settings:ty),+ $(,)?) => {$(
        impl $settings {
            /// Returns these settings after `change`, for use in an expression: the struct may gain fields, so it cannot
            /// be written as a literal outside the crate.
            #[must_use]
            pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
                change(&mut self);
                self
            }
        }
    )+};
}

adjustable!(
    crate::checkpoint::pipeline::PipelineSettings,
    crate::control::chain::ChainPolicy,
    crate::control::coordinator::CheckpointPolicy,
    crate::control::interval::Goals,
    crate::control::interval::IntervalSettings,
    crate::control::retention::RetentionPolicy,
    crate::job::AdaptiveInterval,
    crate::job::JobSettings,
    crate::job::WorkerSettings,
    crate::offline::RestoreOptions,
    crate::sink::SinkSettings,
    crate::source::SourceSettings,
    crate::store::StoreSettings,
);
#[cfg(feature = "rocksdb")]
adjustable!(crate::backend::RocksDbSettings);
