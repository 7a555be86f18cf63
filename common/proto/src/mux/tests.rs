use super::super::session::test_clock;
use super::*;
use proptest::prelude::*;

const ROUND_TRIP: Duration = Duration::from_millis(10);

type Mux = Multiplexer<()>;

/// Two ends that have measured the round trip.
fn pair() -> (Mux, Mux) {
    let (mut a, mut b) = (Mux::new(true, test_clock()), Mux::new(false, test_clock()));
    for mux in [&mut a, &mut b] {
        mux.round_trip.want_first();
    }
    let pings = sent(&mut a);
    b.receive(&pings, test_clock()).unwrap();
    let answers = sent(&mut b);
    a.receive(&answers, test_clock() + ROUND_TRIP).unwrap();
    let answer = sent(&mut a);
    b.receive(&answer, test_clock() + ROUND_TRIP).unwrap();
    for mux in [&mut a, &mut b] {
        assert!(mux.round_trip.shortest >= Some(ROUND_TRIP));
        mux.take_urgent();
    }
    (a, b)
}

/// What `from` has to send, in one piece.
fn sent(from: &mut Mux) -> Vec<u8> {
    sent_at(from, test_clock())
}

fn sent_at(from: &mut Mux, now: Instant) -> Vec<u8> {
    let mut wire = Vec::new();
    while let Some(frame) = from.transmit(now) {
        wire.extend_from_slice(&frame.header.encode());
        wire.extend_from_slice(&frame.payload);
    }
    wire
}

/// Moves all there is from one end to the other; how many bytes that were.
fn carry(from: &mut Mux, to: &mut Mux) -> usize {
    let wire = sent(from);
    to.receive(&wire, test_clock()).unwrap();
    wire.len()
}

fn opened(mux: &mut Mux) -> u32 {
    loop {
        match mux.poll_event().expect("a stream was opened") {
            Event::Opened(stream) => return stream,
            _ => continue,
        }
    }
}

fn chunk(mux: &mut Mux, stream: u32) -> Bytes {
    match mux.read(stream) {
        Read::Chunk(chunk) => chunk,
        other => panic!("{other:?} instead of a chunk"),
    }
}

#[test]
fn a_stream_that_is_opened_used_and_closed_at_once_is_one_frame() {
    let (mut a, mut b) = pair();
    let stream = a.open().unwrap();
    a.write(stream, Bytes::from_static(b"hello"));
    a.close(stream);
    assert!(a.take_urgent());
    assert_eq!(carry(&mut a, &mut b), HEADER + 5);
    assert_eq!(opened(&mut b), stream);
    assert_eq!(chunk(&mut b, stream), "hello");
    assert_eq!(b.read(stream), Read::End);
}

#[test]
fn nobody_hears_of_a_stream_that_was_never_used() {
    let (mut a, _) = pair();
    let stream = a.open().unwrap();
    a.release(stream);
    assert!(!a.take_urgent());
    assert!(a.transmit(test_clock()).is_none());
    assert!(a.streams.is_empty());
}

#[test]
fn the_second_end_of_a_stream_waits_for_company() {
    let (mut a, mut b) = pair();
    let stream = a.open().unwrap();
    a.write(stream, Bytes::from_static(b"x"));
    carry(&mut a, &mut b);
    b.close(stream);
    assert!(b.take_urgent());
    carry(&mut b, &mut a);
    a.take_urgent();
    a.close(stream);
    a.release(stream);
    assert!(!a.take_urgent(), "it is not worth a packet");
    assert_eq!(carry(&mut a, &mut b), HEADER);
    b.release(stream);
    assert!(a.streams.is_empty() && b.streams.is_empty());
}

#[test]
fn a_stream_that_is_dropped_is_aborted() {
    let (mut a, mut b) = pair();
    let stream = a.open().unwrap();
    a.write(stream, Bytes::from_static(b"x"));
    carry(&mut a, &mut b);
    a.write(stream, Bytes::from_static(b"never sent"));
    a.release(stream);
    assert_eq!(carry(&mut a, &mut b), HEADER);
    assert_eq!(chunk(&mut b, stream), "x");
    assert_eq!(b.read(stream), Read::Reset);
    assert_eq!(b.has_room(stream), None);
    b.release(stream);
    assert!(a.streams.is_empty() && b.streams.is_empty() && b.transmit(test_clock()).is_none());
}

#[test]
fn who_waits_for_the_window_of_a_stream_that_is_gone_is_told() {
    for has_something_to_send in [false, true] {
        let (mut a, mut b) = pair();
        let stream = a.open().unwrap();
        while a.has_room(stream) == Some(true) {
            a.write(stream, Bytes::from(vec![1; MAX_FRAME]));
            carry(&mut a, &mut b);
        }
        // It may go on sending behind this end, but is not read any more.
        if has_something_to_send {
            b.write(stream, Bytes::from_static(b"the last"));
        }
        b.close(stream);
        b.release(stream);
        carry(&mut b, &mut a);
        assert_eq!(a.has_room(stream), None);
        if has_something_to_send {
            assert_eq!(chunk(&mut a, stream), "the last");
        }
        assert_eq!(a.read(stream), Read::End);
        a.release(stream);
        assert!(a.streams.is_empty() && b.streams.is_empty());
    }
}

#[test]
fn who_sends_to_a_stream_that_is_gone_is_told() {
    let (mut a, mut b) = pair();
    let stream = a.open().unwrap();
    a.write(stream, Bytes::from_static(b"x"));
    carry(&mut a, &mut b);
    a.close(stream);
    a.release(stream);
    carry(&mut a, &mut b);
    b.write(stream, Bytes::from_static(b"late"));
    carry(&mut b, &mut a);
    carry(&mut a, &mut b);
    assert_eq!(chunk(&mut b, stream), "x");
    assert_eq!(b.read(stream), Read::End, "all of this direction has arrived");
    assert_eq!(b.has_room(stream), None);
}

#[test]
fn a_reader_that_stops_stops_its_sender_and_nobody_else() {
    let (mut a, mut b) = pair();
    let (stuck, other) = (a.open().unwrap(), a.open().unwrap());
    let mut total = 0;
    while a.has_room(stuck) == Some(true) {
        a.write(stuck, Bytes::from(vec![1; 10_000]));
        total += 10_000;
        carry(&mut a, &mut b);
    }
    let window = FIRST_WINDOW as usize;
    assert!((window..window + 2 * MAX_FRAME).contains(&total), "{total}");
    a.write(other, Bytes::from_static(b"free"));
    carry(&mut a, &mut b);
    assert_eq!(chunk(&mut b, other), "free");

    while a.poll_event().is_some() {}
    let mut read = 0;
    while read < total {
        read += chunk(&mut b, stuck).len();
        carry(&mut b, &mut a);
        carry(&mut a, &mut b);
    }
    assert!(std::iter::from_fn(|| a.poll_event()).any(|event| event == Event::Writable(stuck)));
}

#[test]
fn windows_grow_for_quick_readers_alone_and_shrink_with_the_stream() {
    let (mut a, mut b) = pair();
    let stream = a.open().unwrap();
    let mut now = test_clock();
    let mut pass = |a: &mut Mux, b: &mut Mux, pause: Duration| {
        for _ in 0..100 {
            now += pause;
            a.write(stream, Bytes::from(vec![1; MAX_FRAME]));
            b.receive(&sent(a), now).unwrap();
            while let Read::Chunk(_) = b.read(stream) {}
            carry(b, a);
        }
        b.streams[&stream].most
    };
    assert_eq!(pass(&mut a, &mut b, Duration::from_millis(100)), FIRST_WINDOW);
    assert!(pass(&mut a, &mut b, Duration::from_micros(100)) > FIRST_WINDOW);
    assert!(b.spare < GROWTH);
    b.release(stream);
    carry(&mut b, &mut a);
    assert_eq!(b.spare, GROWTH);
}

#[test]
fn a_short_way_counts_for_more_than_it_takes_unless_the_stream_is_tightened() {
    for is_tight in [false, true] {
        let (mut a, mut b) = pair();
        b.round_trip.shortest = Some(Duration::from_micros(100));
        let stream = a.open().unwrap();
        let mut now = test_clock();
        // Half a window takes two of these or three.
        for _ in 0..100 {
            now += Duration::from_millis(1);
            a.write(stream, Bytes::from(vec![1; MAX_FRAME]));
            b.receive(&sent(&mut a), now).unwrap();
            if is_tight {
                b.tighten(stream);
            }
            while let Read::Chunk(_) = b.read(stream) {}
            carry(&mut b, &mut a);
        }
        assert_eq!(b.streams[&stream].most == FIRST_WINDOW, is_tight);
    }
}

#[test]
fn streams_with_much_to_send_take_turns() {
    let (mut a, _) = pair();
    let streams: Vec<_> = (0..3).map(|_| a.open().unwrap()).collect();
    for stream in &streams {
        a.write(*stream, Bytes::from(vec![0; 3 * MAX_FRAME]));
    }
    let turns: Vec<_> =
        std::iter::from_fn(|| a.transmit(test_clock())).map(|frame| frame.header.stream).collect();
    assert_eq!(turns, streams.repeat(3));
}

#[test]
fn a_peer_that_breaks_the_rules_is_caught() {
    let frame = |kind, flags, stream, length| Header { kind, flags, stream, length }.encode().to_vec();
    let too_long = frame(Kind::Data, SYN, 1, MAX_FRAME as u32 + 1);
    let not_its_own = frame(Kind::Window, SYN, 2, 0);
    let the_connection = frame(Kind::Window, SYN, 0, 0);
    let twice = [frame(Kind::Window, SYN, 1, 0), frame(Kind::Window, SYN, 1, 0)].concat();
    let overflow = [frame(Kind::Window, SYN, 1, u32::MAX)].concat();
    let behind_the_end = [frame(Kind::Window, SYN | FIN, 1, 0), frame(Kind::Data, 0, 1, 1), vec![0]].concat();
    let no_frame = vec![22; HEADER];
    let leaving = frame(Kind::GoAway, 0, 0, 0);
    for bad in [too_long, not_its_own, the_connection, twice, overflow, behind_the_end, no_frame, leaving] {
        let (_, mut b) = pair();
        assert!(b.receive(&bad, test_clock()).is_err(), "{bad:?}");
    }
    let (_, mut b) = pair();
    b.receive(&frame(Kind::Window, SYN, 1, 0), test_clock()).unwrap();
    let more_than_its_window = (0..=FIRST_WINDOW as usize / MAX_FRAME)
        .flat_map(|_| [frame(Kind::Data, 0, 1, MAX_FRAME as u32), vec![0; MAX_FRAME]].concat())
        .collect::<Vec<_>>();
    assert!(b.receive(&more_than_its_window, test_clock()).is_err());
}

#[test]
fn a_peer_that_opens_too_many_streams_is_refused_the_rest() {
    let (_, mut b) = pair();
    for n in 0..LINK_STREAM_LIMIT as u32 + 10 {
        let header = Header { kind: Kind::Window, flags: SYN, stream: 2 * n + 1, length: 0 };
        b.receive(&header.encode(), test_clock()).unwrap();
    }
    assert_eq!(b.streams.len(), LINK_STREAM_LIMIT);
    assert_eq!(b.refusals.len(), 10);
    assert!(b.open().is_none());
}

#[test]
fn the_round_trip_is_measured_with_the_first_frame_and_before_windows_grow() {
    let (mut a, mut b) = (Mux::new(true, test_clock()), Mux::new(false, test_clock()));
    assert_eq!(a.transmit(test_clock()), None, "nothing is sent for the measurement alone");
    let stream = a.open().unwrap();
    a.write(stream, Bytes::from_static(b"x"));
    let mut now = test_clock();
    let answer_after = |a: &mut Mux, b: &mut Mux, now: Instant, took: Duration| {
        b.receive(&sent_at(a, now), now).unwrap();
        let answer = sent(b);
        a.receive(&answer, now + took).unwrap();
        a.round_trip.shortest
    };
    let first = answer_after(&mut a, &mut b, now, Duration::from_millis(30));
    assert_eq!(first, Some(Duration::from_millis(30)));

    // Not again so soon; later on, by who is about to grant more. What is longer is taken for a queue.
    for (wait, took, shortest) in [(1, 5, 30), (2_000, 20, 20), (2_000, 40, 20)] {
        now += Duration::from_millis(wait);
        a.round_trip.consult(now);
        let measured = answer_after(&mut a, &mut b, now, Duration::from_millis(took));
        assert_eq!(measured, Some(Duration::from_millis(shortest)), "{wait} ms later");
    }
    let unasked = Header { kind: Kind::Ping, flags: ACK, stream: 0, length: 2 };
    a.receive(&unasked.encode(), now).unwrap();
    assert_eq!(a.round_trip.shortest, Some(Duration::from_millis(20)), "an answer counts once");
}

#[test]
fn a_ping_is_answered() {
    let (_, mut b) = pair();
    let ping = Header { kind: Kind::Ping, flags: SYN, stream: 0, length: 77 };
    b.receive(&ping.encode(), test_clock()).unwrap();
    assert!(b.take_urgent());
    let header = Header { flags: ACK, ..ping };
    assert_eq!(b.transmit(test_clock()), Some(Outgoing { header, payload: Bytes::new() }));
}

/// What one end does.
#[derive(Debug, Clone)]
enum Step {
    Open,
    Write(usize, usize),
    Read(usize),
    Close(usize),
    Release(usize),
    Carry(usize),
}

fn step() -> impl Strategy<Value = (bool, Step)> {
    let step = prop_oneof![
        1 => Just(Step::Open),
        6 => (any::<usize>(), 1..70_000usize).prop_map(|(which, len)| Step::Write(which, len)),
        6 => any::<usize>().prop_map(Step::Read),
        1 => any::<usize>().prop_map(Step::Close),
        1 => any::<usize>().prop_map(Step::Release),
        8 => (1..100_000usize).prop_map(Step::Carry),
    ];
    (any::<bool>(), step)
}

/// One end with what crosses to the other, and what it knows of its streams.
struct End {
    mux: Mux,
    wire: Vec<u8>,
    held: Vec<u32>,
    /// By stream: bytes written here, whether it was closed here, bytes read here, whether its end was read here.
    book: HashMap<u32, (usize, bool, usize, bool)>,
}

impl End {
    fn new(dialer: bool) -> Self {
        End { mux: Mux::new(dialer, test_clock()), wire: Vec::new(), held: Vec::new(), book: HashMap::new() }
    }

    fn any(&self, which: usize) -> Option<u32> {
        (!self.held.is_empty()).then(|| self.held[which % self.held.len()])
    }

    fn take(&mut self, wire: &[u8]) {
        self.mux.receive(wire, test_clock()).unwrap();
        while let Some(event) = self.mux.poll_event() {
            if let Event::Opened(stream) = event {
                self.held.push(stream);
                self.book.insert(stream, Default::default());
            }
        }
    }

    fn read(&mut self, stream: u32) -> bool {
        let book = self.book.get_mut(&stream).unwrap();
        match self.mux.read(stream) {
            Read::Chunk(chunk) => {
                for (n, byte) in chunk.iter().enumerate() {
                    assert_eq!(*byte, pattern(stream, book.2 + n), "order");
                }
                book.2 += chunk.len();
                true
            }
            Read::End => {
                book.3 = true;
                false
            }
            _ => false,
        }
    }

    fn perform(&mut self, step: &Step) {
        match *step {
            Step::Open => {
                let stream = self.mux.open().unwrap();
                self.held.push(stream);
                self.book.insert(stream, Default::default());
            }
            Step::Write(which, len) => {
                let Some(stream) = self.any(which) else { return };
                if self.mux.has_room(stream) == Some(true) {
                    let book = self.book.get_mut(&stream).unwrap();
                    let bytes: Vec<u8> = (book.0..book.0 + len).map(|n| pattern(stream, n)).collect();
                    book.0 += len;
                    self.mux.write(stream, bytes.into());
                }
            }
            Step::Read(which) => {
                if let Some(stream) = self.any(which) {
                    self.read(stream);
                }
            }
            Step::Close(which) => {
                let Some(stream) = self.any(which) else { return };
                self.book.get_mut(&stream).unwrap().1 = true;
                self.mux.close(stream);
            }
            Step::Release(which) => {
                let Some(stream) = self.any(which) else { return };
                self.held.retain(|held| *held != stream);
                self.mux.release(stream);
            }
            Step::Carry(_) => {
                let more = sent(&mut self.mux);
                self.wire.extend(more);
            }
        }
    }
}

fn pattern(stream: u32, offset: usize) -> u8 {
    (stream as usize * 31 + offset * 7 + offset / 251) as u8
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_both_ends_do_bytes_come_out_in_order_and_all_of_them_if_nobody_aborts(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let (mut a, mut b) = (End::new(true), End::new(false));
        for (first, step) in &steps {
            let (near, far) = if *first { (&mut a, &mut b) } else { (&mut b, &mut a) };
            near.perform(step);
            if let Step::Carry(most) = step {
                let rest = near.wire.split_off(near.wire.len().min(*most));
                let wire = std::mem::replace(&mut near.wire, rest);
                far.take(&wire);
            }
        }
        // All that is on its way arrives, and all that is held is read.
        for _ in 0..10_000 {
            let mut moved = false;
            for turn in [true, false] {
                let (near, far) = if turn { (&mut a, &mut b) } else { (&mut b, &mut a) };
                near.perform(&Step::Carry(0));
                let wire = std::mem::take(&mut near.wire);
                moved |= !wire.is_empty();
                far.take(&wire);
                for stream in far.held.clone() {
                    while far.read(stream) {
                        moved = true;
                    }
                }
            }
            if !moved {
                break;
            }
        }
        for (near, far) in [(&a, &b), (&b, &a)] {
            for stream in near.held.iter().filter(|stream| far.held.contains(stream)) {
                let (written, closed, ..) = near.book[stream];
                let (.., read, ended) = far.book[stream];
                prop_assert_eq!(written, read);
                prop_assert_eq!(closed, ended);
            }
        }
        // What nobody holds is forgotten.
        for (near, far) in [(&a, &b), (&b, &a)] {
            for stream in near.mux.streams.keys() {
                prop_assert!(near.held.contains(stream), "{stream} lingers; the peer holds it: {}", far.held.contains(stream));
            }
        }
    }
}
