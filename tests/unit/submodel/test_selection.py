"""Every way to choose layers, under the same promises; and what each promises of its own."""

import dataclasses
import json
from collections import Counter

import pytest

from fedn_partial.errors import FednPartialError
from fedn_partial.settings.schema import SettingsError
from fedn_partial.submodel.layers import Layer
from fedn_partial.submodel.selection import (
    SELECTORS,
    Budget,
    Context,
    Cyclic,
    Fixed,
    Random,
    Scored,
    Stratified,
    Top,
    Uniform,
    from_dict,
    probabilities,
    select_layers,
    to_dict,
)

NAMES = [*(f"conv{index}" for index in range(13)), "dense"]
LAYERS = [Layer(name, (name,), (), 0, 1, 1, 0, False) for name in NAMES]
CONTEXT = Context(seed=1, round=1, client="a")
ROUNDS = 2000

# A new selector needs an example here.
EXAMPLES = {
    "random": {"layers": 4, "always_train": ["dense"], "warmup_rounds": 2},
    "uniform": {"layers": 4},
    "stratified": {"layers": 4, "always_train": ["dense"]},
    "cyclic": {"layers": 3, "rounds_per_group": 2, "full_rounds": 1},
    "top": {"layers": 5},
    "scored": {"layers": 4, "always_train": ["dense"], "floor": 0.2},
    "all": {"warmup_rounds": 1},
    "fixed": {"names": ["dense", "conv0", "conv7"]},
    "budget": {"memory_mb": 400.0, "always_train": ["dense"]},
}


@pytest.fixture(params=SELECTORS)
def selector(request):
    return from_dict({"selector": request.param, **EXAMPLES[request.param]})


def chosen(selector, **context):
    context.setdefault("merged_rounds", context.get("round", 1) - 1)
    return [layer.name for layer in select_layers(selector, LAYERS, dataclasses.replace(CONTEXT, **context))]


def test_json_brings_the_selector_back(selector):
    assert from_dict(json.loads(json.dumps(to_dict(selector)))) == selector


def test_json_holds_what_was_asked_for(selector):
    described = to_dict(selector)
    assert type(selector) is SELECTORS[described["selector"]]
    assert described.items() >= EXAMPLES[described["selector"]].items()


def test_equal_seed_round_and_client_give_equal_layers(selector):
    for round in range(1, 20):
        context = Context(seed=3, round=round, client="b")
        assert selector.select(LAYERS, context) == selector.select(LAYERS, dataclasses.replace(context))


def test_layers_exist_and_come_once(selector):
    for round in range(1, 50):
        names = selector.select(LAYERS, dataclasses.replace(CONTEXT, round=round))
        assert names
        assert set(names) <= set(NAMES)
        assert len(set(names)) == len(names)


def test_chosen_layers_stand_in_model_order(selector):
    for round in range(1, 20):
        names = chosen(selector, round=round)
        assert names == sorted(names, key=NAMES.index)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 14, 99])
def test_device_limit_is_kept(selector, limit, warmup):
    for round in range(1, 20):
        free = chosen(selector, round=round, warmup=warmup)
        names = chosen(selector, round=round, warmup=warmup, max_layers=limit)
        assert len(names) == min(limit, len(free))
        assert set(names) <= set(free)


def test_warmup_trains_everything(selector):
    assert chosen(selector, warmup=True) == NAMES


def test_random_trains_as_many_layers_as_asked_for_and_the_fixed_ones_always():
    for round in range(1, 100):
        names = chosen(Random(4, ("dense", "conv3")), round=round)
        assert len(names) == 4
        assert {"dense", "conv3"} <= set(names)


def test_uniform_fixes_no_layer():
    rounds = [set(chosen(Uniform(4), round=round)) for round in range(1, 100)]
    assert {len(names) for names in rounds} == {4}
    assert not set.intersection(*rounds)


def test_fixed_trains_its_layers_in_every_round():
    assert {tuple(chosen(Fixed(("dense", "conv2")), round=round)) for round in range(1, 20)} == {("conv2", "dense")}


@pytest.mark.parametrize("selector", [Random(20, ("dense",)), Uniform(20)])
def test_more_layers_than_the_model_has_are_all_of_them(selector):
    assert chosen(selector) == NAMES


@pytest.mark.parametrize(
    "contexts",
    [
        [{"round": round} for round in range(1, 21)],
        [{"client": f"device-{number}"} for number in range(20)],
        [{"seed": seed} for seed in range(20)],
    ],
    ids=["round", "client", "seed"],
)
@pytest.mark.parametrize("selector", [Random(4, ("dense",)), Uniform(4)], ids=["random", "uniform"])
def test_draws_differ(selector, contexts):
    # 286 or 1,001 subsets: 20 independent draws have more than 15 different ones.
    assert len({tuple(chosen(selector, **context)) for context in contexts}) > 15


def shares(selector, **context):
    """How often each layer but `dense` is trained, as a share of the rounds."""
    counts = Counter(name for round in range(ROUNDS) for name in chosen(selector, round=round + 1, **context))
    return [counts[name] / ROUNDS for name in NAMES if name != "dense"]


def test_random_draws_the_other_layers_equally_often():
    assert shares(Random(4, ("dense",))) == pytest.approx([3 / 13] * 13, rel=0.25)


def test_uniform_draws_all_layers_equally_often():
    assert shares(Uniform(4)) == pytest.approx([4 / 14] * 13, rel=0.25)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("limit", [2, 3])
def test_device_limit_leaves_each_layer_its_turn(limit, warmup):
    drawn = shares(Random(4, ("dense",)), warmup=warmup, max_layers=limit)
    assert drawn == pytest.approx([(limit - 1) / 13] * 13, rel=0.4)


@pytest.mark.parametrize("warmup", [False, True])
def test_device_limit_keeps_the_fixed_layers_first(warmup):
    selector = Random(6, ("conv12", "dense"))
    for round in range(1, 50):
        context = {"round": round, "warmup": warmup}
        assert {"conv12", "dense"} < set(chosen(selector, max_layers=3, **context))


@pytest.mark.parametrize("limit", [1, 2])
def test_device_with_room_for_the_fixed_layers_alone_trains_the_others_too(limit):
    selector = Random(6, ("conv12", "dense"))
    trained = Counter(name for round in range(ROUNDS) for name in chosen(selector, round=round, max_layers=limit))
    assert set(trained) == set(NAMES)
    assert max(trained.values()) < ROUNDS


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"selector": "rnadom", "layers": 4}, ["selector 'rnadom'", ", ".join(SELECTORS)]),
        ({"layers": 4}, ["selector None", ", ".join(SELECTORS)]),
        ({"selector": ["random"], "layers": 4}, ["selector ['random']", ", ".join(SELECTORS)]),
        ({"selector": "random", "layer": 4}, ["unknown key 'layer'", "did you mean 'layers'?", "always_train"]),
        ({"selector": "all", "layers": 4}, ["unknown key 'layers'", "Allowed are: warmup_rounds"]),
        ({"selector": "random"}, ["'layers' is missing"]),
        ({"selector": "random", "layers": 0}, ["layers must be at least 1, found 0"]),
        ({"selector": "uniform", "layers": 0}, ["layers must be at least 1, found 0"]),
        ({"selector": "uniform", "layers": 2.5}, ["layers must be of type int, found 2.5"]),
        ({"selector": "uniform", "layers": True}, ["layers must be of type int, found True"]),
        ({"selector": "all", "warmup_rounds": -1}, ["warmup_rounds must be at least 0, found -1"]),
        ({"selector": "random", "layers": 1, "always_train": "dense"}, ["always_train", "list of names", "'dense'"]),
        (
            {"selector": "random", "layers": 1, "always_train": ["conv0", "dense"]},
            ["always_train", "layers=1", "['conv0', 'dense']"],
        ),
        ({"selector": "fixed", "names": []}, ["names must name at least one layer"]),
    ],
)
def test_wrong_section_is_refused_with_what_is_allowed(section, told):
    with pytest.raises(SettingsError) as error:
        from_dict(section, "case.yaml: selection")
    for words in ["case.yaml: selection", *told]:
        assert words in str(error.value)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("selector", [Random(4, ("dnese",)), Fixed(("conv0", "dnese"))], ids=["random", "fixed"])
def test_layer_that_the_model_lacks_is_refused_also_in_warmup(selector, warmup):
    with pytest.raises(FednPartialError, match=r"'dnese'; the model has conv0, .*, dense"):
        select_layers(selector, LAYERS, dataclasses.replace(CONTEXT, warmup=warmup))


def at_most_two_and_not_conv5(layers):
    """A device on which two layers fit together, and conv5 not at all."""
    return len(layers) <= 2 and all(layer.name != "conv5" for layer in layers)


def test_what_does_not_fit_is_left_out_and_all_that_fits_gets_its_turn(selector):
    counts = Counter()
    for round in range(1, 300):
        names = chosen(selector, round=round, fits=at_most_two_and_not_conv5)
        assert 1 <= len(names) <= 2 and "conv5" not in names
        counts.update(names)
    wished = {"fixed": 3, "top": 5}.get(next(name for name, cls in SELECTORS.items() if type(selector) is cls), 13)
    assert len(counts) == wished


def test_a_selection_that_fits_is_left_alone(selector):
    assert chosen(selector, fits=lambda layers: True) == chosen(selector)


def test_as_many_as_fit_are_kept():
    """Greedy, not all or nothing: what is too large is passed over for what still fits."""
    sizes = {name: 10 if name == "conv0" else 1 for name in NAMES}
    for round in range(1, 50):
        names = chosen(Budget(), round=round, fits=lambda layers: sum(sizes[layer.name] for layer in layers) <= 12)
        assert len(names) == (3 if "conv0" in names else 12)


def test_a_device_that_fits_nothing_says_so(selector):
    with pytest.raises(FednPartialError, match=r"none of the .* requested layers is within the limits of this device"):
        chosen(selector, fits=lambda layers: False)


def test_a_layer_that_fits_only_without_the_always_trained_gets_its_turn():
    sizes = {name: 10 if name == "conv0" else 1 for name in NAMES}
    drawn = Counter()
    for round in range(1, 300):
        drawn.update(
            chosen(
                Budget(always_train=("dense",)),
                round=round,
                fits=lambda layers: sum(sizes[layer.name] for layer in layers) <= 10,
            )
        )
    assert len(drawn) == 14


def test_always_trained_layers_come_first_if_they_leave_room():
    for round in range(1, 50):
        names = chosen(Budget(always_train=("dense",)), round=round, fits=at_most_two_and_not_conv5)
        assert "dense" in names and len(names) == 2


CLIENTS = tuple(f"client-{number}" for number in range(1, 11))


def hands(selector, round, clients=CLIENTS):
    """What each client of a round trains, by a selector that goes by participants."""
    contexts = [dataclasses.replace(CONTEXT, round=round, client=name, participants=clients) for name in clients]
    return [[layer.name for layer in select_layers(selector, LAYERS, context)] for context in contexts]


@pytest.mark.parametrize("layers", [2, 4, 7, 10, 13])
@pytest.mark.parametrize("clients", [1, 3, 10, 20])
def test_stratified_layers_have_equally_many_clients(layers, clients):
    for round in range(1, 30):
        selections = hands(Stratified(layers, always_train=("dense",)), round, CLIENTS[:clients] or CLIENTS)
        assert all(len(hand) == len(set(hand)) == layers and "dense" in hand for hand in selections)
        counts = Counter(name for hand in selections for name in hand if name != "dense")
        counts = [counts[name] for name in NAMES if name != "dense"]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == len(selections) * (layers - 1)


def test_stratified_selections_differ_from_round_to_round_and_reach_every_client():
    seen = Counter(name for round in range(1, ROUNDS + 1) for name in hands(Stratified(4), round)[0])
    assert {name: round(count / ROUNDS, 1) for name, count in seen.items()} == dict.fromkeys(NAMES, 0.3)


def test_stratified_selections_do_not_depend_on_the_order_in_which_clients_are_named():
    forwards, backwards = hands(Stratified(4), 5), hands(Stratified(4), 5, CLIENTS[::-1])
    assert forwards == backwards[::-1]


def test_a_client_that_the_server_does_not_know_draws_by_itself():
    context = dataclasses.replace(CONTEXT, client="new", participants=CLIENTS)
    assert Stratified(4).select(LAYERS, context) == Random(4).select(LAYERS, context)


def test_cyclic_is_fedparts_schedule():
    """5 full rounds, then each of 14 groups for 2 rounds, from input to output, and again (Fling's pipeline)."""
    schedule = Cyclic(1, rounds_per_group=2, full_rounds=5)
    expected = [NAMES] * 5 + [[name] for name in NAMES for _ in range(2)]
    assert [chosen(schedule, merged_rounds=number) for number in range(66)] == expected * 2


def test_cyclic_trains_the_same_layers_everywhere_and_begins_after_the_warmup():
    schedule = Cyclic(4, rounds_per_group=1, always_train=("dense",), warmup_rounds=3)
    windows = [["conv0", "conv1", "conv2", "dense"], ["conv3", "conv4", "conv5", "dense"]]
    for client in CLIENTS:
        assert [chosen(schedule, merged_rounds=number, client=client) for number in (3, 4)] == windows
    assert chosen(schedule, merged_rounds=7) == ["conv12", "dense"]  # what is left of 13
    assert chosen(schedule, merged_rounds=8) == windows[0]
    assert chosen(schedule, round=99, merged_rounds=4) == windows[1]  # rounds that failed took nobody's turn


def test_top_are_the_last():
    assert chosen(Top(3)) == ["conv11", "conv12", "dense"]
    assert chosen(Top(99)) == NAMES


def test_scored_draws_by_change_with_a_floor():
    scores = dict.fromkeys(NAMES, 0.0) | {"conv3": 3.0, "conv7": 1.0}
    context = dataclasses.replace(CONTEXT, scores=scores)
    draws = Counter(
        name
        for round in range(1, ROUNDS + 1)
        for name in Scored(1, floor=0.28).select(LAYERS, dataclasses.replace(context, round=round))
    )
    expected = dict.fromkeys(NAMES, 0.02) | {"conv3": 0.02 + 0.72 * 0.75, "conv7": 0.02 + 0.72 * 0.25}
    for name, probability in expected.items():
        assert draws[name] / ROUNDS == pytest.approx(probability, abs=0.03)
        assert draws[name] > 0


def test_a_layer_without_score_counts_as_the_mean_and_no_scores_as_equal():
    scores = {name: 2.0 for name in NAMES if name != "conv5"} | {"conv6": 4.0}
    with_mean = Scored(1, floor=0.01).select
    mean = scores | {"conv5": sum(scores.values()) / len(scores)}
    for round in range(1, 200):
        context = dataclasses.replace(CONTEXT, round=round, scores=scores)
        assert with_mean(LAYERS, context) == with_mean(LAYERS, dataclasses.replace(context, scores=mean))
    draws = Counter(name for round in range(1, ROUNDS + 1) for name in chosen(Scored(7), round=round))
    assert all(count / ROUNDS == pytest.approx(0.5, abs=0.04) for count in draws.values())


def test_probabilities_are_those_of_the_draw(selector):
    context = dataclasses.replace(CONTEXT, client="client-3", participants=CLIENTS)
    probable = probabilities(selector, LAYERS, context)
    assert set(probable) >= {layer.name for layer in select_layers(selector, LAYERS, context)}
    assert all(0 < value <= 1 for value in probable.values())
    if isinstance(selector, Random) and not isinstance(selector, Scored):
        assert probable["dense"] == 1.0
        assert all(probable[name] == pytest.approx(3 / 13, abs=0.08) for name in NAMES[:-1])
    if isinstance(selector, (Cyclic, Fixed, Top)):
        assert set(probable.values()) == {1.0}


def test_probabilities_know_the_limits_of_the_device():
    limited = probabilities(Random(4, always_train=("dense",)), LAYERS, dataclasses.replace(CONTEXT, max_layers=1))
    assert sum(limited.values()) == pytest.approx(1.0)
    assert limited["dense"] == pytest.approx(0.25, abs=0.08)
    warmup = probabilities(Random(4), LAYERS, dataclasses.replace(CONTEXT, warmup=True))
    assert warmup == dict.fromkeys(NAMES, 1.0)


def test_the_earlier_name_of_a_selector_is_still_read():
    assert from_dict({"selector": "dealt", "layers": 4}) == Stratified(4)
    assert to_dict(Stratified(4))["selector"] == "stratified"
