//! What tun must reach, as ratios of figures of one run.

use crate::contender::Contender;
use crate::contender::Contender::{
    Bore, Direct, Frp, Nginx, Quinn, Rathole, RatholeNoise, Tun, TunPlain, TunQuic,
};
use crate::figures::Figures;
use crate::load::Direction;
use crate::measure::{
    ALONE, BESIDE, CLIENT, FIRST_BYTE_MEDIAN, FIRST_BYTE_TAIL, KEEP_ALIVE, NEW_CONNECTION, ONE_OF_MANY, RATE,
    SERVER, WAN_GOAL, cost, rate, request_rate, wan_cell,
};

/// One goal: a figure of ours against a bound.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) ours: Contender,
    pub(crate) figure: String,
    pub(crate) bound: Bound,
    pub(crate) factor: f64,
    pub(crate) side: Side,
}

/// What a figure is compared with; the factor multiplies it.
#[derive(Debug)]
pub(crate) enum Bound {
    /// The same figure of another.
    Of(Contender),
    /// Another figure of the same.
    Own(&'static str),
    /// A number.
    Number,
}

/// On which side of the bound it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    AtMost,
    AtLeast,
    Below,
    Above,
}

/// How a goal stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// Our figure.
    pub(crate) ours: f64,
    /// What it is compared with, without the factor.
    pub(crate) theirs: f64,
    pub(crate) is_met: bool,
}

impl Standing {
    /// Ours as so many times what it is compared with.
    pub(crate) fn ratio(self) -> f64 {
        self.ours / self.theirs
    }
}

impl Goal {
    fn new(ours: Contender, figure: impl Into<String>, side: Side, factor: f64, bound: Bound) -> Self {
        Self { ours, figure: figure.into(), bound, factor, side }
    }

    /// How it stands; `None` if something was not measured.
    pub(crate) fn standing(&self, figures: &Figures) -> Option<Standing> {
        let ours = figures.median(&self.figure, self.ours)?;
        let theirs = match self.bound {
            Bound::Of(other) => figures.median(&self.figure, other)?,
            Bound::Own(figure) => figures.median(figure, self.ours)?,
            Bound::Number => 1.0,
        };
        let bound = theirs * self.factor;
        let is_met = match self.side {
            Side::AtMost => ours <= bound,
            Side::AtLeast => ours >= bound,
            Side::Below => ours < bound,
            Side::Above => ours > bound,
        };
        Some(Standing { ours, theirs, is_met })
    }

    /// The goal in words.
    pub(crate) fn words(&self) -> String {
        let side = match self.side {
            Side::AtMost => "at most",
            Side::AtLeast => "at least",
            Side::Below => "below",
            Side::Above => "above",
        };
        let Self { factor, .. } = self;
        let bound = match self.bound {
            Bound::Of(other) if *factor == 1.0 => other.name().to_owned(),
            Bound::Of(other) => format!("{factor} × {}", other.name()),
            Bound::Own(figure) => format!("{factor} × {figure}"),
            Bound::Number => factor.to_string(),
        };
        format!("{side} {bound}")
    }
}

/// All goals.
pub(crate) fn all() -> Vec<Goal> {
    use Bound::{Number, Of, Own};
    use Side::{Above, AtLeast, AtMost, Below};
    let mut goals = Vec::new();
    let ways =
        || [1, 8].into_iter().flat_map(|streams| Direction::BOTH.map(|direction| (direction, streams)));
    for (direction, streams) in ways() {
        let mut goal = |side, factor, other| {
            goals.push(Goal::new(Tun, cost(direction, streams), side, factor, Of(other)));
        };
        goal(AtMost, 1.5, Nginx);
        goal(AtMost, 0.6, Frp);
        goal(Below, 1.0, RatholeNoise);
    }
    for (direction, streams) in ways() {
        let mut goal = |ours, side, factor, other| {
            goals.push(Goal::new(ours, rate(direction, streams), side, factor, Of(other)));
        };
        goal(Tun, AtLeast, 0.8, Nginx);
        goal(Tun, Above, 1.0, Frp);
        goal(Tun, Above, 1.0, RatholeNoise);
        goal(Tun, Above, 1.0, Bore);
        goal(TunPlain, AtLeast, 1.0, Rathole);
    }
    let mut goal = |ours, figure: &str, side, factor, bound| {
        goals.push(Goal::new(ours, figure, side, factor, bound));
    };
    goal(Tun, &request_rate(NEW_CONNECTION), AtLeast, 1.0, Of(Nginx));
    goal(Tun, &request_rate(NEW_CONNECTION), AtLeast, 2.0, Of(Frp));
    goal(Tun, FIRST_BYTE_MEDIAN, AtMost, 1.0, Of(Nginx));
    goal(Tun, FIRST_BYTE_TAIL, AtMost, 1.0, Of(Nginx));
    goal(Tun, &request_rate(KEEP_ALIVE), AtLeast, 0.9, Of(Nginx));
    for side in [SERVER, CLIENT] {
        goal(Tun, side, AtMost, 8.0, Number);
        for other in [Frp, Bore, Rathole] {
            goal(Tun, side, Below, 1.0, Of(other));
        }
    }
    goal(Tun, ONE_OF_MANY, AtMost, 40.0, Number);
    goal(Tun, BESIDE, AtMost, 3.0, Own(ALONE));
    goal(Tun, RATE, AtLeast, 3.0, Of(Frp));
    goal(TunQuic, RATE, AtLeast, 3.0, Of(Frp));
    let line = wan_cell(WAN_GOAL);
    goal(Tun, &line, AtLeast, 0.9, Of(Direct));
    goal(TunQuic, &line, AtLeast, 0.9, Of(Quinn));
    goals
}
