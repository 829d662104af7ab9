#!/usr/bin/env python3
"""Publishes two seconds of a pattern and a tone with PyAV, and writes the same packets to a file.

pyav_push.py URL FILE VIDEO_CODEC AUDIO_CODEC: (libx264, libx265, libsvtav1, libvpx-vp9) (aac, libopus, flac)
"""
import sys
from fractions import Fraction

import av

url, file, video_codec, audio_codec = sys.argv[1:]
FRAMES, RATE, SOUND_RATE = 60, 30, 48_000

tee = av.open(f"[f=flv:flvflags=no_duration_filesize]{file}|[f=flv]{url}", "w", format="tee")
video = tee.add_stream(video_codec, rate=RATE)
video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
video.options = {
    "libx264": {"preset": "ultrafast", "bf": "2", "g": "30"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=30"},
    "libsvtav1": {"preset": "12", "g": "30"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "g": "30"},
}[video_codec]
audio = tee.add_stream(audio_codec, rate=SOUND_RATE, layout="stereo")
for stream in (video, audio):
    # The tee muxer does not say what its outputs want.
    stream.codec_context.flags |= av.codec.context.Flags.global_header

graph = av.filter.Graph()
source = graph.add("testsrc2", f"s=320x180:r={RATE}")
sink = graph.add("buffersink")
source.link_to(sink)
graph.configure()
samples = 960 if "opus" in audio_codec else 1024
sent = 0
for number in range(FRAMES):
    frame = graph.vpull().reformat(format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, RATE)
    for packet in video.encode(frame):
        tee.mux(packet)
    while sent * samples * RATE < (number + 1) * SOUND_RATE:
        tone = av.AudioFrame(format="s16", layout="stereo", samples=samples)
        tone.planes[0].update(bytes((n * sent) % 251 for n in range(samples * 4)))
        tone.sample_rate, tone.pts, tone.time_base = SOUND_RATE, sent * samples, Fraction(1, SOUND_RATE)
        for packet in audio.encode(tone):
            tee.mux(packet)
        sent += 1
for stream in (video, audio):
    for packet in stream.encode():
        tee.mux(packet)
tee.close()
