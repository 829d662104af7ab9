use proptest::prelude::*;

use super::*;

#[test]
fn every_key_takes_what_an_operator_types() {
    // (key, typed, as it is shown again)
    for (key, typed, shown) in [
        ("delay", "studio", "studio"),
        ("delay", "safe", "safe"),
        ("delay", "750", "750"),
        ("delay", " 750ms ", "750"),
        ("lag", "reconnect", "reconnect"),
        ("lag", "accept", "accept"),
        ("max_lag", "1200ms", "1200"),
        ("format", "auto", "auto"),
        ("format", "1080p25", "1080p25"),
        ("format", "1920x1080i50", "1080i50"),
        ("format", "1024x576p59.94", "1024x576p59.94"),
        ("decoder", "software", "software"),
        ("hold", "forever", "forever"),
        ("hold", "5m", "300s"),
        ("hold", "20", "20s"),
        ("hold", "500ms", "500ms"),
        ("hold", "3000ms", "3s"),
        ("slate", "studio", "studio"),
        ("slate", "clean", "clean"),
        ("slate", "card", "clean"),
        ("slate", "diagnostic", "diagnostic"),
        ("slate", "black", "black"),
        ("slate", "/media/card.png", "/media/card.png"),
        ("audio_trim_ms", "-40", "-40"),
        ("takeover", "never", "never"),
        ("track", "1", "1"),
        ("record", "true", "on"),
    ] {
        let mut settings = Settings::default();
        settings.set(key, typed).unwrap();
        assert_eq!(settings.get(key).as_deref(), Some(shown), "{key}={typed}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_value_and_what_would_be_right() {
    for (key, value, message) in [
        (
            "dealy",
            "fast",
            "unknown setting \"dealy\"; the settings of a line are delay, lag, max_lag, format, decoder, hold, \
             slate, audio_trim_ms, takeover, track, record",
        ),
        (
            "delay",
            "slow",
            "delay = \"slow\" is not studio, fast, normal, safe, rough, or 0 to 30000 milliseconds",
        ),
        (
            "delay",
            "30001",
            "delay = \"30001\" is not studio, fast, normal, safe, rough, or 0 to 30000 milliseconds",
        ),
        ("lag", "1200", "lag = \"1200\" is not reconnect or accept"),
        (
            "max_lag",
            "499",
            "max_lag = \"499\" is not 500 to 30000 milliseconds",
        ),
        (
            "decoder",
            "gpu",
            "decoder = \"gpu\" is not auto, software or hardware",
        ),
        (
            "format",
            "1080p26",
            "format = \"1080p26\" is not auto, or a size and a rate like 1080p25, 1080i50 or 1280x720p59.94",
        ),
        (
            "slate",
            "card.png",
            "slate = \"card.png\" is not studio, clean, diagnostic, black, or the absolute path of a PNG or JPEG",
        ),
        (
            "track",
            "256",
            "track = \"256\" is not a track number from 0 to 255",
        ),
    ] {
        let mut settings = Settings::default();
        let error = settings.set(key, value).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(
            settings,
            Settings::default(),
            "a refused value changes nothing"
        );
    }
}

#[test]
fn the_four_names_of_the_delay_are_milliseconds() {
    let studio = Delay::parse("normal").unwrap();
    for (text, ms) in [
        ("studio", 600),
        ("fast", 300),
        ("normal", 600),
        ("safe", 1500),
        ("rough", 3000),
        ("0", 0),
    ] {
        assert_eq!(LineDelay::parse(text).unwrap().ms(studio), ms, "{text}");
    }
}

proptest! {
    /// What is shown can be typed again, and arbitrary text never panics.
    #[test]
    fn values_survive_their_own_text(key in prop::sample::select(&KEYS[..]), value in "[a-z0-9./x-]{0,12}|.{0,20}") {
        let mut settings = Settings::default();
        if settings.set(key, &value).is_ok() {
            let shown = settings.get(key).unwrap();
            let mut again = Settings::default();
            again.set(key, &shown).unwrap();
            prop_assert_eq!(again, settings);
        }
    }
}
