//! Drives the heartbeat of a link over the link's own channel.

use super::{Link, LinkStream};
use bytes::{Buf, BytesMut};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tun_proto::session::heartbeat::{Action, Heartbeat};
use tun_proto::wire::beat::{self, Beat};

/// What the owner of the link should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link has been silent for a while: prepare another.
    Suspect,
    /// The peer takes the link out of use.
    Retire,
}

/// The side that asks: opens the link's channel and keeps it until the link is gone, which this may bring about.
///
/// `retire` asks it to tell the peer that the link is taken out of use; a change of `doubts`, to see at once whether the
/// link still answers. `events` must be received from; a full queue loses events that are repeated later or implied by
/// the link's end.
pub async fn ask(
    link: Link,
    interval: Duration,
    timeout: Duration,
    retire: Arc<Notify>,
    mut doubts: watch::Receiver<u64>,
    events: mpsc::Sender<(u32, LinkEvent)>,
) {
    doubts.mark_unchanged();
    let opened = async {
        let mut stream = link.open().await?;
        stream.write_all(&[beat::OPEN]).await?;
        Ok::<_, io::Error>(stream)
    };
    let Ok(stream) = opened.await else { return };
    let heart = Heartbeat::asking(interval, timeout, Instant::now());
    Driver { link, stream, heart, input: BytesMut::new(), number: 0, asked: None, events }
        .run(Some(Prompts { retire, doubts }))
        .await;
}

/// The side that answers, on a channel that the peer opened; `read_ahead` is what followed its first byte.
pub async fn answer(
    link: Link,
    stream: LinkStream,
    read_ahead: BytesMut,
    promised: Duration,
    timeout: Duration,
    events: mpsc::Sender<(u32, LinkEvent)>,
) {
    let heart = Heartbeat::listening(promised, timeout, Instant::now());
    Driver { link, stream, heart, input: read_ahead, number: 0, asked: None, events }.run(None).await;
}

/// What else moves the side that asks.
struct Prompts {
    retire: Arc<Notify>,
    doubts: watch::Receiver<u64>,
}

struct Driver {
    link: Link,
    stream: LinkStream,
    heart: Heartbeat,
    input: BytesMut,
    number: u32,
    /// The last ping, and when it was sent.
    asked: Option<(u32, Instant)>,
    events: mpsc::Sender<(u32, LinkEvent)>,
}

enum Event {
    Timer,
    Chunk(io::Result<Option<bytes::Bytes>>),
    Retire,
    Doubt,
    Gone,
}

impl Driver {
    async fn run(mut self, mut prompts: Option<Prompts>) {
        loop {
            let wake = tokio::time::Instant::from_std(self.heart.poll_timeout());
            let event = tokio::select! {
                () = self.link.gone() => Event::Gone,
                chunk = self.stream.read_chunk() => Event::Chunk(chunk),
                event = prompted(&mut prompts) => event,
                () = tokio::time::sleep_until(wake) => Event::Timer,
            };
            let proceed = match event {
                Event::Gone => return,
                Event::Timer => self.beat().await,
                Event::Retire => self.send(Beat::Retire).await,
                Event::Doubt => {
                    self.heart.handle_doubt(Instant::now());
                    self.beat().await
                }
                Event::Chunk(Ok(Some(chunk))) => {
                    self.input.extend_from_slice(&chunk);
                    self.handle_input().await
                }
                Event::Chunk(_) => Err("the peer closed the link's channel".to_owned()),
            };
            if let Err(reason) = proceed {
                self.link.close(reason);
                return;
            }
        }
    }

    async fn beat(&mut self) -> Result<(), String> {
        let now = Instant::now();
        self.heart.handle_heard(self.link.traffic().heard());
        match self.heart.poll(now) {
            None => Ok(()),
            Some(Action::Ping) => {
                tracing::debug!(link = self.link.number(), "send heartbeat to server");
                self.number = self.number.wrapping_add(1);
                self.asked = Some((self.number, now));
                self.send(Beat::Ping(self.number)).await
            }
            Some(Action::Suspect) => {
                let _ = self.events.try_send((self.link.number(), LinkEvent::Suspect));
                Ok(())
            }
            Some(Action::Dead) => {
                let silence = now.saturating_duration_since(self.link.traffic().heard());
                Err(format!("nothing was heard for {:.1} s", silence.as_secs_f32()))
            }
        }
    }

    async fn handle_input(&mut self) -> Result<(), String> {
        while let Some(bytes) = self.input.first_chunk::<{ beat::LEN }>() {
            let beat = Beat::decode(*bytes).map_err(|error| error.to_string())?;
            self.input.advance(beat::LEN);
            match beat {
                Beat::Ping(number) => self.send(Beat::Pong(number)).await?,
                Beat::Pong(number) => {
                    if let Some((_, asked)) = self.asked.take_if(|(asked, _)| *asked == number) {
                        self.link.note_round_trip(asked.elapsed());
                    }
                }
                Beat::Retire => {
                    let _ = self.events.try_send((self.link.number(), LinkEvent::Retire));
                }
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(())
    }

    /// A link that takes no five bytes within a heartbeat's patience is as dead as a silent one, so the deadline of
    /// the heart also covers the sending.
    async fn send(&mut self, beat: Beat) -> Result<(), String> {
        let bytes = beat.encode();
        let deadline = self.heart.poll_timeout().max(Instant::now() + Duration::from_secs(3));
        tokio::select! {
            sent = self.stream.write_all(&bytes) => sent.map_err(|error| error.to_string()),
            () = self.link.gone() => Err("the link is gone".into()),
            () = tokio::time::sleep_until(deadline.into()) => {
                // Bytes that still arrive prove that the link lives; it is merely full.
                self.heart.handle_heard(self.link.traffic().heard());
                match self.heart.poll(Instant::now()) {
                    Some(Action::Dead) => Err("the link takes no bytes and sends none".into()),
                    _ => Ok(()),
                }
            }
        }
    }
}

async fn prompted(prompts: &mut Option<Prompts>) -> Event {
    let Some(Prompts { retire, doubts }) = prompts else { return std::future::pending().await };
    tokio::select! {
        () = retire.notified() => Event::Retire,
        Ok(()) = doubts.changed() => Event::Doubt,
    }
}
