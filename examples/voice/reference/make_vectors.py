#!/usr/bin/env python3
"""Makes test vectors of the segment algorithm with Silero's own code: make_vectors.py OUT_FOLDER.

Each file: {"samples", "sampleRate", "parameters", "probabilities", "segments"}. `parameters` are the codec's options by
the API's names, as text; what is not there is unset. A probability is the shortest decimal that reads back as the same
float32; `segments` come from the float32 values, widened to float64.
"""
import json
import os
import random
import sys

import numpy
import torch
from silero_vad import get_speech_timestamps, load_silero_vad
from silero_vad.utils_vad import get_speech_timestamps_from_probs

from reference import read_wav

WINDOW = 512
DEFAULTS = {
    "threshold": "0.5",
    "minSpeechMilliseconds": "250",
    "minSilenceMilliseconds": "100",
    "speechPadMilliseconds": "30",
}


def arguments(parameters: dict) -> dict:
    return {
        "threshold": float(parameters["threshold"]),
        "neg_threshold": float(parameters["negThreshold"]) if "negThreshold" in parameters else None,
        "min_speech_duration_ms": int(parameters["minSpeechMilliseconds"]),
        "min_silence_duration_ms": int(parameters["minSilenceMilliseconds"]),
        "speech_pad_ms": int(parameters["speechPadMilliseconds"]),
        "max_speech_duration_s": float(parameters.get("maxSpeechSeconds", "inf")),
    }


def write(folder: str, name: str, samples: int, parameters: dict, probabilities: list[float], segments: list[dict]) -> None:
    decimals = [str(numpy.float32(p)) for p in probabilities]
    assert [float(numpy.float32(d)) for d in decimals] == probabilities, name
    head = json.dumps({"samples": samples, "sampleRate": 16000, "parameters": parameters})[1:-1]
    with open(os.path.join(folder, name), "w") as f:
        f.write(f'{{{head},\n"probabilities": [{", ".join(decimals)}],\n"segments": {json.dumps(segments)}}}\n')


def main(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    model = load_silero_vad()
    speech = read_wav(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "speech.wav"))

    def from_audio(name: str, audio: torch.Tensor, **changed) -> None:
        parameters = DEFAULTS | changed
        segments = get_speech_timestamps(audio, model, **arguments(parameters))
        # The agent runs the whole audio at once; both ways must give the same numbers, bit for bit.
        with torch.no_grad():
            whole = model.audio_forward(audio.unsqueeze(0), 16000)[0].tolist()
        assert segments == get_speech_timestamps_from_probs(whole, audio_length_samples=len(audio), **arguments(parameters)), name
        write(folder, name, len(audio), parameters, whole, segments)

    def from_probabilities(name: str, probabilities: list[float], samples: int, **changed) -> None:
        parameters = DEFAULTS | changed
        exact = [float(numpy.float32(p)) for p in probabilities]
        segments = get_speech_timestamps_from_probs(exact, audio_length_samples=samples, **arguments(parameters))
        write(folder, name, samples, parameters, exact, segments)

    torch.manual_seed(7)
    from_audio("speech.json", speech)
    from_audio("no-speech.json", torch.randn(32100) * 0.002)
    # Ends in the middle of a word and of a window: the last window is padded, the last segment is cut at the end.
    from_audio("speech-to-the-end.json", speech[20000:84300])
    # Every short pause splits, and neighbours' padding meets in the middle of the pause.
    from_audio("short-pauses.json", speech, threshold="0.7", negThreshold="0.6", minSilenceMilliseconds="32", speechPadMilliseconds="100")
    # Cuts at the longest pause so far, and where there was none, at the limit.
    from_audio("longest-speech.json", speech, maxSpeechSeconds="1", minSilenceMilliseconds="1000")

    # Not from audio: equality with the thresholds (0.35 as float32 is below 0.35), bursts just too short and just long
    # enough, speech from the first window on, a last segment too short, then a random walk.
    high, low = 0.99, 0.01
    edges = [high] * 8 + [low] * 5 + [high] * 7 + [low] * 5 + [0.5] * 9 + [0.35] * 4 + [0.5] + [0.36] * 12 + [0.35] * 5
    edges += [high] * 9 + [low] * 3 + [high] * 9 + [low] * 5
    walk = random.Random(3)
    at = 0.2
    for _ in range(200):
        at = walk.random() if walk.random() < 0.15 else min(1.0, max(0.0, at + walk.gauss(0, 0.1)))
        edges.append(at)
    edges += [low] * 4 + [high] * 5
    from_probabilities("edges.json", edges, (len(edges) - 1) * WINDOW + 37)


if __name__ == "__main__":
    main(sys.argv[1])
