//! Decoders under arbitrary bytes: none panics, waits for more than its limit, or keeps more than it was given.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use tun_proto::limits::{MAX_CONTROL_MESSAGE, MAX_DATA, MAX_HANDSHAKE_MESSAGE, MAX_STREAM_META};
use tun_proto::wire::beat::{self, Beat};
use tun_proto::wire::control::{ClientMessage, ServerMessage, StreamMeta};
use tun_proto::wire::login::{Challenge, Hello, Id, Proof, Verdict};
use tun_proto::wire::stream::{Attach, AttachMode, Frame, ResetCode};
use tun_proto::wire::{message, preface, varint};

/// Longest header of a frame or an attachment: type, identifier, mode and four integers at most.
const MAX_HEADER: usize = 1 + 16 + 1 + 4 * varint::MAX_LEN;

fn code() -> impl Strategy<Value = ResetCode> {
    prop_oneof![
        Just(ResetCode::Aborted),
        Just(ResetCode::Unreachable),
        Just(ResetCode::Refused),
        Just(ResetCode::SessionOver),
        Just(ResetCode::Protocol),
    ]
}

/// Integers of every encoded length.
fn integer() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64u32).prop_map(|(value, shift)| value >> shift)
}

fn frame() -> impl Strategy<Value = Frame> {
    let payload = prop_oneof![9 => 1..300usize, 1 => Just(MAX_DATA)];
    prop_oneof![
        integer().prop_map(|received| Frame::Attached { received }),
        (integer(), payload, any::<u8>(), any::<bool>()).prop_map(|(offset, len, fill, prompt)| {
            Frame::Data { offset, payload: Bytes::from(vec![fill; len]), prompt }
        }),
        integer().prop_map(|offset| Frame::Ack { offset }),
        integer().prop_map(|offset| Frame::Fin { offset }),
        (integer(), code()).prop_map(|(offset, code)| Frame::Reset { offset, code }),
        integer().prop_map(|offset| Frame::Switch { offset }),
        Just(Frame::Unknown),
    ]
}

fn attach() -> impl Strategy<Value = Attach> {
    let mode = prop_oneof![Just(AttachMode::Resend), Just(AttachMode::Switch)];
    let meta = prop_oneof![9 => vec(any::<u8>(), 0..100), 1 => any::<u8>().prop_map(|fill| vec![fill; MAX_STREAM_META])];
    (any::<[u8; 16]>(), any::<u32>(), mode, integer(), meta).prop_map(|(id, epoch, mode, received, meta)| {
        Attach { stream: Id(id), epoch, mode, received, meta: meta.into() }
    })
}

/// Bytes that come closer to an encoding than arbitrary ones do: encodings with a few bytes changed, or cut short.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let encoded = prop_oneof![
        vec(frame(), 1..4).prop_map(|frames| encode(&frames)),
        attach().prop_map(|attach| {
            let mut out = BytesMut::new();
            attach.encode(&mut out);
            out
        }),
    ];
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (encoded, changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(encoded, changes, cut, cuts)| {
            let mut bytes = encoded.to_vec();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cuts {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    // Small values, which types and lengths are, more often than chance would have them.
    let small = vec(prop_oneof![0..32u8, any::<u8>()], 0..64);
    prop_oneof![20 => damaged(), 20 => small, 1 => vec(any::<u8>(), 0..2 * MAX_DATA)]
}

fn encode(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out
}

/// Decodes until there is nothing more to decode; checks what each step leaves behind.
fn drain<T>(
    bytes: &[u8],
    limit: usize,
    mut decode: impl FnMut(&mut BytesMut) -> Option<T>,
) -> Result<Vec<T>, TestCaseError> {
    let mut input = BytesMut::from(bytes);
    let mut out = Vec::new();
    loop {
        let (before, capacity) = (input.len(), input.capacity());
        match decode(&mut input) {
            Some(item) => {
                prop_assert!(input.len() < before, "a message without bytes");
                prop_assert!(before - input.len() <= MAX_HEADER + limit, "a message beyond the limit");
                out.push(item);
            }
            None => {
                prop_assert!(
                    input[..] == bytes[bytes.len() - before..],
                    "bytes are taken, and nothing comes of it"
                );
                prop_assert!(input.capacity() <= capacity, "a decoder makes room for what has not arrived");
                return Ok(out);
            }
        }
    }
}

/// Puts arbitrary bytes before the decoder of a structured message.
fn try_message<T: serde::de::DeserializeOwned>(bytes: &[u8], max: usize) -> Result<(), TestCaseError> {
    let mut input = BytesMut::from(bytes);
    match message::take::<T>(&mut input, "message", max) {
        Ok(None) => prop_assert!(bytes.len() < 4 + max && input == bytes),
        Ok(Some(_)) => prop_assert!(bytes.len() - input.len() <= 4 + max),
        Err(_) => {}
    }
    let _ = message::parse::<T>(bytes, "message");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_frames_or_refused(bytes in any_bytes()) {
        let frames = drain(&bytes, MAX_DATA, |input| {
            let before = input.len();
            let frame = Frame::decode(input);
            // More bytes than any frame has are never too few.
            assert!(frame != Ok(None) || before < MAX_HEADER + MAX_DATA);
            frame.ok().flatten()
        })?;
        for frame in &frames {
            if let Frame::Data { payload, .. } = frame {
                prop_assert!((1..=MAX_DATA).contains(&payload.len()));
            }
        }
        let again = drain(&encode(&frames), MAX_DATA, |input| Frame::decode(input).ok().flatten())?;
        prop_assert_eq!(frames, again);
    }

    #[test]
    fn any_bytes_are_a_header_or_refused(bytes in any_bytes()) {
        drain(&bytes, MAX_STREAM_META, |input| {
            let before = input.len();
            let attach = Attach::decode(input);
            assert!(attach != Ok(None) || before < MAX_HEADER + MAX_STREAM_META);
            let attach = attach.ok().flatten();
            assert!(attach.as_ref().is_none_or(|attach| attach.meta.len() <= MAX_STREAM_META));
            attach
        })?;
    }

    #[test]
    fn frames_arrive_whole_however_the_network_cuts_them(
        attach in attach(),
        frames in vec(frame(), 0..12),
        cuts in vec(1..5_000usize, 1..40),
    ) {
        let mut sent = BytesMut::new();
        attach.encode(&mut sent);
        sent.extend_from_slice(&encode(&frames));
        let (mut input, mut header, mut received) = (BytesMut::new(), None, Vec::new());
        let mut cuts = cuts.into_iter().cycle();
        while !sent.is_empty() {
            let cut = sent.len().min(cuts.next().unwrap_or(1));
            input.extend_from_slice(&sent.split_to(cut));
            if header.is_none() {
                header = Attach::decode(&mut input).unwrap();
            }
            while header.is_some() && let Some(frame) = Frame::decode(&mut input).unwrap() {
                received.push(frame);
            }
        }
        prop_assert_eq!(header, Some(attach));
        prop_assert_eq!(received, frames);
        prop_assert!(input.is_empty());
    }

    #[test]
    fn any_bytes_are_structured_messages_or_refused(
        announced in prop_oneof![0..200u32, any::<u32>()],
        body in prop_oneof![
            vec(any::<u8>(), 0..200).boxed(),
            "[\\[\\]{}\":,0-9a-zA-Z_ é]{0,200}".prop_map(String::into_bytes).boxed(),
            "(\\[|\\{\"Proxy\":){0,300}".prop_map(String::into_bytes).boxed(),
        ],
    ) {
        let mut bytes = announced.to_be_bytes().to_vec();
        bytes.extend_from_slice(&body);
        for bytes in [&bytes, &body] {
            try_message::<Hello>(bytes, MAX_HANDSHAKE_MESSAGE)?;
            try_message::<Challenge>(bytes, MAX_HANDSHAKE_MESSAGE)?;
            try_message::<Proof>(bytes, MAX_HANDSHAKE_MESSAGE)?;
            try_message::<Verdict>(bytes, MAX_HANDSHAKE_MESSAGE)?;
            try_message::<ClientMessage>(bytes, MAX_CONTROL_MESSAGE)?;
            try_message::<ServerMessage>(bytes, MAX_CONTROL_MESSAGE)?;
            try_message::<StreamMeta>(bytes, MAX_STREAM_META)?;
        }
    }

    #[test]
    fn any_text_is_an_identifier_or_refused(text in "[0-9a-fA-Fg é]{28,34}") {
        let json = serde_json::to_string(&text).unwrap();
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = serde_json::from_str::<Id>(&json);
        prop_assert_eq!(id.as_ref().ok().map(|id| id.to_hex()), digits.then(|| text.to_lowercase()));
    }

    #[test]
    fn any_integer_survives_a_round_trip(value in integer(), tail in vec(any::<u8>(), 0..4)) {
        let mut out = Vec::new();
        varint::put(&mut out, value);
        prop_assert_eq!(out.len(), varint::len(value));
        out.extend_from_slice(&tail);
        let mut rest = out.as_slice();
        prop_assert_eq!(varint::get(&mut rest), Ok(Some(value)));
        prop_assert_eq!(rest, &tail[..]);
    }

    #[test]
    fn any_first_bytes_are_judged(preface in any::<[u8; preface::LEN]>(), beat in any::<[u8; beat::LEN]>()) {
        prop_assert_eq!(preface::check(preface).is_ok(), preface == preface::ours());
        if let Ok(decoded) = Beat::decode(beat) {
            prop_assert_eq!(Beat::decode(decoded.encode()), Ok(decoded));
        }
    }
}
