//! Output, exactly once: an operator whose records go to a sink.

use alluvium::sink::Sink;
use alluvium::{Epoch, LogBackend, Result, Task};

use crate::operator::Operator;

/// Hands records to a sink: they are published after the commit of their epoch.
pub(crate) struct Publish<D, F> {
    task: Task<LogBackend>,
    sink: Sink,
    encode: F,
    bytes: Vec<u8>,
    records: std::marker::PhantomData<fn(D)>,
}

impl<D, F> Publish<D, F> {
    pub(crate) fn new(task: Task<LogBackend>, sink: Sink, encode: F) -> Self {
        Self { task, sink, encode, bytes: Vec::new(), records: std::marker::PhantomData }
    }
}

impl<D, F> Operator for Publish<D, F>
where
    D: Clone + 'static,
    F: FnMut(&D, &mut Vec<u8>) + Send + 'static,
{
    type Input = D;
    type Output = ();
    type Backend = LogBackend;

    fn task(&mut self) -> &mut Task<LogBackend> {
        &mut self.task
    }

    fn process(&mut self, record: D, _output: &mut Vec<()>) -> Result<()> {
        self.bytes.clear();
        (self.encode)(&record, &mut self.bytes);
        self.sink.emit(&self.bytes)
    }

    fn is_finished(&mut self, last: Epoch) -> Result<bool> {
        let progress = self.sink.watch();
        let progress = progress.borrow();
        match &progress.failed {
            Some(error) => Err(error.clone()),
            None => Ok(progress.published >= Some(last)),
        }
    }
}
