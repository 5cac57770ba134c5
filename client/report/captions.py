"""Says in words what the figures come to, for people who have never seen the project."""

from __future__ import annotations

import re

from fedn_partial.client.follow.progress import size
from fedn_partial.client.records.load import Profile, Run
from fedn_partial.client.report.paper import Costs
from fedn_partial.client.report.statistics import Summary, Table, Times, mean, ratio, spans
from fedn_partial.submodel.selection import EARLIER_NAMES

NOT_KNOWN = "n/a"
SPACE = "\u00a0"  # that no line breaks at
MERGING = {
    "all_clients": "all_clients: who left a layer out counts as a vote for no change",
    "contributors": "contributors: the mean over those who trained a layer",
    "shrunk": "shrunk: the mean over those who trained a layer, the further the more they were",
    "inverse_probability": "inverse_probability: who trained a layer counts the more the less probable that was",
}
STATISTICS = {
    "with_layer": "with their layer",
    "always": "always, of all layers",
    "local": "never, each client keeps its own",
}


def percent(share: float | None, digits: int = 1) -> str:
    return NOT_KNOWN if share is None else f"{100 * share:.{digits}f}{SPACE}%"


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    return NOT_KNOWN if value is None else f"{value:,.{digits}f}{SPACE + unit if unit else ''}"


def amount(count: float | None) -> str:
    return NOT_KNOWN if count is None else size(count).replace(" ", SPACE)


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def listed(words: list[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def less(part: float | None, whole: float | None, unit: str = "") -> str | None:
    """Return "39 % less", "5 % more" or "as much", or None if one of them is not known."""
    if part is None or not whole:
        return None
    change = round(100 * (part / whole - 1))
    if change == -100 and part:
        return f"over 99{SPACE}% less {unit}".strip()
    if not change:
        return f"as much {unit}".strip()
    return f"{abs(change)}{SPACE}% {'less' if change < 0 else 'more'} {unit}".strip()


def _warmup(one: Summary) -> str:
    """Return "2 warm-up rounds of all layers", or without the layers where some client trained fewer."""
    return plural(one.warmup_rounds, "warm-up round") + (" of all layers" if one.full_warmup else "")


def layers_trained(one: Summary) -> str:
    """Return "4 of 14" or "3 to 9 of 14"."""
    if one.trained is None:
        return NOT_KNOWN
    fewest, most = one.trained
    return f"{fewest if fewest == most else f'{fewest} to {most}'}{f' of {one.layers}' if one.layers else ''}"


# The result


def result(one: Summary, full: Summary | None) -> str:
    """Return what a run comes to in one sentence; `full` is the run of full training to compare with, or None."""
    if not one.clients:
        return "Nothing has come from any client yet."
    reached = f"an accuracy of {percent(one.accuracy)} after {plural(one.accuracy_round or 0, 'round')}"
    if one.full_training:
        reached = "nobody has tested the model" if one.accuracy is None else reached
        return (
            f"Full training, all {one.layers} layers in every update: {reached}; "
            f"{amount(one.upload_bytes)} were sent and {amount(one.download_bytes)} received."
        )
    if one.trained is None and one.warmup_rounds:
        reached = "nobody has tested the model" if one.accuracy is None else f"the model has {reached}"
        return f"Only {_warmup(one)} {'was' if one.warmup_rounds == 1 else 'were'} run, and no partial one; {reached}."
    sentence = f"Training {layers_trained(one)} layers in each client and round "
    if one.warmup_rounds:
        sentence = f"{sentence.rstrip()}, after {_warmup(one)}, "
    if one.accuracy is None:
        sentence += f"ran for {plural(one.rounds, 'round')}, and nobody has tested the model"
    else:
        sentence += f"reached {reached}"
        if full and full.accuracy is not None:
            sentence += f", where full training reached {percent(full.accuracy)}"
            if full.accuracy_round != one.accuracy_round:
                sentence += f" after {plural(full.accuracy_round, 'round')}"
    savings = []
    if change := less(one.upload_bytes, one.full_upload_bytes):
        savings.append(f"clients sent {change} than full updates take".replace("as much than", "as much as"))
    times, memory, _ = full_costs(one, full)
    time, space = less(one.partial_times.mean, times.mean, "time"), less(one.partial_memory_mb, memory, "memory")
    if time or space:
        savings.append(
            f"a round took each of them {' and '.join(filter(None, (time, space)))} than one with all layers"
            f"{f' ({timing(one.partial_times)}; {timing(times)} with all layers)' if time else ''}"
        )
    return f"{sentence}{'; ' if savings else ''}{', and '.join(savings)}."


def timing(times: Times) -> str:
    """Return a mean with its standard deviation and what it is made of."""
    if times.mean is None:
        return NOT_KNOWN
    spread = "" if times.spread is None else f" ± {number(times.spread)}"
    return f"{number(times.mean)}{spread}{SPACE}s in {_basis(times)}"


def _basis(times: Times) -> str:
    return f"{plural(times.updates, 'update')} of {plural(times.rounds, 'round')}"


def full_costs(one: Summary, full: Summary | None) -> tuple[Times, float | None, str]:
    """Return the times and the memory of a client's round with all layers, and where these were measured."""
    if full and full.full_times.mean is not None:
        return full.full_times, full.full_memory_mb, f"run {full.label}"
    return one.full_times, one.full_memory_mb, "the full rounds of the same run"


def tiles(one: Summary, full: Summary | None) -> list[tuple[str, str, str]]:
    """Return the key figures: name, value, remark."""
    if one.full_training:
        accuracy, sent = "full training", "all layers, in every update"
    else:
        accuracy = (
            f"full training: {percent(full.accuracy)}" if full else f"after {plural(one.accuracy_round or 0, 'round')}"
        )
        sent = f"{percent(one.upload_share, 0)} of what full updates take ({amount(one.full_upload_bytes)})"
        if one.warmup_rounds and one.partial_upload_share is not None:
            sent += f"; {percent(one.partial_upload_share, 0)} in partial rounds"
    times, memory, where = full_costs(one, full)
    partial = one.partial_times.mean is not None and not one.full_training
    own = one.partial_times if partial else one.full_times
    return [
        ("Accuracy", percent(one.accuracy), accuracy),
        ("Sent by clients", amount(one.upload_bytes), sent),
        ("Received by clients", amount(one.download_bytes), _received(one)),
        (
            "A client's round",
            number(own.mean, 1, "s"),
            f"{timing(own)}; {timing(times)} with all layers ({where})" if partial else timing(own),
        ),
        (
            "Memory of a client",
            number(one.partial_memory_mb if partial else one.full_memory_mb, 0, "MB"),
            f"{number(memory, 0, 'MB')} with all layers" if partial else "mean of each round's highest",
        ),
    ]


def profile_result(found: Costs) -> str:
    cells = found.profile.cells
    total = next((cell.total_layers for cell in cells if cell.total_layers), None)
    columns = listed([str(layers) for layers in found.columns])
    killed = [cell for cell in cells if cell.killed]
    limited = [cell for cell in cells if cell.limited and not cell.killed]
    missing = found.profile.missing
    left = f" The profile is not whole: {len(missing)} more were to be tried." if missing else ""
    if not cells:
        return f"Nothing has been trained yet.{left}"
    ran = [cell for cell in cells if cell.seconds is not None and not cell.killed]
    tried = list(dict.fromkeys(cell.flavour for cell in cells))
    where = tried[0] if len(tried) == 1 else f"{len(tried)} sizes of machine"
    sentence = (
        f"A client was to train {columns}{f' of {total:.0f}' if total else ''} layers on {where}; "
        f"{len(ran)} of {plural(len(cells), 'combination')} ran"
    )
    if limited:
        sentence += f", {len(limited)} trained fewer layers than asked for"
    if killed:
        sentence += f", and {len(killed)} {'was' if len(killed) == 1 else 'were'} ended for lack of memory"
    if found.gained:
        sentence += f"; {len(found.gained)} of those that ran did not in the paper"
    return f"{sentence}.{_profile_saving(found)}{left}"


def _profile_saving(found: Costs) -> str:
    """Return what the fewest layers cost less than the most, as a mean over the flavours that ran both."""
    few, many = min(found.columns, default=0), max(found.columns, default=0)
    both = [(flavour.pairs[few].ours, flavour.pairs[many].ours) for flavour in found.flavours if few < many]
    both = [(low, high) for low, high in both if low and high and not (low.killed or high.killed)]
    changes = []
    for key, word in (("seconds", "time"), ("ram_mb", "memory")):
        shares = [ratio(getattr(low, key), getattr(high, key)) for low, high in both]
        changes.append(less(mean(shares), 1.0, word))
    told = " and ".join(filter(None, changes))
    counts = sorted({cell.rounds for pair in both for cell in pair if cell.rounds})
    basis = f", means of {_from_to(counts)} each" if counts else ""
    return f" Training {few} layers took {told} than {many}, on average{basis}." if told else ""


def _from_to(counts: list[int]) -> str:
    few = f"{counts[0]} to " if counts[0] < counts[-1] else ""
    return f"{few}{plural(counts[-1], 'round')}"


# What ran


def subtitle(item: Run | Profile, one: Summary | None = None) -> str:
    """Return what ran, and on what, in one line."""
    content = item.session if isinstance(item, Run) else item.content
    model, data = item.setting("model", "name"), (_data(item) or {}).get("name")
    parts = [f"{model or NOT_KNOWN}{f' on {data}' if data else ''}"]
    if one:
        kind = "simulated client" if item.session.get("simulated") else "client"
        parts.append(f"{plural(one.clients, kind)}, {plural(one.rounds, 'round')}")
    parts.append(machine(content.get("machine")))
    return f"{'; '.join(parts)}; {str(content.get('started', ''))[:10]}".rstrip("; ")


def facts(item: Run | Profile, one: Summary | None = None) -> list[tuple[str, str]]:
    """Return what ran and on what, by name."""
    content = item.session if isinstance(item, Run) else item.content
    model = item.setting("model") if isinstance(item.setting("model"), dict) else {}
    parts = [
        str(model.get("name", NOT_KNOWN)),
        *(f"{key} {value}" for key, value in sorted(model.items()) if key != "name"),
    ]
    if one:
        parts += [plural(one.layers, "layer")] if one.layers else []
        weights = next((row.total_params for row in item.rows if row.total_params), None)
        parts += [f"{weights:,.0f} weights"] if weights else []
    training = item.setting("training") if isinstance(item.setting("training"), dict) else {}
    data = _data(item)
    in_turn = listed(list(dict.fromkeys(str(cell.layers) for cell in item.cells))) if one is None else None
    found = [("Model", ", ".join(parts)), ("Layers trained", selection(item, in_turn))]
    if one:
        found += [("Clients", f"{one.clients:,}"), ("Rounds", _rounds(item, one)), ("Examples", _examples(item))]
    else:
        found += [("Rounds", f"{content.get('rounds', NOT_KNOWN)} in each combination")]
        found += [("Examples", f"{content.get('examples', NOT_KNOWN)}, the same for all")]
        found += [("Data", str(content["data"]))] if content.get("data") else []
    if data:
        found.append(("Data", f"{data.get('name')}, {_partition(data)}"))
    elif one:
        found.append(("Data", "the devices' own"))
    found += [
        ("Local training", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in training.items() if value)),
        ("Merging", MERGING.get(str(item.setting("merge")), str(item.setting("merge") or NOT_KNOWN))),
        ("BatchNorm statistics sent", STATISTICS.get(str(item.setting("batchnorm_statistics")), NOT_KNOWN)),
        ("Numbers in updates", str(item.setting("codec") or NOT_KNOWN)),
        ("Numbers in the model", str(item.setting("model_dtype") or NOT_KNOWN)),
        ("Machine" if data or one is None else "Operator's machine", machine(content.get("machine"))),
        ("Clients are", "simulated, without FEDn" if content.get("simulated") else "real, over FEDn"),
        ("Software", ", ".join(f"{name} {version}" for name, version in (content.get("versions") or {}).items())),
        ("Started", str(content.get("started", NOT_KNOWN))),
        ("Seed", str(content.get("seed", NOT_KNOWN))),
        ("Folder", item.path.resolve().name),
    ]
    return found


def _partition(data: dict) -> str:
    clients = data.get("clients")
    to = plural(clients, "client") if isinstance(clients, int) else f"{NOT_KNOWN} clients"
    return f"partitioned across {to} ({data.get('partition') or 'iid'})"


def _data(item: Run | Profile) -> dict | None:
    """Return what the data were, with the keys of a case's section `data`.

    None if only the devices know, and for a profile: its client does not have the case's data.
    """
    return item.data if isinstance(item, Run) else None


def machine(raw) -> str:
    if isinstance(raw, dict):
        raw = raw.get("text")
    return str(raw or NOT_KNOWN)


def selection(item: Run | Profile, in_turn: str | None = None) -> str:
    """Return a case's way to choose layers in words; `in_turn` are a profile's numbers of layers."""
    chosen = item.setting("selection") if isinstance(item.setting("selection"), dict) else {}
    name, layers = chosen.get("selector"), chosen.get("layers") if in_turn is None else f"{in_turn} in turn,"
    words = {
        "random": f"{layers} a client and round, drawn at random",
        "uniform": f"{layers} a client and round, drawn at random",
        "stratified": f"{layers} a client and round, each layer with equally many clients",
        "cyclic": f"{layers} neighbouring ones, the same for all clients, in turn",
        "top": f"always the last {layers}",
        "scored": f"{layers} a client and round, drawn by how much they last changed",
        "all": "all (full training)",
        "fixed": f"always the same: {_names(chosen.get('names'))}",
        "budget": "as many as fit each device, drawn at random",
    }
    text = words.get(EARLIER_NAMES.get(name, str(name)), f"by selector {name}" if name else NOT_KNOWN)
    if chosen.get("always_train"):
        text += f"; always {_names(chosen['always_train'])}"
    if chosen.get("warmup_rounds"):
        text += f"; all of them in the first {chosen['warmup_rounds']} rounds (warm-up)"
    return text


def _names(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _rounds(run: Run, one: Summary) -> str:
    asked = run.setting("session", "rounds")
    text = f"answers in {one.rounds} of {asked}" if isinstance(asked, int) and asked != one.rounds else f"{one.rounds}"
    return f"{text}, {one.failed_rounds} failed" if one.failed_rounds else text


def _examples(run: Run) -> str:
    trained = {row.client: row.num_examples for row in run.rows if row.num_examples}
    tested = {row.client: row.test_examples for row in run.rows if row.test_examples}
    return f"{sum(trained.values()):,.0f} to train on, {sum(tested.values()):,.0f} to test on, all clients together"


# What a chart shows


def accuracy_takeaway(rounds: Table, labels: list[str]) -> str:
    ends = {}
    for label in labels:
        tested = [(record["accuracy"], record["round"]) for record in rounds.records(run=label)]
        ends[label] = [(value, number) for value, number in tested if value is not None]
    ends = {label: found for label, found in ends.items() if found}
    if len(labels) == 1 and ends:
        found = ends[labels[0]]
        best = max(found, key=lambda pair: pair[0])
        return (
            f"{percent(found[-1][0])} of the clients' test examples are classified rightly after round {found[-1][1]}; "
            f"the best was {percent(best[0])}, after round {best[1]}."
        )
    told = [f"{label} {percent(found[-1][0])} (round {found[-1][1]})" for label, found in ends.items()]
    return f"Share of the clients' test examples that are classified rightly, at the end: {listed(told)}."


def upload_takeaway(summaries: list[Summary]) -> str:
    if len(summaries) == 1:
        one = summaries[0]
        text = f"All clients together sent {amount(one.upload_bytes)}; the dotted line is what full updates take"
        if one.partial_upload_share is not None:
            text += f", of which partial rounds send {percent(one.partial_upload_share, 0)}"
        return f"{text}."
    told = [f"{one.label} {percent(one.upload_share, 0)}" for one in summaries]
    return f"All clients together, by round. Share of what full updates take: {listed(told)}."


def _received(one: Summary) -> str:
    text = "FEDn sends the whole model, twice a round"
    if not one.validation_bytes:
        return text
    return f"{text}; {amount(one.validation_bytes)} of it came to clients that only validated"


def download_takeaway(summaries: list[Summary]) -> str:
    told = [f"{one.label} {amount(one.download_bytes)}" for one in summaries]
    total = told if len(told) > 1 else [amount(summaries[0].download_bytes)]
    return (
        "A client that takes part in a round receives the model to train it, and the new one to test it. "
        f"In all: {listed(total)}."
    )


def phases_takeaway(costs: Table) -> str:
    known = [record for record in costs.records() if record["round_seconds"] is not None]
    if not known:
        return "How long a client's round takes is not known."
    updates = sum(record["updates"] for record in known)
    training = [(record["train_seconds"], record["updates"]) for record in known if record["train_seconds"] is not None]
    whole = sum(record["round_seconds"] * record["updates"] for record in known)
    text = f"A client's round takes {whole / updates:.1f} s on average"
    if training:
        share = sum(seconds * count for seconds, count in training) / whole
        text += f", {percent(share, 0)} of it in training steps"
    return (
        f"{text}. Load: reading data and model; trace: preparing the computation; encode: writing the update; "
        "rest: download, upload, waiting."
    )


def layers_takeaway(layers: Table, rounds: Table, staleness: Table, label: str) -> str:
    partial = [record for record in rounds.records(run=label) if not record["warmup"] and not record["failed"]]
    ages = [record for record in staleness.records(run=label) if record["longest_staleness"] is not None]
    if not ages:
        return "No client has trained a layer yet."
    text = ""
    if partial:
        covered, total = mean(record["layers_trained"] for record in partial), partial[-1]["layers"]
        if total and covered < total:
            text = f"In a partial round {covered:.1f} of the {total} layers were trained by somebody, on average. "
    worst = max(ages, key=lambda record: record["longest_staleness"])
    if not worst["longest_staleness"]:
        return f"{text}Every layer was trained in every round."
    return f"{text}No layer waited longer than {plural(worst['longest_staleness'], 'round')} ({worst['layer']})."


def problem_lines(problems: Table) -> list[dict]:
    """Return the problems with equal ones joined: the latest wording, the clients, the rounds."""
    groups: dict[tuple, list[dict]] = {}
    for record in problems.records():
        alike = re.sub(r"[\d.,]+", "0", record["why"])  # the figures in a reason change from round to round
        groups.setdefault((record["run"], record["kind"], alike), []).append(record)
    lines = []
    for (run, kind, _), found in groups.items():
        clients = list(dict.fromkeys(record["client"] for record in found))
        shown = clients[:4] + ([f"{len(clients) - 4} more"] if len(clients) > 4 else [])
        numbers = [record["round"] for record in found if record["round"] is not None]
        lines.append(
            {
                "run": run,
                "kind": kind,
                "clients": listed(shown),
                "why": found[-1]["why"],
                "rounds": spans(numbers) or NOT_KNOWN,
                "times": len(found),
            }
        )
    return sorted(lines, key=lambda line: -line["times"])


# What is to be known about the paper's figures


def profile_remarks(found: Costs) -> list[str]:
    """Return what differs between a profile and the paper's table."""
    if not found.table:
        return []
    profile = found.profile
    images = profile.content.get("examples")
    batch = profile.setting("training", "batch_size")
    lines = [
        f"Here a client trained on {images:,} images in a round."
        if isinstance(images, int)
        else "How many images a client trained on here is not known.",
        "The paper does not say how many its clients had; an even share of CIFAR-10's 50,000 is 5,000 for each of 10. "
        "So the seconds differ for this reason alone: compare how they grow with the layers, not their size.",
        f"The machine is another one too: {machine(profile.content.get('machine'))}.",
        "CPU and RAM are the container's here and the whole machine's in the paper, where the system itself counts; "
        "the paper's RAM is as printed there.",
    ]
    if found.table == 4 and batch not in (None, 32):
        lines.append(f"Batches are of {batch} images here and of 32 in the paper.")
    return [" ".join(lines)]


def table3_remarks(lines: list) -> list[str]:
    """Return what differs between the paper's Table 3 and ours."""
    ours = lines[1:]  # the first is the paper's
    remarks = [
        "Ours is the mean update that a client sent, times 10, measured as it left: the trained weights, "
        "BatchNormalization's statistics, the output layer and the message around them. The paper's is calculated: "
        "the weights of the selected convolutions; its clients sent whole models. Its MB are MiB."
    ]
    widths = sorted({line.width for line in ours if line.width != 1.0})
    if widths:
        told = listed([f"{width:g}" for width in widths])
        remarks.append(
            f"A model of {told} of the paper's width has fewer weights in every layer: compare the shares, not the MiB."
        )
    codecs = sorted({line.codec for line in ours if line.codec not in (None, "float32")})
    if codecs:
        remarks.append(f"Updates in {listed(codecs)} take fewer bytes a weight than the paper's float32.")
    return [" ".join(remarks)]
