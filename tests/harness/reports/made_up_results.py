"""Results of experiments that nobody ran: plausible curves, equal for equal runs."""

import math
import random

from fedn_partial.client.experiments import definitions
from fedn_partial.client.experiments.definitions import Experiment, PlannedRun
from fedn_partial.client.experiments.results import Result

LAYERS = [*(f"conv{number}" for number in range(13)), "dense"]
FULL = 1_000_000  # bytes of a client's full update
MACS = 10_000  # of a client's full training in a round


def made_up(run: PlannedRun) -> Result:
    """Return a result in which fewer layers learn more slowly, and send and compute in proportion."""
    case, chance = run.case(), random.Random(run.digest)
    share = run.settings["selection"].get("layers", len(LAYERS)) / len(LAYERS)
    rounds, clients = case.session.rounds, case.data.clients
    top = 0.2 + 0.2 * share + 0.02 * chance.random()
    return Result(
        digest=run.digest,
        settings=run.settings,
        floor=0.1,
        accuracies=[
            round(0.1 + (top - 0.1) * (1 - math.exp(-number * (0.1 + share / 3))) + 0.01 * chance.random(), 4)
            for number in range(rounds)
        ],
        upload_bytes=[int(FULL * clients * share)] * rounds,
        training_macs=[int(MACS * clients * (0.4 + 0.6 * share))] * rounds,
        full_bytes=FULL * clients,
        layers=LAYERS,
        trained={
            f"client-{client}": [sum(chance.random() < share for _ in range(rounds)) for _ in LAYERS]
            for client in range(1, clients + 1)
        },
    )


def made_up_all(experiment: Experiment) -> dict[str, Result]:
    """Return {digest: result} of an experiment's runs."""
    return {run.digest: made_up(run) for run in experiment.runs}


def made_up_of_every_experiment() -> dict:
    """Return made-up results of all runs of all experiments at their small size."""
    results = {}
    for name in definitions.names():
        results |= made_up_all(definitions.load(name, small=True))
    return results
