//! A simulated network with streams across it, driven by a schedule of random events.
//!
//! A run has two acts. In the first everything happens that can: links are opened, go deaf, are given up by one
//! end long before the other; streams are attached, switched and hedged; applications write, read or stop
//! reading, finish and abort. In the second the network is at peace, every application reads on, and time passes
//! only as [`Stream::poll_timeout`] asks for it: all streams must come to their end.
//!
//! * [`choices`]: where decisions come from.
//! * [`net`]: links and multiplexed streams.
//! * [`end`]: the driver of one end of a stream.
//! * [`app`]: the application on it, which checks what it is given.
//! * [`peace`]: the second act.

/// Adds a line to the trace, if there is one.
macro_rules! trace {
    ($world:expr, $($what:tt)*) => {
        if $world.trace.is_some() {
            let what = format!($($what)*);
            $world.note(what);
        }
    };
}

pub(crate) mod app;
pub(crate) mod choices;
pub(crate) mod end;
pub(crate) mod net;
mod peace;

use app::{App, Pace, pause};
use choices::Choices;
use end::{End, MAX_ATTACHMENTS, format_frame, meta};
use net::{Arrival, LinkId, MuxId, Net, Side};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tun_proto::limits::WINDOW_FLOOR;
use tun_proto::session::budget::Budget;
use tun_proto::session::stream::Stream;
use tun_proto::wire::login::Id;
use tun_proto::wire::stream::{Attach, AttachMode, Frame, ResetCode};

/// The whole simulated world.
pub(crate) struct World {
    pub(crate) choices: Choices,
    /// What happened, if somebody wants to know.
    pub(crate) trace: Option<Vec<String>>,
    now: Instant,
    start: Instant,
    net: Net,
    /// Opener and acceptor of each stream.
    pairs: Vec<[End; 2]>,
    budgets: [Arc<Budget>; 2],
    caps: [u64; 2],
    /// A link that goes deaf in a direction after so many events.
    doomed: Option<(LinkId, Side, usize)>,
    /// Nothing is ever lost: streams only switch from one healthy link to another.
    calm: bool,
    /// The network is at peace.
    peace: bool,
}

impl World {
    pub(crate) fn new(mut choices: Choices, start: Instant) -> Self {
        let caps = [(); 2].map(|()| choices.pick(&[0, 40_000, 300_000, 64 << 20]).unwrap_or(0));
        let budgets = caps.map(Budget::new);
        let count = choices.pick(&[1, 1, 1, 2, 4]).unwrap_or(1);
        let pairs = (0..count)
            .map(|pair| {
                let opened = Stream::open(Id([pair as u8; 16]), meta(), budgets[0].clone());
                let opener = End::new(0, Some(opened), App::new(pair, 0, &mut choices));
                [opener, End::new(1, None, App::new(pair, 1, &mut choices))]
            })
            .collect();
        let net = Net::default();
        World {
            choices,
            trace: None,
            now: start,
            start,
            net,
            pairs,
            budgets,
            caps,
            doomed: None,
            calm: false,
            peace: false,
        }
    }

    /// Both acts.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        // Which events are frequent is itself a matter of chance.
        let mut weights = [0; EVENTS.len()];
        for (weight, &(_, usual)) in weights.iter_mut().zip(EVENTS) {
            *weight = usual * self.choices.pick(&[0, 1, 1, 1, 3]).unwrap_or(1);
        }
        weights[0] += 1;
        self.calm = self.choices.once_in(4);
        if self.calm {
            weights[CALM_EVENTS..].fill(0);
        }
        let steps = self.choices.pick(&[30, 100, 300, 1_000, 2_000]).unwrap_or(100);
        for _ in 0..steps {
            if self.choices.is_exhausted() {
                break;
            }
            let event = EVENTS[self.choices.weighted(&weights)].0;
            event(self)?;
            match self.doomed.take() {
                Some((link, from, 0)) => {
                    trace!(self, "link {link} loses all from {from}");
                    self.net.cut(link, from);
                }
                doomed => self.doomed = doomed.map(|(link, from, left)| (link, from, left - 1)),
            }
        }
        self.make_peace()
    }

    // --- the first act: events ---

    fn event_pass_time(&mut self) -> Result<(), String> {
        self.now += pause(&mut self.choices);
        Ok(())
    }

    fn event_deliver(&mut self) -> Result<(), String> {
        let Some((link, from)) = self.choices.pick(&self.net.busy()) else { return Ok(()) };
        for _ in 0..self.choices.between(1, 8) {
            self.deliver(link, from)?;
        }
        Ok(())
    }

    fn event_transmit(&mut self) -> Result<(), String> {
        let (pair, side) = self.any_end();
        let at = self.choices.below(self.pairs[pair][side].muxes.len());
        let count = self.choices.between(1, 8);
        self.pairs[pair][side].transmit(&mut self.net, at, count, self.now);
        self.attend(pair, side)
    }

    fn event_write(&mut self) -> Result<(), String> {
        let (pair, side) = self.any_end();
        let end = &mut self.pairs[pair][side];
        let Some(stream) = &mut end.stream else { return Ok(()) };
        for _ in 0..self.choices.between(1, 6) {
            end.app.write(stream, &mut self.choices);
        }
        let written = end.app.written;
        trace!(self, "{pair}.{side} has written {written}");
        self.check_memory(pair, side)
    }

    fn event_read(&mut self) -> Result<(), String> {
        let (pair, side) = self.any_end();
        for _ in 0..self.choices.between(1, 6) {
            if !self.read(pair, side)? {
                break;
            }
        }
        self.attend(pair, side)
    }

    fn event_change_pace(&mut self) -> Result<(), String> {
        let (pair, side) = self.any_end();
        let pace = self.choices.pick(&[Pace::Eager, Pace::Slow, Pace::Stopped]);
        self.pairs[pair][side].app.pace = pace.unwrap_or(Pace::Eager);
        Ok(())
    }

    fn event_finish(&mut self) -> Result<(), String> {
        let (pair, side) = self.any_end();
        let end = &mut self.pairs[pair][side];
        if let Some(stream) = &mut end.stream {
            end.app.finish(stream);
            trace!(self, "{pair}.{side} finishes");
        }
        self.attend(pair, side)
    }

    fn event_abort(&mut self) -> Result<(), String> {
        let (pair, side) = self.any_end();
        let codes = [ResetCode::Aborted, ResetCode::Unreachable, ResetCode::Refused, ResetCode::SessionOver];
        let code = self.choices.pick(&codes).unwrap_or(ResetCode::Aborted);
        trace!(self, "{pair}.{side} aborts");
        self.pairs[pair][side].abort(code, self.now).map_err(|fault| format!("{pair}.{side}: {fault}"))?;
        self.attend(pair, side)
    }

    fn event_attach(&mut self) -> Result<(), String> {
        let pair = self.choices.below(self.pairs.len());
        self.attach_if_wanted(pair);
        self.attend(pair, 0)
    }

    fn event_switch(&mut self) -> Result<(), String> {
        let pair = self.choices.below(self.pairs.len());
        let [opener, acceptor] = &self.pairs[pair];
        let attached = opener.stream.as_ref().is_some_and(|stream| stream.current().is_some());
        // An attachment that is overtaken by the next is refused, and beyond a few at once they are given up.
        let hasty = acceptor.attached < opener.attached
            || opener.muxes.len().max(acceptor.muxes.len()) >= MAX_ATTACHMENTS;
        if attached && !hasty || !self.calm {
            let before = opener.muxes.last().map(|&(_, mux)| self.net.muxes[mux].link);
            self.attach(pair, AttachMode::Switch);
            // The handshake of a switch is short, so that a link seldom dies in it by chance.
            if !self.calm
                && let Some(link) = before
                && self.choices.once_in(3)
            {
                self.doomed = Some((link, self.choices.below(2), self.choices.below(40)));
            }
        }
        self.attend(pair, 0)
    }

    fn event_hedge(&mut self) -> Result<(), String> {
        let pair = self.choices.below(self.pairs.len());
        self.attach(pair, AttachMode::Resend);
        self.attend(pair, 0)
    }

    fn event_open_link(&mut self) -> Result<(), String> {
        if self.net.usable(0).len() < 4 {
            let link = self.net.open_link(&mut self.choices);
            trace!(self, "link {link} is up");
        }
        Ok(())
    }

    fn event_cut(&mut self) -> Result<(), String> {
        let Some(link) = self.choices.pick(&self.net.usable(0)) else { return Ok(()) };
        let directions: &[Side] = self.choices.pick(&[&[0, 1][..], &[0], &[1]]).unwrap_or(&[]);
        for &from in directions {
            trace!(self, "link {link} loses all from {from}");
            self.net.cut(link, from);
        }
        Ok(())
    }

    fn event_notice(&mut self) -> Result<(), String> {
        let Some((link, side)) = self.choices.pick(&self.net.unaware()) else { return Ok(()) };
        self.forsake(link, side)
    }

    fn event_forsake(&mut self) -> Result<(), String> {
        let side = self.choices.below(2);
        let Some(link) = self.choices.pick(&self.net.usable(side)) else { return Ok(()) };
        self.forsake(link, side)
    }

    fn event_close_mux(&mut self) -> Result<(), String> {
        let (pair, side) = self.any_end();
        let Some((_, mux)) = self.choices.pick(&self.pairs[pair][side].muxes) else { return Ok(()) };
        trace!(self, "{pair}.{side} loses {}", self.name(mux));
        let abrupt = self.choices.once_in(2);
        self.net.close(mux, side, abrupt);
        self.lose(pair, side, mux);
        self.attend(pair, side)
    }

    // --- what both acts do ---

    fn any_end(&mut self) -> (usize, Side) {
        (self.choices.below(self.pairs.len()), self.choices.below(2))
    }

    fn attach_if_wanted(&mut self, pair: usize) -> bool {
        let wanted = self.pairs[pair][0].stream.as_ref().is_some_and(Stream::wants_attachment);
        wanted && self.attach(pair, AttachMode::Resend)
    }

    fn attach(&mut self, pair: usize, mode: AttachMode) -> bool {
        let Some(link) = self.choices.pick(&self.net.usable(0)) else { return false };
        let epoch = self.pairs[pair][0].attach(&mut self.net, link, mode, pair);
        trace!(self, "{pair}.0 attaches {epoch:?} to link {link}, {mode:?}");
        epoch.is_some()
    }

    fn read(&mut self, pair: usize, side: Side) -> Result<bool, String> {
        let [opener, acceptor] = &mut self.pairs[pair];
        let (end, peer) = if side == 0 { (opener, acceptor) } else { (acceptor, opener) };
        let Some(stream) = &mut end.stream else { return Ok(false) };
        let outcome = end.app.read(stream, &peer.app, &mut self.choices, self.now);
        let read = end.app.read;
        if outcome != Ok(false) {
            trace!(self, "{pair}.{side} has read {read}");
        }
        outcome.map_err(|fault| format!("{pair}.{side}: {fault}"))
    }

    fn lose(&mut self, pair: usize, side: Side, mux: MuxId) {
        // An end that has closed leaves all attachments at once.
        let expected = self.calm && !self.pairs[pair][1 - side].has_closed();
        self.pairs[pair][side].handle_lost(mux, expected);
    }

    fn forsake(&mut self, link: LinkId, side: Side) -> Result<(), String> {
        trace!(self, "side {side} gives link {link} up");
        for mux in self.net.forsake(link, side) {
            let pair = self.net.muxes[mux].pair;
            self.lose(pair, side, mux);
            self.attend(pair, side)?;
        }
        Ok(())
    }

    fn deliver(&mut self, link: LinkId, from: Side) -> Result<(), String> {
        let side = 1 - from;
        match self.net.deliver(link, from, &mut self.choices) {
            None => Ok(()),
            Some(Arrival::LinkEnd) => self.forsake(link, side),
            Some(Arrival::End(mux)) => {
                trace!(self, "the end of {} reaches side {side}", self.name(mux));
                self.net.close(mux, side, false);
                let pair = self.net.muxes[mux].pair;
                self.lose(pair, side, mux);
                self.attend(pair, side)
            }
            Some(Arrival::Bytes(mux, bytes)) => {
                self.net.muxes[mux].input[side].extend_from_slice(&bytes);
                self.decode(mux, side)
            }
        }
    }

    fn decode(&mut self, mux: MuxId, side: Side) -> Result<(), String> {
        let pair = self.net.muxes[mux].pair;
        while !self.net.muxes[mux].gone[side] {
            let Some(epoch) = self.net.muxes[mux].epoch[side] else {
                let attach = Attach::decode(&mut self.net.muxes[mux].input[side]);
                let Some(attach) = attach.map_err(|error| error.to_string())? else { break };
                trace!(self, "{pair}.{side} gets {attach:?}");
                let (net, budget) = (&mut self.net, self.budgets[1].clone());
                let accept = || Stream::accept(attach.stream, budget);
                self.pairs[pair][side].handle_attach(net, mux, &attach, accept, self.now)?;
                continue;
            };
            let frame =
                Frame::decode(&mut self.net.muxes[mux].input[side]).map_err(|error| error.to_string())?;
            let Some(frame) = frame else { break };
            trace!(self, "{pair}.{side} gets {} over {}", format_frame(&frame), self.name(mux));
            let outcome = self.pairs[pair][side].handle_frame(epoch, frame, self.now);
            outcome.map_err(|fault| format!("{pair}.{side}: {fault}"))?;
        }
        self.attend(pair, side)
    }

    /// What a driver does after every event, and the simulated one after most.
    fn attend(&mut self, pair: usize, side: Side) -> Result<(), String> {
        self.check_memory(pair, side)?;
        if self.peace || !self.choices.once_in(4) {
            let tidied = self.tidy(pair, side)?;
            if tidied && self.pairs[pair][side].epitaph.is_some() {
                trace!(self, "{pair}.{side} is closed");
            }
        }
        Ok(())
    }

    fn tidy(&mut self, pair: usize, side: Side) -> Result<bool, String> {
        let [opener, acceptor] = &mut self.pairs[pair];
        let (end, peer) = if side == 0 { (opener, acceptor) } else { (acceptor, opener) };
        let tidied = end.tidy(&mut self.net, peer, &mut self.choices, self.peace || self.calm);
        tidied.map_err(|fault| format!("{pair}.{side}: {fault}"))
    }

    fn check_memory(&self, pair: usize, side: Side) -> Result<(), String> {
        let ends = &self.pairs[pair];
        ends[side].check(&ends[1 - side].app, self.now).map_err(|fault| format!("{pair}.{side}: {fault}"))?;
        let (used, most) =
            (self.budgets[side].used(), self.caps[side] + WINDOW_FLOOR * self.pairs.len() as u64);
        if used > most {
            return Err(format!("{used} bytes of a budget of {most} are in use"));
        }
        Ok(())
    }

    fn note(&mut self, what: String) {
        let time = (self.now - self.start).as_secs_f64();
        self.trace.get_or_insert_default().push(format!("{time:9.4} {what}"));
    }

    fn name(&self, mux: MuxId) -> String {
        let Net { muxes, .. } = &self.net;
        format!("link {} (epoch {:?})", muxes[mux].link, muxes[mux].epoch[0])
    }

    fn summary(&self) -> String {
        let ends = self.pairs.iter().flatten().filter_map(|end| end.stream.as_ref());
        format!("{:?}", ends.collect::<Vec<_>>())
    }
}

type Event = fn(&mut World) -> Result<(), String>;

/// What may happen, and how often it usually does.
const EVENTS: &[(Event, usize)] = &[
    (World::event_deliver, 60),
    (World::event_transmit, 60),
    (World::event_write, 25),
    (World::event_read, 30),
    (World::event_pass_time, 12),
    (World::event_attach, 25),
    (World::event_open_link, 6),
    (World::event_switch, 6),
    (World::event_change_pace, 3),
    (World::event_finish, 2),
    (World::event_abort, 1),
    (World::event_hedge, 4),
    (World::event_cut, 2),
    (World::event_notice, 3),
    (World::event_forsake, 1),
    (World::event_close_mux, 2),
];

/// The first so many events are those of a calm network.
const CALM_EVENTS: usize = 11;

/// How a run went.
pub(crate) struct Outcome {
    /// What went wrong; [`None`] if nothing did.
    pub(crate) fault: Option<String>,
    pub(crate) trace: Vec<String>,
    /// The decisions of the run.
    pub(crate) tape: Vec<u32>,
    /// Virtual time that passed.
    pub(crate) lasted: Duration,
}

/// Runs a schedule; a panic counts as a fault.
pub(crate) fn run(choices: Choices, start: Instant, traced: bool) -> Outcome {
    let mut world = World::new(choices, start);
    world.trace = traced.then(Vec::new);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    let fault = match result {
        Ok(result) => result.err(),
        Err(panic) => Some(match panic.downcast_ref::<String>() {
            Some(message) => format!("panic: {message}"),
            None => format!("panic: {:?}", panic.downcast_ref::<&str>()),
        }),
    };
    let lasted = world.now - world.start;
    Outcome { fault, trace: world.trace.unwrap_or_default(), tape: world.choices.taken, lasted }
}
