//! Meetings of threads that behave like processes on one or several hosts.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use servelab_core::shard::{OffsetMethod, Shard};

use super::*;

fn meeting(index: u32, count: u32) -> Meeting {
    Meeting::new(Shard { index, count }, "same".to_owned(), Duration::from_secs(20), None)
}

fn impatient(mut meeting: Meeting) -> Meeting {
    meeting.patience = Duration::from_millis(300);
    meeting
}

/// On a host of its own whose clock began `shift_ns` earlier.
fn elsewhere(mut meeting: Meeting, shift_ns: i64) -> Meeting {
    meeting.host = HostIdentity { name: "other".to_owned(), boot_id: format!("boot {shift_ns}") };
    meeting.clock_shift_ns = shift_ns;
    meeting
}

/// Both meetings of every shard, as a load has them.
fn all(place: &BarrierPlace, meetings: Vec<Meeting>) -> Vec<Result<Agreed, BarrierError>> {
    let both = |meeting: &Meeting| {
        gather(place, meeting, &|| false)?;
        meet(place, meeting, &|| false)
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = meetings.iter().map(|meeting| scope.spawn(move || both(meeting))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

fn folder(path: &Path) -> BarrierPlace {
    BarrierPlace::Folder(path.to_owned())
}

/// A port that was free a moment ago.
fn tcp() -> BarrierPlace {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("tcp://:{port}").parse().unwrap()
}

fn scratch(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("servelab-barrier-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn places() {
    assert_eq!("tcp://node1:900".parse::<BarrierPlace>().unwrap(), BarrierPlace::Tcp("node1:900".to_owned()));
    assert_eq!("tcp://:900".parse::<BarrierPlace>().unwrap(), BarrierPlace::Tcp("127.0.0.1:900".to_owned()));
    assert_eq!("tcp://[::1]:900".parse::<BarrierPlace>().unwrap(), BarrierPlace::Tcp("[::1]:900".to_owned()));
    assert_eq!("/lustre/x".parse::<BarrierPlace>().unwrap(), folder(Path::new("/lustre/x")));
    for wrong in ["", "tcp://node1", "tcp://node1:port", "http://x:1"] {
        assert!(wrong.parse::<BarrierPlace>().is_err(), "{wrong}");
    }
}

#[test]
fn one_host_agrees_on_one_instant() {
    let path = scratch("one-host");
    for place in [folder(&path), tcp(), folder(&path)] {
        let agreed: Vec<Agreed> = all(&place, (0..4).map(|index| meeting(index, 4)).collect())
            .into_iter()
            .map(|agreed| agreed.unwrap())
            .collect();
        assert!(agreed.iter().all(|other| *other == agreed[0]), "{place:?}: {agreed:?}");
        assert_eq!(agreed[0].offset.method, OffsetMethod::SameHost);
        // A single process needs nobody.
        let alone = all(&place, vec![meeting(0, 1)]);
        assert!(alone[0].is_ok(), "{alone:?}");
    }
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn clocks_of_two_hosts_are_compared() {
    let shift = 123_456_789_000;
    let outcome = all(&tcp(), vec![meeting(0, 2), elsewhere(meeting(1, 2), shift)]);
    let agreed: Vec<&Agreed> = outcome.iter().map(|agreed| agreed.as_ref().unwrap()).collect();
    let offset = agreed[1].offset;
    assert_eq!(offset.method, OffsetMethod::PingPong);
    let uncertainty = offset.uncertainty_ns.unwrap();
    assert!((offset.offset_ns + shift).abs() <= uncertainty, "{offset:?}");
    assert!(uncertainty < 5_000_000, "{offset:?}");
    let difference = agreed[1].start_monotonic_ns - shift - agreed[0].start_monotonic_ns;
    assert!(difference.abs() <= uncertainty, "{difference} ns apart, {offset:?}");

    let path = scratch("two-hosts");
    let outcome = all(&folder(&path), vec![meeting(0, 2), elsewhere(meeting(1, 2), shift)]);
    let agreed: Vec<&Agreed> = outcome.iter().map(|agreed| agreed.as_ref().unwrap()).collect();
    assert_eq!((agreed[1].offset.method, agreed[1].offset.uncertainty_ns), (OffsetMethod::WallClock, None));
    // One machine, so the wall clock is one; the two readings of two clocks are a moment apart.
    assert!((agreed[1].offset.offset_ns + shift).abs() < 50_000_000, "{agreed:?}");
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn those_who_are_missing_are_named() {
    let path = scratch("missing");
    for place in [folder(&path), tcp()] {
        let outcome = all(&place, vec![impatient(meeting(0, 4)), meeting(2, 4)]);
        let words: Vec<String> = outcome.iter().map(|o| o.as_ref().unwrap_err().to_string()).collect();
        assert!(words.iter().all(|words| words.contains("of 4, shards 1, 3 are not there")), "{place:?}: {words:?}");
        let alone = meet(&place, &impatient(meeting(1, 2)), &|| false).unwrap_err().to_string();
        assert!(alone.contains("shard 0 was not reached"), "{alone}");
        let cancelled = meet(&place, &meeting(0, 2), &|| true).unwrap_err();
        assert!(matches!(cancelled, BarrierError::Cancelled));
    }
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn another_load_is_refused() {
    let path = scratch("stranger");
    for place in [folder(&path), tcp()] {
        let mut other = meeting(1, 2);
        other.fingerprint = "other".to_owned();
        let outcome = all(&place, vec![meeting(0, 2), other]);
        let words: Vec<String> = outcome.iter().map(|o| o.as_ref().unwrap_err().to_string()).collect();
        assert!(words.iter().all(|words| words.contains("other arguments")), "{place:?}: {words:?}");
        let outcome = all(&place, vec![meeting(0, 2), meeting(1, 3)]);
        assert!(outcome[0].as_ref().unwrap_err().to_string().contains("was started as 1/3"), "{outcome:?}");
        // What the failed meetings left does not stand in the way of the next.
        let outcome = all(&place, vec![meeting(0, 2), meeting(1, 2)]);
        assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
    }
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_wrong_token_is_turned_away_and_the_meeting_goes_on() {
    let place = tcp();
    let with = |mut meeting: Meeting, token: &str| {
        meeting.token = Some(token.to_owned());
        meeting
    };
    let outcome = std::thread::scope(|scope| {
        let first = scope.spawn(|| meet(&place, &with(meeting(0, 2), "right"), &|| false));
        let wrong = meet(&place, &with(meeting(1, 2), "wrong"), &|| false);
        let none = meet(&place, &meeting(1, 2), &|| false);
        let right = meet(&place, &with(meeting(1, 2), "right"), &|| false);
        [wrong, none, right, first.join().unwrap()]
    });
    for refused in &outcome[..2] {
        assert!(refused.as_ref().unwrap_err().to_string().contains("the token is wrong"), "{refused:?}");
    }
    assert!(outcome[2].is_ok() && outcome[3].is_ok(), "{outcome:?}");
}

#[test]
fn noise_on_the_port_disturbs_nobody() {
    let place = tcp();
    let BarrierPlace::Tcp(address) = &place else { panic!("tcp") };
    let outcome = std::thread::scope(|scope| {
        let first = scope.spawn(|| meet(&place, &meeting(0, 2), &|| false));
        let deadline = Instant::now() + Duration::from_secs(10);
        for noise in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"{\"hello\":{}}\n", b"\xff\xfe\n", &[b'x'; 40_000]] {
            let mut stream = loop {
                match TcpStream::connect(address) {
                    Ok(stream) => break stream,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
            };
            let mut greeting = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut greeting).unwrap();
            let _ = stream.write_all(noise);
        }
        let second = meet(&place, &meeting(1, 2), &|| false);
        [first.join().unwrap(), second]
    });
    assert!(outcome.iter().all(Result::is_ok), "{outcome:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_message(&mut bytes.as_slice());
    }
}
