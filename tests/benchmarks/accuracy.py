"""Accuracy of the quickstart with each codec and each dtype of the global model, over three seeds, simulated."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
from size import options

from fedn_partial.client.simulation import simulate
from fedn_partial.client.simulation.workers import processors, workers
from fedn_partial.settings.case import load_case

QUICKSTART = Path(__file__).parents[2] / "configs/quickstart.yaml"
WAYS = {
    "float32": {},
    "float16": {"codec": "float16"},
    "int8": {"codec": "int8"},
    "float32, model float16": {"model_dtype": "float16"},
    "int8, model float16": {"codec": "int8", "model_dtype": "float16"},
}


def main() -> None:
    smallest = options(__doc__).parse_args().smallest
    case, seeds, ways = load_case(QUICKSTART), (1, 2, 3), WAYS
    if smallest:
        session = dataclasses.replace(case.session, rounds=1)
        case, seeds = dataclasses.replace(case, session=session, model={**case.model, "width": 0.0625}), (1,)
        ways = {name: WAYS[name] for name in ("int8, model float16",)}
    print(f"{'codec':24}" + "".join(f"  seed {number:<4}" for number in seeds) + "    mean  up MB  down MB")
    with workers(1 if smallest else processors()) as pool, tempfile.TemporaryDirectory() as folder:
        for way, changes in ways.items():
            finals = [
                simulate(
                    dataclasses.replace(case, seed=number, **changes),
                    Path(folder) / f"{way} {number}",
                    None,
                    pool,
                    print_line=lambda line: None,
                )
                for number in seeds
            ]
            accuracies = [final["accuracy"] for final in finals]
            up, down = (np.mean([final[key] for final in finals]) / 1e6 for key in ("upload_bytes", "download_bytes"))
            print(
                f"{way:24}"
                + "".join(f"  {accuracy:9.4f}" for accuracy in accuracies)
                + f"  {np.mean(accuracies):6.4f}  {up:5.1f}  {down:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
