use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_bytes_both_ways_and_end_one_way_at_a_time() {
    let (one, other) = (PeerTls::new().unwrap(), PeerTls::new().unwrap());
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (to_a, to_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    let round_trip = Duration::from_millis(1);
    let dialing = Direct { socket: a, remote: to_b, number: 1, round_trip, peer: other.fingerprint() };
    let accepting = Direct { socket: b, remote: to_a, number: 1, round_trip, peer: one.fingerprint() };
    let (dialed, accepted) = tokio::join!(dial(dialing, &one), accept(accepting, &other));
    let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
    let NewLink { link, inbound: _inbound, driver } = dialed;
    let NewLink { link: peer, mut inbound, driver: other_driver } = accepted;
    let drivers = [tokio::spawn(driver), tokio::spawn(other_driver)];
    let mut stream = link.open().await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    std::future::poll_fn(|cx| stream.poll_close(cx)).await.unwrap();
    let mut accepted = inbound.recv().await.unwrap();
    assert_eq!(accepted.read_chunk().await.unwrap().unwrap(), "ping");
    assert_eq!(accepted.read_chunk().await.unwrap(), None);
    accepted.write_all(b"pong").await.unwrap();
    assert_eq!(stream.read_chunk().await.unwrap().unwrap(), "pong");
    link.close("enough");
    peer.gone().await;
    assert_eq!(peer.reason(), "the peer closed the connection: enough");
    for driver in drivers {
        driver.await.unwrap();
    }
}
