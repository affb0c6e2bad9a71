use super::*;

#[test]
fn ramps_round_trip_through_text() {
    for text in ["1..50/60s", "0..2.5/0.5s", "50..1/10s", "1x30s", "1x30s,0x5s,7.5x30s"] {
        assert_eq!(text.parse::<Ramp>().unwrap().to_string(), text);
    }
    assert_eq!("1..5/60".parse::<Ramp>().unwrap(), "1..5/60s".parse::<Ramp>().unwrap());
}

#[test]
fn ramps_that_make_no_sense_say_why() {
    for (text, expected) in [
        ("1..50", "`1..50` has no `/SECONDS`"),
        ("1..x/60s", "`x` is no number"),
        ("5", "the step `5` has no `x`"),
        ("1x30s,", "the step `` has no `x`"),
        ("5..0/60s", "`linear.to` is 0; the last rate, which is held, must be greater than 0"),
        ("-1..5/60s", "`linear.from` is -1; a rate per second must be 0 or more"),
        ("1..NaN/60s", "`linear.to` is NaN"),
        ("1..5/0s", "`linear.over_s` is 0"),
        ("1..5/1e300s", "at most 8.64e6"),
        ("1x30s,0x5s", "`steps.1.rate` is 0; the last rate"),
    ] {
        let error = text.parse::<Ramp>().unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(error.ends_with("(`1..50/60s`) or RATExSECONDS,… (`1x30s,5x30s`)"), "{error}");
    }
    assert!(Ramp::Steps(Vec::new()).validate().unwrap_err().to_string().contains("is empty"));
}

#[test]
fn expected_arrivals_are_the_area_under_the_rate() {
    let check = |text: &str, seconds: f64, expected: f64| {
        let got = text.parse::<Ramp>().unwrap().expected_arrivals(seconds);
        assert!((got - expected).abs() < 1e-9, "{text} after {seconds} s: {got}");
    };
    check("0..10/10s", 10.0, 50.0);
    check("0..10/10s", 5.0, 12.5);
    check("0..10/10s", 12.0, 70.0);
    check("1x10s,0x5s,4x2s", 15.0, 10.0);
    check("1x10s,0x5s,4x2s", 20.0, 30.0);
    let ramp: Ramp = "1x10s,0x5s,4x2s".parse().unwrap();
    assert!((ramp.duration_s() - 17.0).abs() < 1e-9);
    assert!((ramp.peak_per_s() - 4.0).abs() < 1e-9);
}

#[test]
fn pauses_and_starts() {
    for text in ["2s", "0s", "exp:0.5s"] {
        assert_eq!(text.parse::<Think>().unwrap().to_string(), text);
    }
    for text in ["", "x", "-1", "exp:0", "exp:nan", "gauss:2", "inf"] {
        text.parse::<Think>().unwrap_err();
    }
    for text in ["spread", "burst", "spread:2.5s"] {
        assert_eq!(text.parse::<StartMode>().unwrap().to_string(), text);
    }
    for text in ["", "herd", "spread:", "spread:0", "burst:2"] {
        text.parse::<StartMode>().unwrap_err();
    }
}

#[test]
fn pauses_in_files() {
    let read = |text: &str| serde_json::from_str::<Think>(text).map_err(|error| error.to_string());
    assert_eq!(read("2"), Ok(Think::Constant(2.0)));
    assert_eq!(read("0.5"), Ok(Think::Constant(0.5)));
    for think in [Think::Constant(2.0), Think::Exponential(0.5)] {
        assert_eq!(read(&serde_json::to_string(&think).unwrap()), Ok(think));
    }
    for text in ["\"2s\"", "{}", "{\"gauss\": 1}", "{\"constant\": 1, \"exponential\": 1}"] {
        read(text).unwrap_err();
    }
}
