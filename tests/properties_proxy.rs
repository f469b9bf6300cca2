//! Properties of the PROXY header: any bytes give an answer, and any split of a connection that
//! begins with a header gives the same one.

mod one_shard;

use headcount::limits::PROXY_HEADER_BYTES_MAX;
use headcount::wire::proxy_protocol::parse;
use one_shard::{OneShard, handshake};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 1, right or nearly so.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        "TCP4|TCP6|UNKNOWN|[0-9]{1,5}|[0-9a-f:]{1,39}| ",
        "([0-9]{1,3}\\.){3}[0-9]{1,3}",
        any::<char>().prop_map(String::from),
    ];
    (vec(word, 0..7), "\r\n|\n|\r|")
        .prop_map(|(words, end)| format!("PROXY {}{end}", words.join(" ")).into_bytes())
}

/// Version 1 about as long as it may be.
fn long_line() -> impl Strategy<Value = Vec<u8>> {
    (85..110usize).prop_map(|rest| format!("PROXY UNKNOWN {}\r\n", "f".repeat(rest)).into_bytes())
}

/// Version 2, right or nearly so, whose length may be another than it says.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let command = prop_oneof![Just(0x20), Just(0x21), any::<u8>()];
    let family = prop_oneof![Just(0x11), Just(0x21), Just(0x00), any::<u8>()];
    let length = prop_oneof![0..300u16, any::<u16>()];
    (command, family, length, vec(any::<u8>(), 0..300)).prop_map(
        |(command, family, length, rest)| {
            [SIGNATURE, &[command, family], &length.to_be_bytes(), &rest].concat()
        },
    )
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![line(), long_line(), block(), Just(Vec::new())], vec(any::<u8>(), 0..200))
        .prop_map(|(begin, more)| [begin, more].concat())
}

/// Headers as load balancers send them.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let endpoints = any::<([u8; 4], [u8; 4], u16, u16)>();
    let v1 = endpoints.prop_map(|(from, to, from_port, to_port)| {
        let [from, to] = [from, to].map(std::net::Ipv4Addr::from);
        format!("PROXY TCP4 {from} {to} {from_port} {to_port}\r\n").into_bytes()
    });
    let v2 = vec(any::<u8>(), 36..200).prop_map(|rest| {
        let length = (rest.len() as u16).to_be_bytes();
        [SIGNATURE, &[0x21, 0x21], &length, &rest].concat()
    });
    prop_oneof![v1, v2, Just(b"PROXY UNKNOWN\r\n".to_vec())]
}

proptest! {
    #[test]
    fn any_bytes_are_answered_whatever_the_cut(bytes in anything()) {
        let at_once = parse(&bytes);
        let mut grown = (0..=bytes.len()).map(|len| parse(&bytes[..len]));
        let settled = grown.find(|parsed| *parsed != Ok(None)).unwrap_or(Ok(None));
        prop_assert_eq!(settled, at_once);
        if let Ok(Some(header_bytes)) = at_once {
            prop_assert!(header_bytes <= bytes.len().min(PROXY_HEADER_BYTES_MAX));
            prop_assert_eq!(parse(&bytes[..header_bytes]), Ok(Some(header_bytes)));
        }
    }

    #[test]
    fn what_follows_a_header_is_answered_as_if_it_came_alone(
        header in header(),
        cuts in vec(any::<Index>(), 0..4),
    ) {
        let bytes = [header, handshake("Cookie: a=b\r\n"), b"\x89\x80\0\0\0\0".to_vec()].concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        let mut shard = OneShard::proxied();
        let conn = shard.open_in_pieces(&pieces);
        let answer = shard.unsent(conn);
        prop_assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", answer.escape_ascii());
        prop_assert!(answer.ends_with(b"\x8a\0"), "{}", answer.escape_ascii());
    }
}
