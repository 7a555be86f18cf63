//! Many connections at once, each with bytes of its own in both directions, and ends in either order.

use std::io;
use std::ops::Range;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Peers;
use crate::net::Place;
use crate::patience::{transfer_patience, within};
use crate::pattern::{Hash, Pattern, digits_of};
use crate::service::Ended;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Bytes that are written or read at a time.
const CHUNK: usize = 64 * 1024;

/// One way of ending a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// The visitor ends its direction before it hears the end of the other.
    Visitor,
    /// The service does.
    Service,
}

/// One of many connections: what it carries, and how it ends.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    number: u64,
    up: u64,
    down: u64,
    first: First,
}

impl Exchange {
    /// The `number`-th, of some MiB in all, the more the higher the number.
    pub fn of(number: u64) -> Self {
        let (up, down) = (MIB / 2 + number * 10 * KIB, MIB + number * 5 * KIB + number);
        let first = if number.is_multiple_of(2) { First::Visitor } else { First::Service };
        Self { number, up, down, first }
    }

    fn seed(self, is_up: bool) -> u64 {
        2 * self.number + u64::from(is_up)
    }

    /// What the service is told at the beginning of a connection.
    fn header(self) -> [u8; 8] {
        self.number.to_be_bytes()
    }

    /// The service's end; reports the number and the hash of what came.
    pub async fn serve(mut stream: TcpStream) -> io::Result<String> {
        let exchange = Self::of(stream.read_u64().await?);
        let (mut reader, mut writer) = stream.split();
        let ends_first = exchange.first == First::Service;
        let (digits, len) =
            talk(&mut reader, &mut writer, exchange.seed(false), exchange.down, ends_first).await?;
        Ok(report(exchange.number, len, &digits))
    }

    /// The visitor's end, with all checks of what comes back.
    pub async fn visit(self, at: Place) {
        let mut stream = at.connect().await.unwrap_or_else(|e| panic!("nobody accepts at {at}: {e}"));
        stream.write_all(&self.header()).await.expect("a fresh connection takes bytes");
        let (mut reader, mut writer) = stream.split();
        let ends_first = self.first == First::Visitor;
        let talking = talk(&mut reader, &mut writer, self.seed(true), self.up, ends_first);
        let (digits, len) = within(transfer_patience(), "the end of an exchange", talking)
            .await
            .unwrap_or_else(|e| panic!("{self:?} broke: {e}"));
        assert_eq!((len, digits), (self.down, digits_of(self.seed(false), self.down)), "{self:?}");
    }

    /// What the service must report of it.
    pub fn reported(self) -> Ended {
        Ended::Properly(report(self.number, self.up, &digits_of(self.seed(true), self.up)))
    }
}

fn report(number: u64, len: u64, digits: &str) -> String {
    format!("{number}: {len} bytes, {digits}")
}

/// Sends a pattern and reads to the end at the same time; ends its own direction either at once, or after the other's end.
async fn talk(
    reader: &mut (impl AsyncReadExt + Unpin),
    writer: &mut (impl AsyncWriteExt + Unpin),
    seed: u64,
    len: u64,
    ends_first: bool,
) -> io::Result<(String, u64)> {
    let (ended, mut end) = watch::channel(false);
    let sending = async {
        let mut pattern = Pattern::new(seed);
        let mut buffer = vec![0; CHUNK];
        let mut left = len;
        while left > 0 {
            let n = left.min(CHUNK as u64) as usize;
            pattern.fill(&mut buffer[..n]);
            writer.write_all(&buffer[..n]).await?;
            left -= n as u64;
        }
        if !ends_first {
            end.wait_for(|ended| *ended).await.map_err(io::Error::other)?;
        }
        writer.shutdown().await
    };
    let receiving = async {
        let (mut hash, mut len) = (Hash::default(), 0);
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).await? {
                0 => {
                    ended.send_replace(true);
                    return io::Result::Ok((hash.digits(), len));
                }
                n => {
                    hash.feed(&buffer[..n]);
                    len += n as u64;
                }
            }
        }
    };
    tokio::try_join!(sending, receiving).map(|((), received)| received)
}

/// Runs many exchanges at once and checks both ends of each.
pub async fn exchange_all(peers: &Peers, numbers: Range<u64>) {
    let (before, count) = (numbers.start as usize, numbers.clone().count());
    let visits: Vec<_> =
        numbers.clone().map(|n| tokio::spawn(Exchange::of(n).visit(peers.entrance()))).collect();
    for visit in visits {
        visit.await.expect("an exchange goes well");
    }
    peers.service.nth_ended(before + count).await;
    for number in numbers {
        let reported = Exchange::of(number).reported();
        assert!(peers.service.ended().contains(&reported), "the service reports no {reported:?}");
    }
    assert_eq!(peers.service.accepted(), before + count, "a connection was made anew");
}
