//! Owners of a job whose tasks are in other processes: one attempt after the other, with whatever workers are connected.

use std::sync::Arc;

use alluvium::{Error, Job, OperatorId, Owner, Result, Seating, Subtask, WorkerInfo};

use super::engine::{Engine, SINK, SOURCE, STATE, Shape};
use super::judge::Restored;
use super::nodes::Process;
use super::seats::Party;
use super::workers::can_go_on;

/// Most time that an owner waits for workers, in steps of [`STEP_MS`].
const STEPS_MAX: u64 = 250;

/// The time between two looks at what workers have done.
const STEP_MS: u64 = 20;

impl Process {
    /// Owns the job for some attempts, each with the workers that are connected when it begins.
    pub(crate) async fn own(&mut self, mut shape: Shape) -> Result<()> {
        let mut owner = Arc::new(shape.builder(self.store.clone()).owner()?);
        let listening = self.world.network.listen(self.node, &owner);
        let rounds = self.rng.within(1, 5);
        // The engine of an attempt may outlive the beginning of the next.
        let mut before: Option<Engine> = None;
        for round in 1.. {
            if self.rng.permille(500) {
                before = None;
            }
            let outcome = match self.open_attempt(&owner, &shape).await {
                Ok((engine, restored)) => {
                    if round > 1 {
                        self.world.sim.hit("attempt opened in place");
                    }
                    self.run(before.insert(engine), restored).await
                }
                Err(error) => Err(error),
            };
            let go_on = match &outcome {
                Ok(()) => self.rng.permille(300),
                Err(error) => can_go_on(error),
            };
            if round >= rounds || !go_on {
                return outcome;
            }
            if let Err(error) = outcome {
                self.failed("attempt", &error, &["stopped"]);
            }
            if self.rng.permille(300) {
                shape.parallelism = self.world.fixed.draw_parallelism(&mut self.rng);
                listening.change(&mut owner, |owner| owner.set_parallelism(STATE, shape.parallelism))?;
                self.world.sim.hit("rescaled in place");
            }
            self.pause(0, 500).await;
        }
        Ok(())
    }

    async fn open_attempt(&mut self, owner: &Owner, shape: &Shape) -> Result<(Engine, Option<Restored>)> {
        let workers = self.gather(owner).await?;
        let seating = self.seat(owner, &workers, shape.parallelism);
        let job = owner.open(&seating, vec![u8::from(shape.overlay)]).await?;
        let parties = self.restored(&job, 2 + shape.parallelism as usize).await?;
        Engine::begin(job, &self.world.judge, shape.clone(), parties)
    }

    /// Waits until some workers are connected.
    async fn gather(&mut self, owner: &Owner) -> Result<Vec<WorkerInfo>> {
        let wanted = self.rng.index(self.world.workers.len()) + 1;
        let patience = self.rng.within(10, STEPS_MAX / 2);
        for step in 0..STEPS_MAX {
            let workers = owner.watch_workers().borrow().clone();
            if workers.len() >= wanted || (step > patience && !workers.is_empty()) {
                return Ok(workers);
            }
            self.pause(STEP_MS, STEP_MS).await;
        }
        Err(Error::stopped("no worker came"))
    }

    /// Hands out the seats: evenly, or at random.
    fn seat(&mut self, owner: &Owner, workers: &[WorkerInfo], parallelism: u32) -> Seating {
        if self.rng.permille(600) {
            return owner.seat_evenly(workers);
        }
        let mut seating = Seating::new();
        for (operator, parallelism) in [(SOURCE, 1), (STATE, parallelism), (SINK, 1)] {
            let operator: OperatorId = operator;
            for index in 0..parallelism {
                let worker = &workers[self.rng.index(workers.len())];
                seating.give(operator, Subtask(index), worker.session);
            }
        }
        seating
    }

    /// Waits until all seats are restored.
    async fn restored(&mut self, job: &Job, seats: usize) -> Result<Vec<Party>> {
        let mut parties: Vec<Party> = Vec::new();
        loop {
            if let Some(error) = job.progress().failed {
                return Err(error);
            }
            for party in self.world.network.take_staged(job.attempt().0) {
                parties.push(party?);
            }
            if parties.iter().map(|party| party.seated.len()).sum::<usize>() == seats {
                if self.rng.permille(500) {
                    parties.iter_mut().for_each(|party| party.assignment = None);
                }
                return Ok(parties);
            }
            self.give_up_silent();
            self.pause(STEP_MS, STEP_MS).await;
        }
    }

    /// Breaks the links to workers that have been silent for long.
    pub(crate) fn give_up_silent(&mut self) {
        let patience_ms = self.rng.within(200, 3_000);
        self.world.network.give_up_silent(self.node, patience_ms);
    }
}
