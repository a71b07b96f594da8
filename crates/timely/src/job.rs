//! What a dataflow is built with: sources, operators with state, and output.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::rc::Rc;
use std::sync::mpsc::channel;

use alluvium::sink::Sink;
use alluvium::source::{Source, SourceSettings};
use alluvium::{Error, LogBackend, OperatorId, OperatorSpec, Result, Seat, SharedRuntime, Timestamp};
use futures_util::FutureExt as _;
use timely::ExchangeData;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::{Scope, Stream};
use timely::worker::Worker;

use crate::control::Up;
use crate::failure::Failure;
use crate::link::{Routing, Seats};
use crate::operator::Operator;
use crate::port::Port;
use crate::publish::Publish;
use crate::signals::Signals;
use crate::source::{Feed, Opened};
use crate::stateful::{Environment, Restoring};
use crate::time::Time;
use crate::{source, stateful};

/// One worker's part of a job: adds sources, operators with state, and output to a dataflow.
///
/// All workers must build the same, as anywhere in timely. A copy is the same part.
#[derive(Clone)]
pub struct Job {
    inner: Rc<Inner>,
}

struct Inner {
    workers: u32,
    runtime: SharedRuntime,
    failure: Failure,
    signals: Rc<Signals>,
    up: Port<Up>,
    routing: Rc<Cell<Option<Routing>>>,
    declared: RefCell<Vec<Declared>>,
    sources: Cell<u64>,
}

struct Declared {
    spec: OperatorSpec,
    /// Begins to restore the operator from its seat.
    begin: Option<Begin>,
}

type Begin = Box<dyn FnOnce(Seat)>;

impl Job {
    pub(crate) fn new(
        workers: u32,
        runtime: SharedRuntime,
        failure: Failure,
        (signals, up): (Rc<Signals>, Port<Up>),
    ) -> Self {
        let (routing, declared, sources) = (Rc::default(), RefCell::default(), Cell::new(0));
        Self { inner: Rc::new(Inner { workers, runtime, failure, signals, up, routing, declared, sources }) }
    }

    /// Returns the declaration of an operator, with a subtask at each worker. Its id and its name stay the same over restarts.
    #[must_use]
    pub fn operator(&self, id: u32, name: &str) -> OperatorSpec {
        OperatorSpec::new(OperatorId(id), name, self.inner.workers)
    }

    /// Reads a source. Its splits are shared out to the workers; their positions are in each checkpoint, and reading continues there.
    ///
    /// Records carry the watermark of the source as the time of their [`Time`]; the end of all splits is the end of time.
    ///
    /// * `read`: returns the event time and the content of a split's current record; a record without content is skipped.
    pub fn source<'scope, S, D>(
        &self,
        scope: Scope<'scope, Time>,
        operator: OperatorSpec,
        (input, settings): (S, SourceSettings),
        read: impl FnMut(&S::Reader) -> Result<(Option<Timestamp>, Option<D>)> + 'static,
    ) -> Stream<'scope, Time, Vec<D>>
    where
        S: Source,
        D: Clone + 'static,
    {
        let name = operator.name.clone();
        let positions = name.clone();
        self.inner.sources.set(self.inner.sources.get() + 1);
        source::add(&name, scope, read, |address| {
            let open = async move |seat: Seat| {
                let reader = seat.open_source(&positions, input, settings).await?;
                let task = seat.restore(LogBackend::new).await?;
                Ok(Opened { task, reader })
            };
            let environment = self.environment(scope.worker(), &address);
            let barriers = self.inner.signals.subscribe();
            let restoring = self.declare(operator, scope.worker(), &address, open);
            (restoring, environment, Feed { barriers, up: self.inner.up.clone() })
        })
    }

    /// Adds an operator with keyed state. Each record goes to the worker that has the state of its key.
    ///
    /// * `key`: appends the encoded key of a record, as the operator passes it to `KeyedState::set_key`.
    /// * `restore`: restores the operator from its seat. It runs on the store's runtime.
    pub fn stateful<'scope, O, F>(
        &self,
        stream: Stream<'scope, Time, Vec<O::Input>>,
        operator: OperatorSpec,
        mut key: impl FnMut(&O::Input, &mut Vec<u8>) + 'static,
        restore: impl FnOnce(Seat) -> F + 'static,
    ) -> Stream<'scope, Time, Vec<O::Output>>
    where
        O: Operator,
        O::Input: ExchangeData,
        F: Future<Output = Result<O>> + Send + 'static,
    {
        let (routing, failure, mut bytes) = (Rc::clone(&self.inner.routing), self.inner.failure.clone(), Vec::new());
        let pact = Exchange::new(move |record: &O::Input| {
            bytes.clear();
            key(record, &mut bytes);
            routing.get().map_or_else(
                || {
                    failure.set(Error::usage("a record was sent before the job has started"));
                    0
                },
                |routing| routing.worker_of(&bytes),
            )
        });
        let name = operator.name.clone();
        stateful::add(&name, (stream, pact), |scope, address| {
            let environment = self.environment(scope.worker(), &address);
            (self.declare(operator, scope.worker(), &address, restore), environment)
        })
    }

    /// Publishes a stream, each record exactly once. Each worker has a slot of the sink.
    ///
    /// * `register`: registers the sink with a seat, [`Seat::add_sink`] or [`Seat::add_staged_sink`].
    /// * `encode`: appends a record, in the form that the target takes.
    pub fn publish<'scope, D>(
        &self,
        stream: Stream<'scope, Time, Vec<D>>,
        operator: OperatorSpec,
        register: impl FnOnce(&mut Seat) -> Result<Sink> + Send + 'static,
        encode: impl FnMut(&D, &mut Vec<u8>) + Send + 'static,
    ) where
        D: Clone + 'static,
    {
        let name = operator.name.clone();
        let _nothing = stateful::add(&name, (stream, Pipeline), |scope, address| {
            let open = async move |mut seat: Seat| {
                let sink = register(&mut seat)?;
                let task = seat.restore(LogBackend::new).await?;
                Ok(Publish::new(task, sink, encode))
            };
            let environment = self.environment(scope.worker(), &address);
            (self.declare(operator, scope.worker(), &address, open), environment)
        });
    }

    fn environment(&self, worker: &Worker, address: &Rc<[usize]>) -> Environment {
        self.inner.signals.wake(worker.activator_for(Rc::clone(address)));
        Environment {
            signals: Rc::clone(&self.inner.signals),
            failure: self.inner.failure.clone(),
            activator: worker.activator_for(Rc::clone(address)),
        }
    }

    /// Declares an operator of this worker. Returns where it comes from once it is restored.
    fn declare<R, F>(
        &self,
        spec: OperatorSpec,
        worker: &Worker,
        address: &Rc<[usize]>,
        restore: impl FnOnce(Seat) -> F + 'static,
    ) -> Restoring<R>
    where
        R: Send + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let (sender, restoring) = channel();
        let activator = worker.sync_activator_for(address.to_vec());
        let runtime = self.inner.runtime.clone();
        let begin = Box::new(move |seat: Seat| {
            let restored = restore(seat);
            runtime.spawn(
                async move {
                    // An operator that has ended needs nothing.
                    let _ended = sender.send(restored.await);
                    let _ended = activator.activate();
                }
                .boxed(),
            );
        });
        self.inner.declared.borrow_mut().push(Declared { spec, begin: Some(begin) });
        restoring
    }

    pub(crate) fn specs(&self) -> Vec<OperatorSpec> {
        self.inner.declared.borrow().iter().map(|declared| declared.spec.clone()).collect()
    }

    /// Returns the number of sources.
    pub(crate) fn sources(&self) -> u64 {
        self.inner.sources.get()
    }

    /// Starts the operators of this worker.
    ///
    /// # Errors
    /// `Usage` if this worker has built another dataflow than worker 0.
    pub(crate) fn start(&self, seats: Seats) -> Result<()> {
        self.inner.routing.set(Some(seats.routing));
        self.inner.signals.start(seats.attempt, seats.first_epoch);
        let mut declared = self.inner.declared.borrow_mut();
        for seat in seats.seats {
            let own = declared.iter_mut().find(|declared| declared.spec.id == seat.operator());
            let begin = own.and_then(|declared| declared.begin.take());
            let begin = begin.ok_or_else(|| {
                Error::usage("the workers have built different dataflows").with("operator", seat.operator())
            })?;
            begin(seat);
        }
        Ok(())
    }
}

impl Debug for Job {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("workers", &self.inner.workers).finish_non_exhaustive()
    }
}
