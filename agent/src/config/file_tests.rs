use super::*;
use proptest::prelude::*;

#[test]
fn a_fresh_file_says_what_no_file_says() {
    assert_eq!(Settings::parse(TEMPLATE).unwrap(), Settings::default());
    assert_eq!(
        Settings::default().rules().unwrap(),
        Rules { hours: Settings::default().hours().unwrap(), ..Rules::default() }
    );
    let all = toml::to_string(&Settings::default()).unwrap();
    let fresh: toml::Table = TEMPLATE.parse().unwrap();
    assert_eq!(all.parse::<toml::Table>().unwrap(), fresh, "every key stands in the template");
}

#[test]
fn errors_name_field_and_remedy() {
    for (text, words) in [
        (
            "[availability]\nidle_after = \"3 minits\"",
            "availability.idle_after: \"3 minits\" must be a duration such as",
        ),
        ("[availability]\nother_programs = \"lots\"", "availability.other_programs: \"lots\" must be 1% to 100%"),
        ("[availability]\nhours = [\"nights\"]", "availability.hours: \"nights\" must be days, hours, or both"),
        ("[availability]\ntime_zone = \"Mars\"", "availability.time_zone: "),
        (
            "[availability]\ntemperature_limit = 900.0",
            "availability.temperature_limit: 900 must be 30 to 120 (°C), or 0",
        ),
        ("[availability]\ngrace = \"5m\"", "availability.grace: at most 60s"),
        ("[availability]\nexcluded_programs = [\"/bin/game\"]", "availability.excluded_programs: names as"),
        ("[limits]\npower = -1.0", "limits.power: -1 must be 1 to 5000 (watts), or 0"),
        ("[limits]\nmemory_busy = \"lots\"", "limits.memory_busy: "),
        ("[limits]\nattempts = 0", "limits.attempts: must be 1 to 256"),
        ("[local]\npage = \"0.0.0.0:80\"", "local.page: 0.0.0.0:80 is not loopback"),
        ("price_per_hour = \"free\"", "price_per_hour: "),
        ("\n[availability]\nidel_after = \"3m\"", "line 3 (idel_after = \"3m\"): unknown field `idel_after`"),
        ("[availability]\non_battery = \"yes\"", "line 2 (on_battery = \"yes\"): invalid type"),
        ("[availability", "line 1"),
    ] {
        let error = Settings::parse(text).unwrap_err();
        assert!(error.starts_with(words), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_change_wins_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, "[availability]\nidle_after = \"7m\"\non_battery = true").unwrap();
    let read = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|text| text.to_string()).collect();
        Settings::read(Some(&path), true, &set)
    };
    let settings =
        read(&["availability.idle_after=5s", "availability.hours=[\"22:00-23:00\"]", "limits.threads=2"]).unwrap();
    assert_eq!((settings.availability.idle_after.as_str(), settings.availability.on_battery), ("5s", true));
    assert_eq!((settings.limits.threads, settings.availability.hours.len()), (2, 1));
    for (change, words) in [
        ("availability.idle_after=soon", "--set \"availability.idle_after=soon\": availability.idle_after: "),
        ("nope", "--set \"nope\": must be KEY=VALUE"),
        ("availability.nope=1", "--set \"availability.nope=1\": unknown field `nope`"),
        ("limits.threads=few", "--set \"limits.threads=few\": invalid type"),
    ] {
        let error = read(&[change]).unwrap_err();
        assert!(error.starts_with(words), "{error}");
    }
    let gone = folder.path().join("gone.toml");
    assert!(Settings::read(Some(&gone), true, &[]).unwrap_err().contains("config init"));
    assert_eq!(Settings::read(Some(&gone), false, &[]).unwrap(), Settings::default());
}

#[test]
fn denied_is_denied_whatever_is_allowed() {
    let accept = |models: &[&str], deny: &[&str], deny_tenants: &[&str]| {
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Accept { models: list(models), deny_models: list(deny), deny_tenants: list(deny_tenants), ..Accept::default() }
    };
    assert_eq!(Accept::default().refuses("a/m"), None);
    assert_eq!(Accept::default().refuses(""), None);
    let error = accept(&["*"], &["*/bad*"], &[]).refuses("a/bad-model").unwrap();
    assert_eq!(error, "NotAllowed: the owner of this machine does not run model \"a/bad-model\"");
    assert!(accept(&["a/*"], &[], &[]).refuses("b/m").is_some());
    assert!(accept(&["*"], &[], &["b"]).refuses("b/m").unwrap().contains("tenant \"b\""));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = Settings::parse(&text);
        let _ = Settings::default().with(&text);
    }
}
