//! Guessing ports: towards a NAT that counts them, and by trying many against a NAT that draws them.
//!
//! With 256 ports open on one side and 1024 tried by the other, out of 64512, a hit has a probability of 98 %
//! (a birthday problem); on average it takes 250 tries.

use super::SocketId;
use super::draw::Draw;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Sockets that the side behind the hard NAT opens.
pub const SOCKETS: u16 = 256;

/// Ports that the other side tries.
pub const PORTS: usize = 1024;

/// How often all that is done in one attempt: a second time leaves three misses in ten thousand.
pub const MAX_SPRAYS: u32 = 2;

/// Between two of them: 142 a second, less than what an ordinary line or a router's flood protection minds.
const PACE: Duration = Duration::from_millis(7);

/// How long trying all ports takes, at most.
pub(super) const DURATION: Duration = Duration::from_millis(7 * PORTS as u64);

/// Openers that leave at once, and the time between such groups.
const GROUP: usize = 8;
const GROUP_PACE: Duration = Duration::from_millis(4);

/// TTL of the openers; see [`Volley::openers`].
const OPENER_TTL: u32 = 4;

/// When half of the openers are repeated with [`LONG_TTL`]: once the peer has tried most of the ports.
const REPEAT: Duration = Duration::from_secs(5);
const LONG_TTL: u32 = 7;

/// When predicted ports are probed, after the start; the first time with a low TTL, which opens the own filter for what
/// comes from there.
const PREDICTION_SCHEDULE: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(1000)];

const PREDICTION_PACE: Duration = Duration::from_millis(2);

/// A probe that is due.
pub(super) struct Shot {
    pub(super) socket: SocketId,
    pub(super) to: SocketAddr,
    pub(super) ttl: Option<u32>,
}

/// A list of probes, each with its time.
#[derive(Debug, Default)]
pub(super) struct Volley {
    shots: VecDeque<(Instant, SocketId, SocketAddr, Option<u32>)>,
}

impl Volley {
    /// Openers from many sockets to the one address of the peer; and when the first of each has left.
    ///
    /// A low TTL does not get through a large site to its NAT; a higher one may reach the peer's router, and there upset
    /// tables that count unsolicited packets, for every port that it arrives from. So the higher one comes late, and
    /// from half of the sockets.
    pub(super) fn openers(sockets: &[SocketId], to: SocketAddr, now: Instant) -> (Self, Instant) {
        let mut shots = VecDeque::with_capacity(2 * sockets.len());
        let half = &sockets[..sockets.len() / 2];
        for (from, sockets, ttl) in [(now, sockets, OPENER_TTL), (now + REPEAT, half, LONG_TTL)] {
            for (group, sockets) in (0u32..).zip(sockets.chunks(GROUP)) {
                shots
                    .extend(sockets.iter().map(|socket| (from + GROUP_PACE * group, *socket, to, Some(ttl))));
            }
        }
        let groups = sockets.len().div_ceil(GROUP) as u32;
        (Volley { shots }, now + GROUP_PACE * groups)
    }

    /// Distinct random ports of `ip`, from one socket.
    pub(super) fn spray(socket: SocketId, ip: IpAddr, draw: &mut Draw, now: Instant) -> Self {
        let mut ports: Vec<u16> = (1024..=u16::MAX).collect();
        let mut shots = VecDeque::with_capacity(PORTS);
        for count in 0..PORTS {
            // Fisher and Yates's shuffle, as far as it is needed.
            let other = count + draw.below(ports.len() - count);
            ports.swap(count, other);
            shots.push_back((now + PACE * count as u32, socket, SocketAddr::new(ip, ports[count]), None));
        }
        Volley { shots }
    }

    /// Probes of `guesses`, several times.
    pub(super) fn predictions(socket: SocketId, guesses: &[SocketAddr], ttl: u32, now: Instant) -> Self {
        let mut shots = VecDeque::with_capacity(guesses.len() * PREDICTION_SCHEDULE.len());
        for (wave, after) in PREDICTION_SCHEDULE.into_iter().enumerate() {
            let ttl = (wave == 0).then_some(ttl);
            for (place, guess) in (0u32..).zip(guesses) {
                shots.push_back((now + after + PREDICTION_PACE * place, socket, *guess, ttl));
            }
        }
        Volley { shots }
    }

    /// The next probe that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Shot> {
        let (at, ..) = self.shots.front()?;
        if *at > now {
            return None;
        }
        self.shots.pop_front().map(|(_, socket, to, ttl)| Shot { socket, to, ttl })
    }

    /// When the next probe is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.shots.front().map(|(at, ..)| *at)
    }

    /// Forgets what was not sent.
    pub(super) fn stop(&mut self) {
        self.shots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_port_is_tried_twice_and_the_pace_is_kept() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let mut volley = Volley::spray(1, [203, 0, 113, 7].into(), &mut Draw::new(&[3; 32]), now);
        assert!(volley.shots.iter().zip(volley.shots.iter().skip(1)).all(|(a, b)| b.0 - a.0 == PACE));
        let mut ports = HashSet::new();
        while let Some(shot) = volley.due(now + DURATION) {
            assert!(shot.to.port() >= 1024 && ports.insert(shot.to.port()));
        }
        assert_eq!(ports.len(), PORTS);
    }

    #[test]
    fn every_socket_opens_at_once_and_half_of_them_again_later() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let sockets: Vec<SocketId> = (0..u32::from(SOCKETS)).collect();
        let to = SocketAddr::from(([203, 0, 113, 7], 4000));
        let (mut volley, opened) = Volley::openers(&sockets, to, now);
        let mut first = HashSet::new();
        while let Some(shot) = volley.due(opened) {
            assert_eq!(shot.ttl, Some(4));
            first.insert(shot.socket);
        }
        assert_eq!(first.len(), sockets.len());
        let mut second = 0;
        while let Some(shot) = volley.due(now + DURATION) {
            assert_eq!(shot.ttl, Some(7));
            second += 1;
        }
        assert_eq!(second, sockets.len() / 2);
    }
}
