//! What is logged: publications that come near the end of their transaction's time.

use std::io;
use std::sync::Mutex;

use crate::*;

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs to a string until the guard is dropped.
fn logging() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn a_publication_that_may_run_out_of_time_is_announced() {
    let (log, _logging) = logging();
    let broker = broker(2);
    let mut slot = fenced(settings(&broker).with(|it| it.transaction_timeout = Duration::from_millis(1))).await;
    // However fast the machine is, a publication takes longer than its transaction may.
    broker.on(ApiKey::EndTxn, |_| Control::Delay(Duration::from_millis(5)));
    let large = |count: usize| vec![KafkaRecord::new("key", vec![b'x'; 1 << 20]).to_bytes(); count].iter().collect();
    let (after, before) = ("took more than half of its transaction", "may take longer than its transaction");
    log.take();
    slot.publish(marker(FIRST, 1), &large(8)).await.unwrap();
    let first = log.take();
    assert!(first.contains(after) && first.contains("timeout=1ms") && !first.contains(before), "{first}");
    slot.publish(marker(FIRST, 2), &large(16)).await.unwrap();
    let second = log.take();
    assert!(second.contains(before) && second.contains("expected=") && second.contains(after), "{second}");
}

#[tokio::test]
async fn a_slot_that_is_dropped_between_publications_logs_no_warning() {
    let (log, _logging) = logging();
    let broker = broker(2);
    let mut slot = fenced(settings(&broker)).await;
    slot.publish(marker(FIRST, 1), &records(["a"])).await.unwrap();
    log.take();
    drop(slot);
    let logged = log.take();
    assert!(!logged.contains("WARN"), "{logged}");
}
