//! One end of the internet: a TUN device, a thread that reads it, and one that writes it when packets are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, ioctl_fionbio};
use tun_rs::DeviceBuilder;

use super::Sender;
use crate::lab::space::Space;

/// The largest packet, as in most of the internet.
const MTU: usize = 1500;

/// Packets that the kernel holds while the reading thread is busy.
const KERNEL_QUEUE: u32 = 8192;

/// Most packets that are read, or written, before the others get their turn.
const BATCH: usize = 64;

/// A packet on its way.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) due: Instant,
    pub(super) packet: Vec<u8>,
}

/// The device and what is on the way to it.
#[derive(Debug)]
pub(super) struct Line {
    device: OwnedFd,
    stopping: OwnedFd,
    arriving: Mutex<Arriving>,
    earlier: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Arriving {
    parcels: BinaryHeap<Reverse<Ordered>>,
    /// Bytes of them.
    bytes: usize,
    /// Numbers them, so that those that are due together keep their order.
    count: u64,
    stopped: bool,
}

/// The due time and the number order parcels.
#[derive(Debug)]
struct Ordered {
    due: Instant,
    number: u64,
    packet: Vec<u8>,
}

impl Line {
    /// Makes the device, which goes with this value.
    pub(super) fn open(space: &Space) -> io::Result<Arc<Self>> {
        let device = open(space)?;
        let stopping = eventfd(0, EventfdFlags::CLOEXEC)?;
        space.ip_batch(&format!("link set wan mtu {MTU} txqueuelen {KERNEL_QUEUE}\nlink set wan up\n"));
        let line = Line {
            device,
            stopping,
            arriving: Mutex::default(),
            earlier: Condvar::new(),
            threads: Mutex::default(),
        };
        Ok(Arc::new(line))
    }

    /// Starts the threads.
    pub(super) fn start(self: &Arc<Self>, sender: Sender) {
        let (reading, writing) = (Arc::clone(self), Arc::clone(self));
        let threads =
            [std::thread::spawn(move || reading.read(sender)), std::thread::spawn(move || writing.write())];
        self.threads.lock().expect("no panic while held").extend(threads);
    }

    /// Ends the threads.
    pub(super) fn stop(&self) {
        self.arriving.lock().expect("no panic while held").stopped = true;
        self.earlier.notify_all();
        rustix::io::write(&self.stopping, &1_u64.to_ne_bytes()).expect("an event can be signalled");
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panic while held"));
        for thread in threads {
            // If it panicked, it has said so.
            let _ = thread.join();
        }
    }

    /// Takes a packet for delivery, unless more than `limit` bytes are on the way.
    pub(super) fn take(&self, Parcel { due, packet }: Parcel, limit: usize) -> bool {
        let mut arriving = self.arriving.lock().expect("no panic while held");
        if arriving.bytes + packet.len() > limit {
            return false;
        }
        arriving.bytes += packet.len();
        arriving.count += 1;
        let number = arriving.count;
        let is_first = arriving.parcels.peek().is_none_or(|Reverse(first)| due < first.due);
        arriving.parcels.push(Reverse(Ordered { due, number, packet }));
        drop(arriving);
        if is_first {
            self.earlier.notify_one();
        }
        true
    }

    fn read(&self, mut sender: Sender) {
        let mut packets = Vec::with_capacity(BATCH);
        let mut buffer = [0; MTU];
        loop {
            let mut fds =
                [PollFd::new(&self.device, PollFlags::IN), PollFd::new(&self.stopping, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                Err(error) => panic!("a TUN device cannot be polled: {error}"),
                Ok(_) if !fds[1].revents().is_empty() => return,
                Ok(_) => (),
            }
            while packets.len() < BATCH {
                match rustix::io::read(&self.device, &mut buffer) {
                    Ok(len) => packets.push(buffer[..len].to_vec()),
                    Err(_) => break,
                }
            }
            // Its namespace took the device along.
            if packets.is_empty() && !(fds[0].revents() & (PollFlags::ERR | PollFlags::HUP)).is_empty() {
                return;
            }
            sender.send(&mut packets);
        }
    }

    fn write(&self) {
        let mut due = Vec::with_capacity(BATCH);
        let mut arriving = self.arriving.lock().expect("no panic while held");
        loop {
            if arriving.stopped {
                return;
            }
            let now = Instant::now();
            while due.len() < BATCH
                && let Some(packet) = arriving.next_at(now)
            {
                due.push(packet);
            }
            if !due.is_empty() {
                drop(arriving);
                for packet in due.drain(..) {
                    // What a namespace has no room for is lost, as anywhere.
                    let _ = rustix::io::write(&self.device, &packet);
                }
                arriving = self.arriving.lock().expect("no panic while held");
                continue;
            }
            let wait = arriving.parcels.peek().map(|Reverse(first)| first.due.saturating_duration_since(now));
            arriving = match wait {
                Some(wait) => self.earlier.wait_timeout(arriving, wait).expect("no panic while held").0,
                None => self.earlier.wait(arriving).expect("no panic while held"),
            };
        }
    }
}

impl Arriving {
    fn next_at(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.parcels.peek()?.0.due > now {
            return None;
        }
        let Reverse(Ordered { packet, .. }) = self.parcels.pop()?;
        self.bytes -= packet.len();
        Some(packet)
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

/// Makes the device `wan` in a namespace.
pub(in crate::lab) fn open(space: &Space) -> io::Result<OwnedFd> {
    let device = space.within(|| DeviceBuilder::new().name("wan").inherit_enable_state().build_sync())?;
    ioctl_fionbio(&device, true)?;
    device.as_fd().try_clone_to_owned()
}
