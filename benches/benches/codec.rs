//! Frames and messages of the wire, from and to memory.

use std::hint::black_box;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use tun_proto::limits::{DATA_HEADROOM, MAX_CONTROL_MESSAGE, MAX_DATA};
use tun_proto::wire::control::{ClientMessage, ProxyKind, ProxySpec};
use tun_proto::wire::datagram::{put_frame, take_frame};
use tun_proto::wire::login::Id;
use tun_proto::wire::message;
use tun_proto::wire::stream::{Attach, AttachMode, Frame, put_data_header};

/// An offset far into a stream, as transfers have it most of the time.
const OFFSET: u64 = 1 << 40;

/// Bytes of a datagram.
const DATAGRAM: usize = 200;

/// What a control message is called where it is wrong.
const WHAT: &str = "control message";

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(1));

    let frame = data_frame(&[7; MAX_DATA]);
    group.bench_function("data frame", |bencher| {
        bencher.iter(|| {
            let mut headroom = [0; DATA_HEADROOM];
            black_box(put_data_header(&mut headroom, black_box(OFFSET), MAX_DATA, false));
            black_box(Frame::decode(&mut black_box(frame.clone())))
        });
    });

    let mut out = BytesMut::with_capacity(1024);
    group.bench_function("acknowledgement", |bencher| {
        bencher.iter(|| {
            out.clear();
            Frame::Ack { offset: black_box(OFFSET) }.encode(&mut out);
            black_box(Frame::decode(&mut &out[..]))
        });
    });

    let meta = Bytes::from_static(br#"{"Proxy":{"name":"web","source":"198.51.100.7:40000"}}"#);
    let attach = Attach { stream: Id([7; 16]), epoch: 1, mode: AttachMode::Resend, received: 0, meta };
    group.bench_function("attachment", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&attach).encode(&mut out);
            black_box(Attach::decode(&mut &out[..]))
        });
    });

    group.bench_function("datagram", |bencher| {
        let payload = [7; DATAGRAM];
        bencher.iter(|| {
            let mut out = BytesMut::with_capacity(DATAGRAM + 16);
            put_frame(black_box(1000), &payload, &mut out);
            black_box(take_frame(&mut out.freeze()))
        });
    });

    let kind = ProxyKind::Tcp { remote_port: 6000, previous_port: None };
    let proxy = ProxySpec { name: "web".to_owned(), kind, bandwidth_limit: None };
    let register = ClientMessage::Register(vec![proxy]);
    group.bench_function("control message", |bencher| {
        bencher.iter(|| {
            out.clear();
            let put = message::put(&mut out, black_box(&register), WHAT, MAX_CONTROL_MESSAGE);
            let taken = message::take::<ClientMessage>(&mut out, WHAT, MAX_CONTROL_MESSAGE);
            black_box((put, taken))
        });
    });

    group.finish();
    criterion.final_summary();
    Ok(())
}

fn data_frame(payload: &[u8]) -> Bytes {
    let mut headroom = [0; DATA_HEADROOM];
    let start = put_data_header(&mut headroom, OFFSET, payload.len(), false);
    Bytes::from([&headroom[start..], payload].concat())
}
