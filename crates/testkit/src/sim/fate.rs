//! What becomes of a call to the simulated store: when, how often and whether at all it takes effect and, apart from that,
//! what its caller is told, if anything.

use super::Rng;

/// Kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Put,
    Get,
    Delete,
    List,
}

/// A call, as faults see it.
#[derive(Debug)]
pub struct Call<'a> {
    /// Number of the call over all nodes, from 0.
    pub number: u64,
    pub operation: Operation,
    pub key: &'a str,
}

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What happened when it first took effect.
    Truth,
    ServerError,
    Throttled,
    Conflict,
    Denied,
    /// The truth, with the last byte of its body missing.
    Cut,
    /// The truth, until the connection breaks in the middle of its body.
    Reset,
    /// The whole object, whatever range was asked for.
    Whole,
    /// As many bytes as were asked for, from elsewhere in the object.
    Misdirected,
    /// What was there some time ago.
    Stale,
}

/// What becomes of a call.
#[derive(Debug, Clone)]
pub struct Fate {
    /// When it takes effect, after the call; several times if it is delivered twice.
    pub effects_ms: Vec<u64>,
    /// What the caller is told, and when, after the call or, if it is the truth, after the effect.
    pub answer: Option<(u64, Answer)>,
}

impl Fate {
    pub fn ok(latency_ms: u64) -> Self {
        Self { effects_ms: vec![latency_ms / 2], answer: Some((latency_ms - latency_ms / 2, Answer::Truth)) }
    }

    /// It takes no effect, and the caller is told so, more or less.
    pub fn not_applied(latency_ms: u64, answer: Answer) -> Self {
        Self { effects_ms: Vec::new(), answer: Some((latency_ms, answer)) }
    }

    /// It takes effect, and the caller is told otherwise.
    pub fn applied_but(latency_ms: u64, answer: Answer) -> Self {
        Self { effects_ms: vec![latency_ms / 2], answer: Some((latency_ms, answer)) }
    }

    /// The caller is told nothing, whether it takes effect at once, later or never.
    pub fn silent(effect_ms: Option<u64>) -> Self {
        Self { effects_ms: effect_ms.into_iter().collect(), answer: None }
    }
}

/// What can go wrong with a call.
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
    /// All, and how many calls out of 1000 each befalls at most. The last three no honest store does.
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

/// How often what goes wrong, in calls out of 1000.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    pub latency_max_ms: u64,
    /// How late a late effect may come.
    pub late_max_ms: u64,
    /// How often each fault befalls a call that it can befall.
    pub rates: Vec<(Fault, u64)>,
    /// How many of the newest objects a listing may miss.
    pub list_misses_max: u64,
    /// For how long a listing may show what was deleted.
    pub list_ghosts_max_ms: u64,
    pub list_breaks: u64,
}

impl Profile {
    /// A store without faults.
    pub fn healthy() -> Self {
        Self { latency_max_ms: 20, ..Self::default() }
    }

    /// Draws a profile; each kind of fault is off in half of all.
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

/// What goes wrong.
pub enum Faults {
    /// As the profile has it, at random.
    Drawn(Profile),
    /// As the script says; what it says nothing of goes well.
    Scripted(Script),
}

impl Faults {
    pub fn none() -> Self {
        Self::Drawn(Profile::healthy())
    }

    /// Calls `first..first + count` have the fate that `fate` makes; all others go well.
    pub fn nth(first: u64, count: u64, fate: impl Fn() -> Fate + Send + 'static) -> Self {
        Self::Scripted(Box::new(move |call| (first..first.saturating_add(count)).contains(&call.number).then(&fate)))
    }
}
