"""Does it fit? One client of a real FEDn network, FEDn's process and ours, in one memory-limited control group.

5,000 CIFAR-sized images on disk, batches of 32, VGG16 at full width. All 14 layers in 640 MB; 4 layers in 400 MB,
for draws whose lowest layer stands low, in the middle and high (what is below it keeps no activations); and the same
draws in 450 MB. Needs root for the control group.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from limited import run_limited
from size import options

from fedn_partial.data.shard import Shard
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import parse

ALL = [*(f"conv{index}" for index in range(13)), "dense"]
CASES = (
    (ALL, 640),
    *(
        (names, limit)
        for limit in (400, 450)
        for names in (
            ["conv0", "conv6", "conv12", "dense"],
            ["conv1", "conv2", "conv6", "dense"],
            ["conv4", "conv10", "conv12", "dense"],
        )
    ),
)


def images(count: int):
    random = np.random.default_rng(1)
    return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, count).astype(np.int32)


def main() -> None:
    smallest = options(__doc__).parse_args().smallest
    cases, width = (CASES[:1], 0.0625) if smallest else (CASES, 1)
    shard = Shard(*images(64 if smallest else 5000), *images(256), tuple("abcdefghij"))
    print("\n### Memory: FEDn's client and ours in one control group\n")
    print("| asked for | limit, MB | trained | peak, MB | predicted, MB | measured by the monitor, MB | killed |")
    print("|---|---|---|---|---|---|---|")
    for names, limit in cases:
        raw = {
            "name": "limits",
            "model": {"name": "vgg16", "width": width},
            "selection": {"selector": "fixed", "names": names},
            "session": {"rounds": 1, "round_timeout": 600},
        }
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            outcome = run_limited(Path(folder), parse(Case, raw, "limits"), shard, limit * 10**6)
        (row,) = outcome.rows
        asked = "all 14" if names is ALL else ", ".join(names)
        trained = "all" if row["layers"] == names else ", ".join(row["layers"]) or row["outcome"]
        predicted, measured = (row[key] or float("nan") for key in ("predicted_memory_mb", "memory_peak_mb"))
        figures = " | ".join(f"{value:.0f}" for value in (outcome.peak / 1e6, predicted, measured, outcome.kills))
        print(f"| {asked} | {limit} | {trained} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
