//! A thread that makes memory ready before it is needed.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Wakes the thread, which ends after this is dropped.
#[derive(Debug)]
pub(super) struct Warmer {
    /// `None` if the system has no threads: whoever needs memory then waits for it.
    wake: Option<SyncSender<()>>,
}

impl Warmer {
    /// Starts a thread that does `work` each time it is woken.
    pub(super) fn start(work: impl Fn() + Send + 'static) -> Self {
        let (wake, woken) = sync_channel(1);
        let thread = thread::Builder::new().name("alluvium-warmer".into());
        let started = thread.spawn(move || woken.into_iter().for_each(|()| work()));
        Self { wake: started.is_ok().then_some(wake) }
    }

    /// Has the work done soon. Does not wait; once is enough.
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
    fn it_works_when_it_is_woken_and_ends_when_it_is_dropped() {
        let (work, done) = channel();
        let warmer = Warmer::start(move || work.send(()).unwrap());
        warmer.wake();
        drop(warmer);
        assert!(done.recv().is_ok(), "it was woken once");
        assert!(done.recv().is_err(), "the thread is gone, and its work with it");
    }
}
