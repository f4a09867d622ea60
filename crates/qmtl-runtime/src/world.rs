//! What a world allows: sides of the market that are active, for as long as somebody vouches for it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{Clock, Error, NodeId, Result, Timestamp};
use tokio::sync::watch;

/// A side of the market.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Buying.
    Long,
    /// Selling.
    Short,
}

impl Side {
    /// Both sides.
    pub const ALL: [Self; 2] = [Self::Long, Self::Short];

    /// The word of the gateway's protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Short => "short",
        }
    }

    /// The side that a signal wants: positive is long, negative short, anything else neither.
    #[must_use]
    pub fn of_signal(value: f64) -> Option<Self> {
        if value > 0.0 {
            Some(Self::Long)
        } else if value < 0.0 {
            Some(Self::Short)
        } else {
            None
        }
    }
}

/// How a world runs its strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// They are evaluated; no orders.
    Validate,
    /// They compute; no orders.
    ComputeOnly,
    /// Orders go to a simulation.
    Paper,
    /// Orders go to the market.
    Live,
    /// They run next to another strategy; no orders.
    Shadow,
}

impl Mode {
    /// True when orders may be made at all.
    #[must_use]
    pub fn has_orders(self) -> bool {
        matches!(self, Self::Paper | Self::Live)
    }
}

impl FromStr for Mode {
    type Err = Error;

    /// Reads the words of the gateway's protocol: `validate`, `compute-only`, `paper`, `live`, `shadow`.
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "validate" => Self::Validate,
            "compute-only" => Self::ComputeOnly,
            "paper" => Self::Paper,
            "live" => Self::Live,
            "shadow" => Self::Shadow,
            _ => {
                return Err(Error::invalid("no such mode of a world").with("mode", format_args!("{text:?}")));
            }
        })
    }
}

/// What a world says of one side.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SideState {
    /// Whether the side is active.
    pub active: bool,
    /// The share of its full size that an order should have, 0 to 1.
    pub weight: f64,
    /// Everything stands still.
    pub freeze: bool,
    /// What is open may end, nothing new begins.
    pub drain: bool,
}

impl SideState {
    /// An active side of full weight.
    pub const ACTIVE: Self = Self { active: true, weight: 1.0, freeze: false, drain: false };
}

/// A side that may act.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Allowed {
    /// The share of its size that an order should have, above 0 and at most 1.
    pub weight: f64,
    /// Where orders go: [`Mode::Paper`] or [`Mode::Live`].
    pub mode: Mode,
}

/// An order that a world allows, made of a node's result at a live bar.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Order {
    /// The node.
    pub node_id: NodeId,
    /// The bar.
    pub ts: Timestamp,
    /// The side: that of the value's sign.
    pub side: Side,
    /// What the node computed.
    pub value: f64,
    /// What the world allows.
    pub allowed: Allowed,
}

/// The sides that may trade now. None may until a world has said so, and never for longer than its answer is valid:
/// whoever keeps the activation up to date sets the end of validity, on the monotonic clock.
///
/// Clones share one state.
#[derive(Clone, Debug)]
pub struct Activation(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    mode: Option<Until<Mode>>,
    sides: [Option<Until<SideState>>; 2],
}

/// A value and when it stops holding.
#[derive(Clone, Copy)]
struct Until<T>(T, Duration);

impl<T: fmt::Debug> fmt::Debug for Until<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} until {:?}", self.0, self.1)
    }
}

impl<T: Copy> Until<T> {
    fn at(self, now: Duration) -> Option<T> {
        (now < self.1).then_some(self.0)
    }
}

impl Activation {
    /// Nothing may act yet.
    #[must_use]
    pub fn new(clock: impl Clock) -> Self {
        let clock = Arc::new(clock);
        Self(Arc::new(Shared { clock, state: watch::Sender::default() }))
    }

    /// Both sides may trade, with full weight and without an end, in this mode: for use without a gateway.
    #[must_use]
    pub fn always(mode: Mode, clock: impl Clock) -> Self {
        let activation = Self::new(clock);
        activation.set_mode(mode, Duration::MAX);
        activation.set_sides([SideState::ACTIVE; 2], Duration::MAX);
        activation
    }

    /// Notes the world's mode, which holds before `until`.
    pub fn set_mode(&self, mode: Mode, until: Duration) {
        self.0.state.send_modify(|known| known.mode = Some(Until(mode, until)));
    }

    /// Notes what the world says of a side, which holds before `until`.
    pub fn set_side(&self, side: Side, state: SideState, until: Duration) {
        self.0.state.send_modify(|known| known.sides[side as usize] = Some(Until(state, until)));
    }

    /// Notes what the world says of both sides, in the order of [`Side::ALL`]; whoever looks sees
    /// both or neither.
    pub fn set_sides(&self, states: [SideState; 2], until: Duration) {
        self.0.state.send_modify(|known| known.sides = states.map(|state| Some(Until(state, until))));
    }

    /// Forgets everything: nothing may act.
    pub fn clear(&self) {
        self.0.state.send_replace(State::default());
    }

    /// The world's mode, `None` when nobody vouches for one now.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        let now = self.0.clock.monotonic();
        self.0.state.borrow().mode.and_then(|mode| mode.at(now))
    }

    /// What a side may do now, `None` when it must not act: the mode has no orders, the side is
    /// not active or of no weight, one of both sides freezes or drains, or an answer is too old.
    #[must_use]
    pub fn allowed(&self, side: Side) -> Option<Allowed> {
        let mode = self.mode().filter(|mode| mode.has_orders())?;
        let now = self.0.clock.monotonic();
        let sides = self.0.state.borrow().sides;
        let halted = |state: &Until<SideState>| state.0.freeze || state.0.drain;
        if sides.iter().flatten().any(halted) {
            return None;
        }
        let state = sides[side as usize]?.at(now)?;
        // A weight that is no number is above nothing.
        let acts = state.active && state.weight > 0.0;
        acts.then(|| Allowed { weight: state.weight.min(1.0), mode })
    }

    /// Returns when a change has brought what is `wanted`, or at once if it already holds. An answer that merely
    /// expires does not wake the caller.
    pub async fn wait_until(&self, wanted: impl Fn(&Self) -> bool + Send) {
        let mut changes = self.0.state.subscribe();
        while !wanted(self) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use qmtl_history_testkit::fixtures::{ManualClock, start};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn active(mode: Mode) -> (ManualClock, Activation) {
        let clock = ManualClock::new(start());
        let activation = Activation::new(clock.clone());
        activation.set_mode(mode, 10 * SECOND);
        for side in Side::ALL {
            activation.set_side(side, SideState::ACTIVE, 5 * SECOND);
        }
        (clock, activation)
    }

    #[test]
    fn nothing_may_act_before_a_world_has_spoken() {
        let activation = Activation::new(ManualClock::new(start()));
        assert_eq!(Side::ALL.map(|side| activation.allowed(side)), [None, None]);
        activation.set_side(Side::Long, SideState::ACTIVE, 9 * SECOND);
        assert_eq!(activation.allowed(Side::Long), None, "a side without a decision");
        activation.set_mode(Mode::Live, 9 * SECOND);
        assert_eq!(activation.allowed(Side::Long), Some(Allowed { weight: 1.0, mode: Mode::Live }));
        assert_eq!(activation.allowed(Side::Short), None);
    }

    #[test]
    fn only_paper_and_live_have_orders() {
        let allowed = |mode| active(mode).1.allowed(Side::Short).is_some();
        let modes = [Mode::Validate, Mode::ComputeOnly, Mode::Paper, Mode::Live, Mode::Shadow];
        assert_eq!(modes.map(allowed), [false, false, true, true, false]);
    }

    #[test]
    fn an_answer_holds_to_its_end_whatever_the_wall_clock_does() {
        let (clock, activation) = active(Mode::Live);
        clock.advance(Duration::from_millis(4_999));
        clock.set(start().checked_add(Duration::from_secs(9_999)).unwrap());
        assert!(activation.allowed(Side::Long).is_some());
        clock.set(start());
        clock.advance(Duration::from_millis(1));
        assert_eq!(activation.allowed(Side::Long), None, "the side's answer is too old");
        activation.set_side(Side::Long, SideState::ACTIVE, 99 * SECOND);
        assert!(activation.allowed(Side::Long).is_some());
        clock.advance(5 * SECOND);
        assert_eq!((activation.mode(), activation.allowed(Side::Long)), (None, None));
    }

    #[test]
    fn freeze_and_drain_of_either_side_halt_both() {
        for halted in
            [SideState { freeze: true, ..SideState::ACTIVE }, SideState { drain: true, ..SideState::ACTIVE }]
        {
            let (_, activation) = active(Mode::Live);
            activation.set_side(Side::Short, halted, 5 * SECOND);
            assert_eq!(Side::ALL.map(|side| activation.allowed(side)), [None, None]);
        }
    }

    #[test]
    fn weights_are_shares() {
        let (_, activation) = active(Mode::Live);
        for (weight, expected) in
            [(0.25, Some(0.25)), (7.0, Some(1.0)), (0.0, None), (-1.0, None), (f64::NAN, None)]
        {
            activation.set_side(Side::Long, SideState { weight, ..SideState::ACTIVE }, 5 * SECOND);
            let allowed = activation.allowed(Side::Long).map(|allowed| allowed.weight);
            assert_eq!(allowed, expected, "{weight}");
        }
    }

    #[test]
    fn a_signal_has_the_side_of_its_sign() {
        let sides = [1.5, -0.1, 0.0, -0.0, f64::NAN].map(Side::of_signal);
        assert_eq!(sides, [Some(Side::Long), Some(Side::Short), None, None, None]);
    }
}
