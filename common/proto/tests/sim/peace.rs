//! The second act of a run: the network is at peace, and all streams must come to their end.

use super::World;
use super::app::Pace;
use super::net::Side;
use tun_proto::wire::stream::ResetCode;

/// Rounds in which all streams must come to their end once the network is at peace.
const PEACE_ROUNDS: usize = 20_000;

/// Attachments that a stream may need for that.
const PEACE_ATTACHMENTS: u32 = 40;

impl World {
    /// Heals the network and sees all streams to their end.
    pub(super) fn make_peace(&mut self) -> Result<(), String> {
        self.peace = true;
        let link = self.net.open_link(&mut self.choices);
        trace!(self, "peace, link {link} will stay");
        let before: Vec<u32> = self.pairs.iter().map(|[opener, _]| opener.attached).collect();
        for ends in &mut self.pairs {
            for side in 0..2 {
                // Who has stopped reading must get an abort all the same.
                let stays = ends[1 - side].app.abort.is_some() && self.choices.once_in(2);
                if !(stays && ends[side].app.pace == Pace::Stopped) {
                    ends[side].app.pace = Pace::Eager;
                }
            }
        }
        // Now and then, streams are left open until nothing happens any more.
        let mut lull = self.choices.once_in(2);
        for _ in 0..PEACE_ROUNDS {
            let worked = self.peaceful_round(lull)?;
            for (pair, before) in before.iter().enumerate() {
                if self.pairs[pair][0].attached > before + PEACE_ATTACHMENTS {
                    return Err(format!("stream {pair} is attached over and over"));
                }
            }
            if self.pairs.iter().flatten().all(|end| end.epitaph.is_some()) {
                return self.check_outcome();
            }
            if worked {
                continue;
            }
            if !self.wait()? {
                if !lull {
                    return Err(format!("nothing happens any more: {}", self.summary()));
                }
                lull = false;
                self.check_lull()?;
                trace!(self, "the lull is over");
            }
        }
        Err(format!("not at its end after {PEACE_ROUNDS} rounds: {}", self.summary()))
    }

    fn peaceful_round(&mut self, lull: bool) -> Result<bool, String> {
        let mut worked = false;
        for (pair, side) in (0..2 * self.pairs.len()).map(|i| (i / 2, i % 2)) {
            worked |= self.act_in_peace(pair, side, lull)?;
        }
        for (link, from) in self.net.busy() {
            worked = true;
            for _ in 0..self.choices.between(1, 6) {
                self.deliver(link, from)?;
            }
        }
        if self.choices.once_in(8)
            && let Some((link, side)) = self.choices.pick(&self.net.unaware())
        {
            worked = true;
            self.forsake(link, side)?;
        }
        Ok(worked)
    }

    fn act_in_peace(&mut self, pair: usize, side: Side, lull: bool) -> Result<bool, String> {
        let mut worked = self.tidy(pair, side)?;
        if side == 0 {
            worked |= self.attach_if_wanted(pair);
        }
        while self.read(pair, side)? {
            worked = true;
        }
        let end = &mut self.pairs[pair][side];
        if let Some(stream) = &mut end.stream {
            while end.app.write(stream, &mut self.choices) > 0 {
                worked = true;
            }
            if !lull && end.app.written == end.app.target && end.app.is_active() {
                worked = true;
                match self.choices.once_in(10) {
                    true => end.abort(ResetCode::Aborted, self.now)?,
                    false => end.app.finish(stream),
                }
            }
            self.check_memory(pair, side)?;
        }
        for at in 0..self.pairs[pair][side].muxes.len() {
            worked |= self.pairs[pair][side].transmit(&mut self.net, at, 16, self.now) > 0;
        }
        Ok(worked)
    }

    /// Nothing can be done now: what must happen next does. Returns false if there is no such thing.
    fn wait(&mut self) -> Result<bool, String> {
        if let Some((link, side)) = self.choices.pick(&self.net.unaware()) {
            self.forsake(link, side)?;
            return Ok(true);
        }
        let streams = self.pairs.iter().flatten().filter_map(|end| end.stream.as_ref());
        match streams.filter_map(|stream| stream.poll_timeout(true)).min() {
            Some(at) if at <= self.now => {
                Err(format!("a time-out is due and does nothing: {}", self.summary()))
            }
            Some(at) => {
                self.now = at;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn check_lull(&self) -> Result<(), String> {
        for (pair, ends) in self.pairs.iter().enumerate() {
            if ends.iter().any(|end| end.app.abort.is_some()) {
                continue;
            }
            for end in ends {
                end.check_lull().map_err(|fault| format!("{pair}: {fault}"))?;
            }
        }
        Ok(())
    }

    fn check_outcome(&self) -> Result<(), String> {
        for (pair, ends) in self.pairs.iter().enumerate() {
            for side in 0..2 {
                let outcome = ends[side].app.check_outcome(&ends[1 - side].app);
                outcome.map_err(|fault| format!("{pair}.{side}: {fault}"))?;
            }
        }
        match self.budgets.iter().map(|budget| budget.used()).sum() {
            0 => Ok(()),
            left => Err(format!("{left} bytes of the budgets are never given back")),
        }
    }
}
