#!/usr/bin/env python3
"""Makes ../speech.wav (espeak-ng sentences with pauses between them, 16 kHz mono 16-bit PCM) and, around it, ../audio.yaml.

Needs espeak-ng (1.51 made the committed file) and the standard library. Usage: make_speech.py SPEECH.wav AUDIO.yaml
"""
import array
import base64
import io
import math
import random
import subprocess
import sys
import wave

RATE = 16000
# (seconds of pause before it, sentence). Under
# 6.1 seconds in all: `kubectl apply` keeps a copy of the manifest in an annotation, and annotations end at 256 KiB.
SCRIPT = [
    (0.35, "Good evening."),
    (0.5, "The computers are idle."),
    (0.7, "Work begins."),
    (0.31, "Every job is small."),
]
TAIL_SECONDS = 0.35
NOISE = 12.0  # standard deviation in 16-bit steps: a quiet room, not digital silence


def espeak(sentence: str) -> tuple[list[float], int]:
    """One sentence, without the silence espeak-ng puts around it."""
    wav = subprocess.run(["espeak-ng", "-v", "en-gb", "-s", "170", "--stdout", sentence], check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(wav)) as w:
        assert w.getnchannels() == 1 and w.getsampwidth() == 2
        rate = w.getframerate()
        samples = array.array("h", wav[44:])  # espeak-ng streams: the header's length is not the real one
    loud = [i for i, s in enumerate(samples) if abs(s) > 100]
    return [float(s) for s in samples[loud[0] : loud[-1] + 1]], rate


def resample(samples: list[float], rate: int) -> list[float]:
    """Windowed sinc (Hann, 16 zero crossings a side), cut off below the lower of the two Nyquist frequencies."""
    cutoff, half = 0.95 * min(1.0, RATE / rate), 16
    out = []
    for n in range(int(len(samples) * RATE / rate)):
        at = n * rate / RATE
        total = 0.0
        for k in range(max(0, math.ceil(at - half / cutoff)), min(len(samples) - 1, math.floor(at + half / cutoff)) + 1):
            x = (k - at) * cutoff
            sinc = 1.0 if abs(x) < 1e-9 else math.sin(math.pi * x) / (math.pi * x)
            total += samples[k] * cutoff * sinc * (0.5 + 0.5 * math.cos(math.pi * x / half))
        out.append(total)
    return out


def manifest(wav: bytes) -> str:
    """What `kubectl create configmap voice-audio --from-file=speech.wav` makes."""
    return f"""# Made by reference/make_speech.py from speech.wav: a sound file in a manifest travels in binaryData.
apiVersion: v1
kind: ConfigMap
metadata:
  name: voice-audio
binaryData:
  speech.wav: {base64.b64encode(wav).decode()}
"""


def main(path: str, manifest_path: str) -> None:
    track: list[float] = []
    for pause, sentence in SCRIPT:
        track += [0.0] * int(pause * RATE)
        track += resample(*espeak(sentence))
    track += [0.0] * int(TAIL_SECONDS * RATE)
    noise = random.Random(20111)
    pcm = array.array("h", (max(-32768, min(32767, round(s + noise.gauss(0, NOISE)))) for s in track))
    if sys.byteorder == "big":
        pcm.byteswap()
    with wave.open(path, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(RATE)
        w.writeframes(pcm.tobytes())
    with open(path, "rb") as wav, open(manifest_path, "w") as out:
        out.write(manifest(wav.read()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
