"""Makes folders of runs and profiles for tests of the report."""

import json
import math
import random
from pathlib import Path

from fedn_partial.client.records.outcome import describe, read_outcome

VGG16 = [*(f"conv{number}" for number in range(13)), "dense"]


def write_run(folder: Path, rows: list[dict], *, name="case", layers=None, final=None, **settings) -> Path:
    """Write a run's two files; a row's `fedn_round` is its `round` unless it says otherwise."""
    folder.mkdir(parents=True)
    session = {
        "name": name,
        "started": "2026-11-21T10:00:00+0000",
        "seed": 1,
        "settings": {"name": name, "model": {"name": "vgg16"}, **settings},
        "versions": {"python": "3.11.7"},
        "machine": "Linux x86_64",
        "final": {"problem": None} if final is None else final,
    }
    if layers:
        session["layers"] = layers
    (folder / "session.json").write_text(json.dumps(session))
    lines = (json.dumps({"fedn_round": str(row.get("round")), "outcome": "merged", **row}) + "\n" for row in rows)
    (folder / "rounds.jsonl").write_text("".join(lines))
    return folder


def write_profile(folder: Path, cells: list[dict], *, name="profile", refused=None, examples=640, **settings) -> Path:
    """Write a profile.json."""
    folder.mkdir(parents=True)
    content = {
        "kind": "profile",
        "name": name,
        "started": "2026-11-21T10:00:00+0000",
        "seed": 1,
        "settings": {"name": name, **settings},
        "versions": {},
        "machine": {"text": "Linux x86_64, 2 processors, 8.0 GB of memory"},
        "examples": examples,
        "rounds": 2,
        "cells": cells,
        "refused": refused or {},
    }
    (folder / "profile.json").write_text(json.dumps(content))
    return folder


def made_up_rows(rounds: int, clients: int, seed: int = 1) -> list[dict]:
    """Return rows as of VGG16 with 4 of 14 layers after 2 full rounds; some clients stay away, some refuse."""
    draw = random.Random(seed)
    rows = []
    for number in range(1, rounds + 1):
        for client in range(1, clients + 1):
            row = {"round": number, "client": f"client-{client}", "warmup": number <= 2, "num_examples": 500}
            chance = draw.random()
            if chance < 0.02:
                continue
            if chance < 0.03:
                need = draw.uniform(310, 400)
                why = f"refused: none of the 4 layers fits: memory {need:.1f} MB predicted, 300.0 MB allowed"
                rows.append({**row, "outcome": why})
                continue
            layers = VGG16 if number <= 2 else [*draw.sample(VGG16[:-1], 3), "dense"]
            share = len(layers) / 14
            rows.append(
                row
                | {
                    "layers": layers,
                    "trained_params": 926298 if share == 1 else int(926298 * share * draw.uniform(0.5, 1.3)),
                    "total_params": 926298,
                    "upload_bytes": int(3705192 * share),
                    "download_bytes": 6880000,
                    "train_seconds": 1.5 + 2.5 * share,
                    "round_seconds": 3.5 + 4 * share + draw.random(),
                    "phases": {"load": 0.2, "import": 0.0, "trace": 1.6, "train": 1.5 + 2.5 * share, "encode": 0.1},
                    "cpu_percent": 50 + 10 * draw.random(),
                    "rss_peak_mb": 350 + 50 * share,
                    "memory_peak_mb": 360 + 60 * share + 9 * draw.random(),
                    "train_loss": 2.3 * math.exp(-number / 20),
                    "accuracy": min(0.99, 1 - 0.9 * math.exp(-number / 20)),
                    "loss": 2.3 * math.exp(-number / 25),
                    "test_examples": 120,
                }
            )
    return rows


def outcome_of(row: dict) -> str:
    """Return the outcome of a row of rounds.jsonl with its reason."""
    return describe(*read_outcome(row["outcome"], row["reason"]))
