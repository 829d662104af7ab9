//! Size and colours are judged whatever the codec: records of x265, SVT-AV1 and libvpx as `FFmpeg` 9 sends them.

use super::*;

/// `keyframe` begins the payload of every keyframe.
fn findings(codec: Codec, record: &str, keyframe: &str) -> Vec<Finding> {
    let mut doctor = Doctor::default();
    for picture in 0..100 {
        let is_key = picture % 25 == 0;
        let mut payload = if is_key { hex(keyframe) } else { Vec::new() };
        payload.resize(20_000, 0);
        let dts_us = picture * 40 * MS;
        let unit = AccessUnit {
            codec,
            track: 0,
            keyframe: is_key,
            disposable: false,
            discontinuity: false,
            dts_us,
            cts_us: 0,
            config: is_key.then(|| hex(record).into()),
            payload: payload.into(),
        };
        doctor.observe(&unit, dts_us, 0);
    }
    doctor.examine(&hd25(), 4 * S)
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let pairs = digits.map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

#[test]
fn size_and_colours_are_judged_whatever_the_codec() {
    // (codec, record, how a keyframe begins, what is said)
    for (codec, record, keyframe, sentences) in [
        (
            Codec::H265,
            "0102200000009000000000005df000fcfdfafa00000f01210001002e420101022000000300900000030000030\
             05da00280802d136595952930bc05a848804820000003002000000303c1",
            "",
            &["sends 1280x720, the show is 1920x1080", "sends HDR (PQ)"][..],
        ),
        (
            Codec::Av1,
            "81050c000a0f0200002d2a67fd9e017c0810104c20",
            "12000a0f0200002d2a67fd9e017c0810104c20",
            &["sends 1280x720", "sends full-range (PC) colours"],
        ),
        // Without the sequence header in the record, the keyframe has it.
        (
            Codec::Av1,
            "81050c00",
            "12000a0f0200002d2a67fd9e017c0810104c20",
            &["sends 1280x720", "sends full-range (PC) colours"],
        ),
        (
            Codec::Vp9,
            "01000000001f830202020000",
            "824983420027f01670",
            &["sends 640x360", "sends full-range (PC) colours"],
        ),
    ] {
        let record = record.replace(char::is_whitespace, "");
        let found = findings(codec, &record, keyframe);
        for sentence in sentences {
            assert!(
                found.iter().any(|finding| finding.text.contains(sentence)),
                "{codec:?} {sentence:?}: {found:#?}"
            );
        }
    }
}
