//! The fate of a call to the simulated store: when, how often and whether it takes effect and, independently, the
//! answer to its caller, if any.

use super::Rng;

/// Kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Put,
    Get,
    Delete,
    List,
}

/// A call, as seen by fault injection.
#[derive(Debug)]
pub struct Call<'a> {
    /// Index of the call over all nodes, from 0.
    pub number: u64,
    pub operation: Operation,
    pub key: &'a str,
}

/// The answer to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The outcome of the first effect.
    Truth,
    ServerError,
    Throttled,
    Conflict,
    Denied,
    /// The true answer, with the last byte of its body missing.
    Cut,
    /// The true answer, with the connection reset in the middle of its body.
    Reset,
    /// The whole object instead of the requested range.
    Whole,
    /// The right number of bytes, from another range of the object.
    Misdirected,
    /// An earlier state.
    Stale,
}

/// The fate of a call.
#[derive(Debug, Clone)]
pub struct Fate {
    /// Delays from the call to each effect; several if the call is delivered twice.
    pub effects_ms: Vec<u64>,
    /// The answer and its delay, from the call or, for the truth, from the effect.
    pub answer: Option<(u64, Answer)>,
}

impl Fate {
    pub fn ok(latency_ms: u64) -> Self {
        Self { effects_ms: vec![latency_ms / 2], answer: Some((latency_ms - latency_ms / 2, Answer::Truth)) }
    }

    /// No effect, with a matching answer.
    pub fn not_applied(latency_ms: u64, answer: Answer) -> Self {
        Self { effects_ms: Vec::new(), answer: Some((latency_ms, answer)) }
    }

    /// An effect, with an answer that denies it.
    pub fn applied_but(latency_ms: u64, answer: Answer) -> Self {
        Self { effects_ms: vec![latency_ms / 2], answer: Some((latency_ms, answer)) }
    }

    /// No answer, with an immediate, late or missing effect.
    pub fn silent(effect_ms: Option<u64>) -> Self {
        Self { effects_ms: effect_ms.into_iter().collect(), answer: None }
    }
}

/// Faults of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    FailsBefore,
    Throttled,
    Denied,
    AppliedButFailed,
    AppliedButSilent,
    Silent,
    LandsLate,
    DeliveredTwice,
    Conflict,
    AppliedThenConflict,
    Cut,
    Reset,
    Whole,
    Misdirected,
    Stale,
}

impl Fault {
    /// All faults, with the maximum rate of each in calls out of 1000. No honest store shows the last three.
    const ALL: [(Self, u64); 15] = [
        (Self::FailsBefore, 150),
        (Self::Throttled, 100),
        (Self::Denied, 10),
        (Self::AppliedButFailed, 150),
        (Self::AppliedButSilent, 100),
        (Self::Silent, 50),
        (Self::LandsLate, 100),
        (Self::DeliveredTwice, 100),
        (Self::Conflict, 100),
        (Self::AppliedThenConflict, 100),
        (Self::Cut, 60),
        (Self::Reset, 60),
        (Self::Whole, 60),
        (Self::Misdirected, 0),
        (Self::Stale, 0),
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::FailsBefore => "fails before",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::AppliedButFailed => "applied but failed",
            Self::AppliedButSilent => "applied but silent",
            Self::Silent => "silent",
            Self::LandsLate => "lands late",
            Self::DeliveredTwice => "delivered twice",
            Self::Conflict => "conflict",
            Self::AppliedThenConflict => "applied then conflict",
            Self::Cut => "body too short",
            Self::Reset => "connection reset in the body",
            Self::Whole => "whole object for a range",
            Self::Misdirected => "bytes of another place",
            Self::Stale => "stale read",
        }
    }

    fn befalls(self, operation: Operation) -> bool {
        match self {
            Self::LandsLate | Self::DeliveredTwice => matches!(operation, Operation::Put | Operation::Delete),
            Self::Conflict | Self::AppliedThenConflict => operation == Operation::Put,
            Self::Cut | Self::Reset | Self::Whole | Self::Misdirected | Self::Stale => operation == Operation::Get,
            _ => true,
        }
    }

    fn fate(self, latency: u64, late_max: u64, rng: &mut Rng) -> Fate {
        let told = |answer| Fate { effects_ms: vec![latency], answer: Some((1, answer)) };
        match self {
            Self::FailsBefore => Fate::not_applied(latency, Answer::ServerError),
            Self::Throttled => Fate::not_applied(latency, Answer::Throttled),
            Self::Denied => Fate::not_applied(latency, Answer::Denied),
            Self::AppliedButFailed => Fate::applied_but(latency, Answer::ServerError),
            Self::AppliedButSilent => Fate::silent(Some(latency)),
            Self::Silent => Fate::silent(None),
            Self::LandsLate => {
                let answer = rng.permille(500).then_some((latency, Answer::ServerError));
                Fate { effects_ms: vec![rng.within(0, late_max)], answer }
            }
            Self::DeliveredTwice => {
                Fate { effects_ms: vec![latency, rng.within(0, late_max)], answer: Some((1, Answer::Truth)) }
            }
            Self::Conflict => Fate::not_applied(latency, Answer::Conflict),
            Self::AppliedThenConflict => Fate::applied_but(latency, Answer::Conflict),
            Self::Cut => told(Answer::Cut),
            Self::Reset => told(Answer::Reset),
            Self::Whole => told(Answer::Whole),
            Self::Misdirected => told(Answer::Misdirected),
            Self::Stale => told(Answer::Stale),
        }
    }
}

/// Fault rates, in calls out of 1000.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    pub latency_max_ms: u64,
    /// Maximum delay of a late effect.
    pub late_max_ms: u64,
    /// The rate of each fault among the calls it applies to.
    pub rates: Vec<(Fault, u64)>,
    /// Maximum number of newest objects missing from a listing.
    pub list_misses_max: u64,
    /// How long a listing may still show a deleted object.
    pub list_ghosts_max_ms: u64,
    pub list_breaks: u64,
}

impl Profile {
    /// A store without faults.
    pub fn healthy() -> Self {
        Self { latency_max_ms: 20, ..Self::default() }
    }

    /// Draws a profile; each fault is off in half of all profiles.
    pub fn draw(rng: &mut Rng) -> Self {
        let worst = [20, 60, 120, 250][rng.index(4)];
        let mut rate = |most: u64| if rng.permille(500) { 0 } else { rng.within(0, most.min(worst)) };
        let rates = Fault::ALL.into_iter().map(|(fault, most)| (fault, rate(most))).collect();
        let list_breaks = rate(100);
        Self {
            latency_max_ms: [5, 50, 500][rng.index(3)],
            late_max_ms: [1_000, 20_000, 300_000][rng.index(3)],
            rates,
            list_misses_max: [0, 0, 1, 3][rng.index(4)],
            list_ghosts_max_ms: [0, 0, 2_000, 100_000][rng.index(4)],
            list_breaks,
        }
    }

    pub fn fate(&self, operation: Operation, rng: &mut Rng) -> (&'static str, Fate) {
        let latency = rng.within(1, self.latency_max_ms.max(1));
        let mut drawn = rng.within(0, 999);
        for (fault, rate) in self.rates.iter().filter(|(fault, _)| fault.befalls(operation)) {
            if drawn < *rate {
                return (fault.name(), fault.fate(latency, self.late_max_ms, rng));
            }
            drawn -= rate;
        }
        ("ok", Fate::ok(latency))
    }
}

pub(crate) type Script = Box<dyn FnMut(&Call<'_>) -> Option<Fate> + Send>;

/// The source of faults.
pub enum Faults {
    /// At random, by profile.
    Drawn(Profile),
    /// By script; calls not in the script succeed.
    Scripted(Script),
}

impl Faults {
    pub fn none() -> Self {
        Self::Drawn(Profile::healthy())
    }

    /// Calls `first..first + count` have the fate made by `fate`; all others succeed.
    pub fn nth(first: u64, count: u64, fate: impl Fn() -> Fate + Send + 'static) -> Self {
        Self::Scripted(Box::new(move |call| (first..first.saturating_add(count)).contains(&call.number).then(&fate)))
    }
}
