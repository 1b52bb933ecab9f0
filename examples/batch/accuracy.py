#!/usr/bin/env python3
"""Reads `nightshift results` of the batch and says how many of its answers are what people wrote."""
import json
import pathlib
import sys

FIRST_ROW = 1397
data = pathlib.Path(__file__).parent.parent / "digits/data/digits.csv"
written = [line.rsplit(",", 1)[1] for line in data.read_text().splitlines()]
answers = {result["index"]: result["output"][0]["label"] for result in map(json.loads, sys.stdin)}
right = sum(written[FIRST_ROW + index] == label for index, label in answers.items())
print(f"{right} of {len(answers)} right, {100 * right / max(1, len(answers)):.2f} %")
