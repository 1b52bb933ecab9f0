//! Stories, and what must hold whatever is seen.

use super::super::hours::Hours;
use super::*;
use jiff::tz::TimeZone;
use proptest::prelude::*;

fn at(seconds: u64) -> Now {
    let wall = Timestamp::from_second(1_795_000_000 + i64::try_from(seconds).unwrap()).unwrap();
    Now { running: Duration::from_secs(seconds), wall }
}

fn reason(verdict: &Verdict) -> Option<Cause> {
    match verdict {
        Verdict::Work => None,
        Verdict::Pause(pause) => Some(pause.reason),
    }
}

/// Feeds one signal after the other, each `every` seconds later.
fn story(rules: &Rules, every: u64, signals: &[Signals]) -> Vec<Option<Cause>> {
    let mut seen = Seen::default();
    let mut told = Vec::new();
    for (step, signals) in signals.iter().enumerate() {
        let (verdict, next) = decide(signals, rules, Manual::No, &seen, at(every * step as u64));
        seen = next;
        told.push(reason(&verdict));
    }
    told
}

fn idle(seconds: f64) -> Signals {
    Signals { idle_seconds: Some(seconds), ..Signals::default() }
}
fn busy(percent: f32) -> Signals {
    Signals { other_programs_percent: Some(percent), ..idle(1000.0) }
}

#[test]
fn a_touch_stops_at_once_and_three_minutes_without_one_begin() {
    let told = story(&Rules::default(), 1, &[idle(179.0), idle(180.0), idle(181.0), idle(0.1), idle(1.1)]);
    let owner = Some(Cause::OwnerActive);
    assert_eq!(told, [owner, None, None, owner, owner]);
}

#[test]
fn load_must_stay_away_before_work_begins_again() {
    let rules = Rules::default();
    let told = story(&rules, 10, &[busy(20.0), busy(26.0), busy(24.0), busy(1.0), busy(1.0), busy(1.0), busy(1.0)]);
    let other = Some(Cause::OtherPrograms);
    // 24 % is not clearly under 25 %, so the 30 s count from there.
    assert_eq!(told, [None, other, other, other, other, None, None]);
}

#[test]
fn without_a_source_nothing_is_held_up() {
    assert_eq!(story(&Rules::default(), 1, &[Signals::default()]), [None]);
}

#[test]
fn the_most_important_reason_is_told() {
    let signals = Signals {
        idle_seconds: Some(0.0),
        other_programs_percent: Some(90.0),
        on_battery: Some(true),
        celsius: Some(99.0),
        watts: Some(99.0),
        excluded_program: Some("game".into()),
    };
    let mut rules = Rules { power: Some(50.0), excluded: vec!["game".into()], ..Rules::default() };
    let mut told = Vec::new();
    let switch_off: [fn(&mut Rules); 6] = [
        |rules| rules.on_battery = true,
        |rules| rules.temperature = None,
        |rules| rules.power = None,
        |_| {},
        |rules| rules.idle_after = Duration::ZERO,
        |rules| rules.other_programs = None,
    ];
    let mut signals = signals;
    for switch in switch_off {
        let (verdict, _) = decide(&signals, &rules, Manual::No, &Seen::default(), at(0));
        told.push(reason(&verdict).unwrap());
        switch(&mut rules);
        if told.last() == Some(&Cause::ExcludedProgram) {
            signals.excluded_program = None;
        }
    }
    assert_eq!(told, Cause::ALL[2..]);
    assert_eq!(decide(&signals, &rules, Manual::No, &Seen::default(), at(0)).0, Verdict::Work);
    let manual = decide(&signals, &rules, Manual::Until(at(5).wall), &Seen::default(), at(4)).0;
    assert_eq!(reason(&manual), Some(Cause::Paused));
    assert_eq!(decide(&signals, &rules, Manual::Until(at(5).wall), &Seen::default(), at(5)).0, Verdict::Work);
    rules.hours = Hours::new(TimeZone::UTC, Vec::new(), vec!["00:00-24:00".parse().unwrap()]);
    let closed = decide(&signals, &rules, Manual::No, &Seen::default(), at(4)).0;
    assert_eq!(reason(&closed), Some(Cause::OutsideWindow));
}

fn any_signals() -> impl Strategy<Value = Signals> {
    let idle = proptest::option::of(0.0..400.0f64);
    let percent = proptest::option::of(0.0..60.0f32);
    let battery = proptest::option::of(any::<bool>());
    let celsius = proptest::option::of(60.0..110.0f32);
    let program = proptest::option::weighted(0.2, Just("game".to_string()));
    (idle, percent, battery, celsius, proptest::option::of(10.0..90.0f32), program).prop_map(
        |(idle_seconds, other_programs_percent, on_battery, celsius, watts, excluded_program)| Signals {
            idle_seconds,
            other_programs_percent,
            on_battery,
            celsius,
            watts,
            excluded_program,
        },
    )
}

/// A rule that is broken right now, looked at plainly and without memory.
fn broken(signals: &Signals, rules: &Rules) -> bool {
    let more = |value: Option<f32>, limit: Option<f32>| value.zip(limit).is_some_and(|(value, limit)| value > limit);
    let own = signals.idle_seconds.is_some_and(|idle| idle < rules.idle_after.as_secs_f64())
        || (signals.on_battery == Some(true) && !rules.on_battery)
        || signals.excluded_program.is_some()
        || more(signals.other_programs_percent, rules.other_programs);
    more(signals.celsius, rules.temperature) || more(signals.watts, rules.power) || (own && rules.when == When::Idle)
}

/// What breaks no rule, not even clearly.
fn calm() -> Signals {
    Signals {
        idle_seconds: Some(1e6),
        other_programs_percent: Some(0.0),
        on_battery: Some(false),
        celsius: Some(30.0),
        watts: Some(1.0),
        excluded_program: None,
    }
}

proptest! {
    #[test]
    fn never_work_against_a_rule_nor_soon_after(
        steps in proptest::collection::vec((any_signals(), 0u64..40), 1..40), always: bool, battery: bool,
    ) {
        let when = if always { When::Always } else { When::Idle };
        let rules = Rules { when, on_battery: battery, power: Some(60.0), ..Rules::default() };
        let (mut seen, mut now, mut last_break) = (Seen::default(), 100, None);
        for (signals, later) in steps {
            now += later;
            let (verdict, next) = decide(&signals, &rules, Manual::No, &seen, at(now));
            if broken(&signals, &rules) {
                prop_assert_ne!(&verdict, &Verdict::Work);
                let input_alone = Signals { idle_seconds: Some(1e6), ..signals.clone() };
                if broken(&input_alone, &rules) { last_break = Some(now) }
            } else if last_break.is_some_and(|at| now - at < 30) {
                prop_assert_ne!(&verdict, &Verdict::Work, "flapping");
            }
            seen = next;
        }
        // And it always comes back: one calm look, and one after `resume_after`.
        let (_, seen) = decide(&calm(), &rules, Manual::No, &seen, at(now));
        prop_assert_eq!(decide(&calm(), &rules, Manual::No, &seen, at(now + 31)).0, Verdict::Work);
    }

    #[test]
    fn more_idle_is_never_worse(signals in any_signals(), more in 0.0..1000.0f64) {
        let rules = Rules::default();
        let later = Signals { idle_seconds: signals.idle_seconds.map(|idle| idle + more), ..signals.clone() };
        let verdict = |signals: &Signals| decide(signals, &rules, Manual::No, &Seen::default(), at(0)).0;
        if verdict(&signals) == Verdict::Work {
            prop_assert_eq!(verdict(&later), Verdict::Work);
        }
    }

    #[test]
    fn a_dedicated_machine_never_looks_at_its_owner(signals in any_signals()) {
        let rules = Rules { when: When::Always, ..Rules::default() };
        let verdict = decide(&signals, &rules, Manual::No, &Seen::default(), at(0)).0;
        prop_assert!(matches!(reason(&verdict), None | Some(Cause::Hot)));
    }
}
