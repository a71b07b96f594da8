//! What happens to the calls of a target in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use alluvium::{Error, Result};
use tokio::sync::watch;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Succeed,
    /// Fails, and nothing has happened.
    Fail,
    /// Takes effect, and the answer is lost.
    LoseAnswer,
    /// Refuses for good.
    Refuse,
    /// Waits until [`Fates::resume`], before anything happens.
    Wait,
}

/// The fates of calls to come. Clones share them.
#[derive(Debug, Clone)]
pub struct Fates {
    next: Arc<Mutex<VecDeque<Fate>>>,
    resumed: watch::Sender<bool>,
}

impl Fates {
    pub(crate) fn new() -> Self {
        Self { next: Arc::default(), resumed: watch::Sender::new(false) }
    }

    /// Sets the fates of the next calls; those after them succeed.
    pub fn meet(&self, fates: impl IntoIterator<Item = Fate>) {
        self.next.lock().unwrap().extend(fates);
    }

    /// Lets calls that wait continue.
    pub fn resume(&self) {
        self.resumed.send_replace(true);
    }

    /// Awaits the fate of a call. Returns whether its answer is lost.
    ///
    /// # Errors
    /// `Unavailable` or `Input`, if it fails or is refused.
    pub(crate) async fn call(&self) -> Result<bool> {
        let fate = self.next.lock().unwrap().pop_front().unwrap_or(Fate::Succeed);
        match fate {
            Fate::Fail => return Err(Error::unavailable("the target is away")),
            Fate::Refuse => return Err(Error::input("the target refuses a record")),
            Fate::Wait => {
                let mut resumed = self.resumed.subscribe();
                resumed.wait_for(|resumed| *resumed).await.expect("the target outlives its slots");
            }
            Fate::Succeed | Fate::LoseAnswer => {}
        }
        Ok(fate == Fate::LoseAnswer)
    }
}

/// Returns the answer of a call that took effect.
pub(crate) fn answer<T>(answer: T, is_lost: bool) -> Result<T> {
    if is_lost { Err(Error::unavailable("no answer").unknown()) } else { Ok(answer) }
}
