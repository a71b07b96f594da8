//! Operators with keyed state, as users write them.

use alluvium::backend::StateBackend;
use alluvium::{Epoch, Result, Task, Timestamp};

/// An operator with keyed state, at one worker. [`Job::stateful`](crate::Job::stateful) runs it.
///
/// It has a task, which it restores from its seat as in any other engine, and processes records one at a
/// time. It calls neither `Task::barrier` nor `Task::settle`.
pub trait Operator: Send + 'static {
    /// A record that comes in.
    type Input;
    /// A record that goes out.
    type Output;
    /// Where the state lies.
    type Backend: StateBackend;

    /// Returns its task.
    fn task(&mut self) -> &mut Task<Self::Backend>;

    /// Processes a record.
    ///
    /// # Errors
    /// Ends the job, in all processes.
    fn process(&mut self, record: Self::Input, output: &mut Vec<Self::Output>) -> Result<()>;

    /// Time has come to `watermark`, at the input of this operator: fires timers. No earlier records will come, except for late ones.
    /// [`Timestamp::MAX`] at the end of bounded input. Default: does nothing.
    ///
    /// # Errors
    /// Ends the job, in all processes.
    fn advance(&mut self, watermark: Timestamp, output: &mut Vec<Self::Output>) -> Result<()> {
        let _unused = (watermark, output);
        Ok(())
    }

    /// At the end of the job, after its last checkpoint: returns whether the operator has nothing left to do. Called again and again
    /// until then. An operator with a [sink](alluvium::Seat::add_sink) waits here until everything is published. Default: true.
    ///
    /// * `last`: the epoch of the last checkpoint.
    ///
    /// # Errors
    /// Ends the job, in all processes.
    fn is_finished(&mut self, last: Epoch) -> Result<bool> {
        let _unused = last;
        Ok(true)
    }
}
