//! Captures the log lines of the code under test into the run's trace, and passes them to a listener.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::Sim;

/// Runs `work` and calls `listen` with the message and the full text of each line logged on this thread.
pub fn logged<R>(sim: &Sim, listen: impl Fn(&str, &str) + Send + 'static, work: impl FnOnce() -> R) -> R {
    let sink = Arc::new(Mutex::new(Some((sim.clone(), listen))));
    let result = tracing::subscriber::with_default(Listener { sink: Arc::clone(&sink) }, work);
    // Another thread may drop the listener last, while holding a lock of the library. The captured values may log when
    // dropped, so they are dropped here.
    let sink = sink.lock().unwrap().take();
    drop(sink);
    result
}

struct Listener<F> {
    sink: Arc<Mutex<Option<(Sim, F)>>>,
}

/// A line: its message, followed by its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("writing to a string does not fail");
    }
}

impl<F: Fn(&str, &str) + Send + 'static> Subscriber for Listener<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("alluvium")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let whole = format!("{}{}", line.message, line.fields);
        if let Some((sim, listen)) = &*self.sink.lock().unwrap() {
            sim.trace(format_args!("  log: {whole}"));
            listen(&line.message, &whole);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
