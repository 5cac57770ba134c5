"""Merge rules and wrong clients: accuracy after one attacked round and after sessions, time and memory of merging.

VGG16 at an eighth of its width, on the digits. In a full round clients train all layers, in a partial one the output
layer and 3 others. Clients have unlike numbers of examples; the wrong ones report as many as the largest.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from size import options

from fedn_partial.client.data import data_sets
from fedn_partial.exchange.merge_rules import RULES
from fedn_partial.exchange.merge_rules.base import Round, Update
from fedn_partial.models import build
from fedn_partial.seed_model.server_functions import session_settings
from fedn_partial.settings.case import Case, Data, Training
from fedn_partial.submodel.layers import read_layers, tensor_list
from fedn_partial.submodel.selection import Context, from_dict, requested_layers
from fedn_partial.training import evaluation, local_training, step

TRAINING = Training(epochs=2)
MERGE_RULES = ("all_clients", "clipped", "trimmed_mean", "median")
FLEETS = ((3, 1), (10, 2))  # clients, wrong ones of them
ATTACKS = {
    "none": lambda new, old: new,
    "weights x10": lambda new, old: 10 * new,
    "weights x100": lambda new, old: 100 * new,
    "sign flipped": lambda new, old: -new,
    "zeros": lambda new, old: 0 * new,
    "change x -10": lambda new, old: old - 10 * (new - old),
}
DIVERGED = "learning rate x100"


@dataclass(frozen=True)
class Sent:
    """What a client sends: its layers, its number of examples, and the weights of the whole model."""

    layers: list
    examples: int
    weights: list


class Fleet:
    """Clients with shards of the digits, and their model."""

    def __init__(self, clients: int, width: float, **options):
        selection = {"selector": "random", "layers": 4, "always_train": ["dense"]}
        model = {"name": "vgg16", "width": width, "batchnorm_momentum": 0.8}
        self.case = Case(name="robust", model=model, selection=selection, **options)
        keras.utils.set_random_seed(1)
        self.model = build(self.case.model)
        self.seed = self.model.get_weights()
        self.layers = read_layers(self.model)
        self.settings = session_settings(self.case, self.layers, "robust", "")
        _, shards = data_sets.partition_case(Data(clients=clients), seed=1)
        self.shards = []
        for number, shard in enumerate(shards):  # from two thirds of the examples to all
            length = int(len(shard.y_train) * (2 / 3 + number / (3 * (clients - 1))))
            self.shards.append(replace(shard, x_train=shard.x_train[:length], y_train=shard.y_train[:length]))
        self.largest = max(len(shard.y_train) for shard in self.shards)
        self.x, self.y = (np.concatenate([getattr(shard, part) for shard in shards]) for part in ("x_test", "y_test"))
        self.evaluation = evaluation.trace(self.model, self.x)
        self.steps = {}

    def accuracy(self, weights) -> float:
        self.model.set_weights(weights)
        return evaluation.evaluate(self.model, self.x, self.y, step=self.evaluation)[0]

    def train(self, base, number: int, round_: int, full: bool, training=TRAINING) -> Sent:
        """Return what client `number` sends after training from the model `base`."""
        context = Context(seed=1, round=round_, client=str(number), warmup=full)
        selected, shard = requested_layers(from_dict(self.case.selection), self.layers, context), self.shards[number]
        key = (*(layer.name for layer in selected), training.learning_rate)
        if key not in self.steps:
            self.steps[key] = step.trace(self.model, self.layers, selected, shard.x_train, step.StepSettings(training))
        self.model.set_weights(base)
        order = np.random.default_rng([round_, number])
        arguments = (
            self.model,
            self.layers,
            selected,
            shard.x_train,
            shard.y_train,
            step.StepSettings(training),
            order,
        )
        local_training.train(*arguments, step=self.steps[key])
        return Sent(selected, len(shard.y_train), self.model.get_weights())

    def spoil(self, sent: Sent, attack, base) -> Sent:
        """Return the update of a wrong client; its variances are not negative, which the server would skip."""
        weights = [attack(new, old) for new, old in zip(sent.weights, base, strict=True)]
        for tensor in tensor_list(self.layers):
            if tensor.name.endswith("moving_variance"):
                weights[tensor.index] = np.abs(weights[tensor.index])
        return Sent(sent.layers, self.largest, weights)

    def merge(self, rule: str, base, updates: list[Sent], memory: dict) -> list:
        """Return the new global model; `memory` is what the rule keeps between rounds."""
        return merged(RULES[rule](self.settings), Round(base, self.settings, memory), updates)


def merged(rule, round_: Round, updates: list[Sent]) -> list:
    rule.begin(round_)
    indices, coverage = round_.settings["indices"], {}
    for sent in updates:
        names = [layer.name for layer in sent.layers]
        tensors = {name: [sent.weights[index] for index in indices[name]] for name in names}
        rule.add(Update(sent.examples, tensors, dict.fromkeys(names, sent.examples)))
        coverage.update(dict.fromkeys(names))
    model = list(round_.model)
    for name in coverage:
        for index, value in zip(indices[name], rule.merge(name), strict=True):
            model[index] = value.astype(np.float32)
    rule.end()
    return model


def attacked_round(fleet: Fleet, wrong: int, honest_rounds: int, attacks, kinds) -> None:
    """Print a row of accuracies for each attack in one round after honest rounds."""
    clients, base, memories = len(fleet.shards), fleet.seed, {rule: {} for rule in MERGE_RULES}
    for number in range(1, honest_rounds + 1):
        updates = [fleet.train(base, client, number, full=True) for client in range(clients)]
        models = {rule: fleet.merge(rule, base, updates, memories[rule]) for rule in MERGE_RULES}
        base = models["all_clients"]
    for full in kinds:
        number = honest_rounds + 1
        honest = [fleet.train(base, client, number, full) for client in range(clients)]
        for name in attacks:
            if name == DIVERGED:
                fast = replace(TRAINING, learning_rate=100 * TRAINING.learning_rate)
                spoilt = [fleet.train(base, client, number, full, fast) for client in range(wrong)]
            else:
                spoilt = [fleet.spoil(sent, ATTACKS[name], base) for sent in honest[:wrong]] if name != "none" else []
            updates = spoilt + honest[len(spoilt) :]
            accuracies = [fleet.accuracy(fleet.merge(rule, base, updates, {**memories[rule]})) for rule in MERGE_RULES]
            kind = "full" if full else "partial"
            print_row(f"{wrong} of {clients}, {kind}", name, accuracies)


def session(fleet: Fleet, wrong: int, rounds: int, rule: str, attack: str, full: bool) -> float:
    """Return the accuracy after a session, attacked in each round from the first, two of which are full."""
    model, memory = fleet.seed, {}
    for number in range(1, rounds + 1):
        updates = [fleet.train(model, client, number, full or number <= 2) for client in range(len(fleet.shards))]
        if attack != "none":
            updates[:wrong] = [fleet.spoil(sent, ATTACKS[attack], model) for sent in updates[:wrong]]
        model = fleet.merge(rule, model, updates, memory)
    return fleet.accuracy(model)


def cost(rule: str, width: float, clients: int) -> tuple[float, float]:
    """Return the seconds of merging full updates of VGG16, and the largest memory beyond model and updates in MB."""
    case = Case(name="robust", model={"name": "vgg16", "width": width}, selection={"selector": "all"}, merge=rule)
    model = build(case.model)
    layers, base = read_layers(model), model.get_weights()
    settings, memory = session_settings(case, layers, "robust", ""), {}
    random = np.random.default_rng(0)
    updates = [
        Sent(layers, 10, [array + 0.01 * random.random(array.shape, np.float32) for array in base])
        for _ in range(clients)
    ]
    seconds, highest = [], 0
    for number in range(3):  # the first without earlier norms
        if number == 2:
            tracemalloc.start()
        started = time.perf_counter()
        merged(RULES[rule](settings), Round(base, settings, memory), updates)
        seconds.append(time.perf_counter() - started)
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds[1], highest / 1e6


def print_row(where: str, attack: str, values) -> None:
    print(f"| {where} | {attack} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)


def main() -> None:
    smallest = options(__doc__).parse_args().smallest
    width, honest_rounds, rounds, attacks = 0.125, 6, 8, [*ATTACKS, DIVERGED]
    fleets, sessions = FLEETS, ("none", "weights x10")
    if smallest:
        width, honest_rounds, rounds, attacks, fleets, sessions = 0.0625, 1, 1, ["zeros"], FLEETS[:1], sessions[1:2]
    kinds = (True,) if smallest else (True, False)  # whether clients train all layers
    columns = " | ".join(MERGE_RULES)
    print(f"\n### Accuracy after one round with wrong clients\n\n| wrong clients | attack | {columns} |")
    print("|---|---|" + "---|" * len(MERGE_RULES))
    for clients, wrong in fleets:
        attacked_round(Fleet(clients, width), wrong, honest_rounds, attacks, kinds)
    print(f"\n### Accuracy after {rounds} rounds, all with wrong clients\n\n| wrong clients | attack | {columns} |")
    print("|---|---|" + "---|" * len(MERGE_RULES))
    clients, wrong = FLEETS[0]
    fleet = Fleet(clients, width)
    for full in kinds:
        for attack in sessions:
            values = [session(fleet, wrong, rounds, rule, attack, full) for rule in MERGE_RULES]
            print_row(f"{wrong} of {clients}, {'full' if full else 'partial'}", attack, values)
    clients, width = (2, 0.0625) if smallest else (10, 1)
    print(f"\n### Merging {clients} full updates of VGG16 at width {width}\n")
    print("| rule | seconds | memory, MB |\n|---|---|---|")
    for rule in MERGE_RULES:
        print("| {} | {:.2f} | {:.0f} |".format(rule, *cost(rule, width, clients)), flush=True)


if __name__ == "__main__":
    main()
