//! A thread that touches memory before it is needed.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// A handle to the thread, which ends after the handle is dropped.
#[derive(Debug)]
pub(super) struct Warmer {
    /// `None` if the system could not start a thread: memory is then touched when it is needed.
    wake: Option<SyncSender<()>>,
}

impl Warmer {
    /// Starts a thread that calls `work` each time it is woken.
    pub(super) fn start(work: impl Fn() + Send + 'static) -> Self {
        let (wake, woken) = sync_channel(1);
        let thread = thread::Builder::new().name("alluvium-warmer".into());
        let started = thread.spawn(move || woken.into_iter().for_each(|()| work()));
        Self { wake: started.is_ok().then_some(wake) }
    }

    /// Wakes the thread without waiting. Calls before it wakes count as one.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            let _full_is_awake = wake.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_warmer_works_when_woken_and_ends_when_dropped() {
        let (work, done) = channel();
        let warmer = Warmer::start(move || work.send(()).unwrap());
        warmer.wake();
        drop(warmer);
        assert!(done.recv().is_ok(), "one wake, one call");
        assert!(done.recv().is_err(), "the thread ended and dropped its work");
    }
}
