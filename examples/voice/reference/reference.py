#!/usr/bin/env python3
"""Speech segments by Silero's own code: reference.py FILE.wav prints [{"start": SAMPLE, "end": SAMPLE}, …] as JSON.

The WAV is 16 kHz mono 16-bit PCM; a sample is its integer over 32768. Everything after that is silero-vad's.
"""
import json
import sys
import wave

import torch
from silero_vad import get_speech_timestamps, load_silero_vad


def read_wav(path: str) -> torch.Tensor:
    with wave.open(path) as w:
        form = (w.getframerate(), w.getnchannels(), w.getsampwidth())
        if form != (16000, 1, 2):
            sys.exit(f"{path}: need 16 kHz mono 16-bit PCM, got rate, channels, bytes = {form}")
        return torch.frombuffer(bytearray(w.readframes(w.getnframes())), dtype=torch.int16).to(torch.float32) / 32768


if __name__ == "__main__":
    print(json.dumps(get_speech_timestamps(read_wav(sys.argv[1]), load_silero_vad())))
