//! How a path that fails is noticed, and one that works again.

use super::*;

/// The pulse notices within 150 ms of the last sign of life and half a round trip; the rest is for a loaded machine.
const NOTICED: Duration = Duration::from_millis(600);

const ROUND_TRIP: Duration = Duration::from_millis(40);

/// A stream on which the two ends talk all the time.
struct Talk(Vec<JoinHandle<()>>);

impl Talk {
    async fn begin(one: &End, other: &mut End) -> Self {
        let mut stream = one.link.open().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let mut accepted = other.accepted().await;
        let talking = tokio::spawn(async move {
            while stream.write_all(b"how are you?").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let listening = tokio::spawn(async move { while let Ok(Some(_)) = accepted.read_chunk().await {} });
        Talk(vec![talking, listening])
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Waits until the link looks like that; returns how long it took.
async fn becomes(link: &Link, health: Health) -> Duration {
    let since = Instant::now();
    soon(link.health().wait_for(|shown| *shown == health)).await.unwrap();
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_either_direction_or_both_is_noticed_by_both_ends_and_so_is_its_end() {
    for (forth, back) in [(true, true), (true, false), (false, true)] {
        let path = Path::new(ROUND_TRIP / 2).await;
        let (one, mut other) = linked_over(&path).await;
        let _talk = Talk::begin(&one, &mut other).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(
            (*one.link.health().borrow(), *other.link.health().borrow()),
            (Health::Good, Health::Good)
        );
        path.cut(forth, back);
        let noticed =
            tokio::join!(becomes(&one.link, Health::Suspect), becomes(&other.link, Health::Suspect));
        println!("cut ({forth}, {back}) noticed after {noticed:?}");
        assert!(noticed.0 < NOTICED && noticed.1 < NOTICED, "{noticed:?}");
        path.cut(false, false);
        let trusted = tokio::join!(becomes(&one.link, Health::Good), becomes(&other.link, Health::Good));
        println!("its end after {trusted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_was_full_when_it_fell_silent_is_trusted_again_as_soon_as_it_is_back() {
    /// A round trip, acknowledgements that prove the path for 75 ms, a pulse every 100 ms; the rest is for a loaded machine.
    const TRUSTED: Duration = Duration::from_millis(500);
    let path = Path::new(ROUND_TRIP / 2).await;
    let (one, mut other) = linked_over(&path).await;
    let mut stream = one.link.open().await.unwrap();
    let sending = tokio::spawn(async move { while stream.write_all(&[7; 64 * 1024]).await.is_ok() {} });
    let mut accepted = other.accepted().await;
    let reading = tokio::spawn(async move { while let Ok(Some(_)) = accepted.read_chunk().await {} });
    let _talk = Talk(vec![sending, reading]);
    for silence in [600, 1300, 2500].map(Duration::from_millis) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        path.cut(true, true);
        becomes(&one.link, Health::Suspect).await;
        tokio::time::sleep(silence).await;
        path.cut(false, false);
        let trusted = becomes(&one.link, Health::Good).await;
        println!("silent for {silence:?}, trusted {trusted:?} after its end");
        assert!(trusted < TRUSTED, "{silence:?}: {trusted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_after_a_pause_find_out_that_the_path_is_dead() {
    let path = Path::new(ROUND_TRIP / 2).await;
    let (one, mut other) = linked_over(&path).await;
    let mut stream = one.link.open().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let _accepted = other.accepted().await;
    // Pulses go on for two seconds; afterwards, only what keeps the path open is sent.
    tokio::time::sleep(Duration::from_millis(2300)).await;
    let before = path.carried();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert!(path.carried() - before < 10, "{} datagrams in a pause", path.carried() - before);
    path.cut(true, true);
    stream.write_all(b"hello?").await.unwrap();
    let noticed = becomes(&one.link, Health::Suspect).await;
    println!("noticed after {noticed:?}");
    assert!(noticed < NOTICED, "{noticed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_transfers_are_not_suspect() {
    let path = Path::new(ROUND_TRIP / 2).await;
    let (one, mut other) = linked_over(&path).await;
    let mut stream = one.link.open().await.unwrap();
    let suspected = (one.link.health(), other.link.health());
    let sending = tokio::spawn(async move {
        let chunk = vec![7; 64 * 1024];
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            stream.write_all(&chunk).await.unwrap();
        }
        close(&mut stream).await;
        stream
    });
    let mut accepted = other.accepted().await;
    let received = read_all(&mut accepted).await.len();
    let _stream = soon(sending).await.unwrap();
    println!("{} MiB", received >> 20);
    assert!(!suspected.0.has_changed().unwrap() && !suspected.1.has_changed().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_stays_dead_is_given_up_and_its_socket_closed() {
    let path = Path::new(Duration::from_millis(1)).await;
    let (one, other) = linked_over(&path).await;
    path.cut(true, true);
    let patience = IDLE_TIMEOUT + PATIENCE;
    tokio::time::timeout(patience, one.link.gone()).await.unwrap();
    assert_eq!(one.link.reason(), "nothing was heard for 15 s");
    one.ended().await;
    other.ended().await;
}
