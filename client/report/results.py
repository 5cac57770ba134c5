"""Summarise the result of a run or profile in a sentence and in key figures."""

from __future__ import annotations

from fedn_partial.client.report.facts import machine
from fedn_partial.client.report.paper import ProfileCosts
from fedn_partial.client.report.summary import Summary, Times, ratio
from fedn_partial.client.report.wording import NOT_KNOWN, SPACE, amount, less, listed, number, percent, plural


def result(run: Summary, full: Summary | None) -> str:
    """Return the result of a run in one sentence; `full` is the baseline, a run of full training, or None."""
    if not run.clients:
        return "No client has answered yet."
    if run.full_training:
        reached = _or_not_tested(run, _reached(run))
        return (
            f"Full training, all {run.layers} layers in every update: {reached}; "
            f"{amount(run.upload_bytes)} were sent and {amount(run.download_bytes)} received."
        )
    if run.trained is None and run.warmup_rounds:
        reached = _or_not_tested(run, f"the model has {_reached(run)}")
        verb = "was" if run.warmup_rounds == 1 else "were"
        return f"Only {_warmup(run)} {verb} run and no partial round; {reached}."
    savings = _savings(run, full)
    return f"{_training(run, full)}{'; ' if savings else ''}{', and '.join(savings)}."


def _reached(run: Summary) -> str:
    return f"an accuracy of {percent(run.accuracy)} after {plural(run.accuracy_round or 0, 'round')}"


def _or_not_tested(run: Summary, reached: str) -> str:
    return "the model has not been tested" if run.accuracy is None else reached


def _warmup(run: Summary) -> str:
    """Return "2 warm-up rounds of all layers", or "2 warm-up rounds" if a client trained fewer layers."""
    return plural(run.warmup_rounds, "warm-up round") + (" of all layers" if run.full_warmup else "")


def layers_trained(run: Summary) -> str:
    """Return "4 of 14" or "3 to 9 of 14"."""
    if run.trained is None:
        return NOT_KNOWN
    fewest, most = run.trained
    return f"{fewest if fewest == most else f'{fewest} to {most}'}{f' of {run.layers}' if run.layers else ''}"


def _training(run: Summary, full: Summary | None) -> str:
    """Return the layers trained and the accuracy reached, with the accuracy of full training, as text."""
    sentence = f"Training {layers_trained(run)} layers in each client and round "
    if run.warmup_rounds:
        sentence = f"{sentence.rstrip()}, after {_warmup(run)}, "
    if run.accuracy is None:
        return f"{sentence}ran for {plural(run.rounds, 'round')}, and the model has not been tested"
    sentence += f"reached {_reached(run)}"
    if full and full.accuracy is not None:
        sentence += f", where full training reached {percent(full.accuracy)}"
        if full.accuracy_round != run.accuracy_round:
            sentence += f" after {plural(full.accuracy_round, 'round')}"
    return sentence


def _savings(run: Summary, full: Summary | None) -> list[str]:
    """Return the savings of partial training: bytes, and time and memory if they are known."""
    savings = []
    if change := less(run.upload_bytes, run.full_upload_bytes):
        savings.append(f"clients sent {change} than with full updates".replace("as much than", "as much as"))
    times, memory, _ = full_costs(run, full)
    time, space = less(run.partial_times.mean, times.mean, "time"), less(run.partial_memory_mb, memory, "memory")
    if time or space:
        basis = f" ({timing(run.partial_times)}; {timing(times)} with all layers)" if time else ""
        savings.append(f"a client's round took {listed(list(filter(None, (time, space))))} than with all layers{basis}")
    return savings


def timing(times: Times) -> str:
    """Return mean, standard deviation, and numbers of updates and rounds as text."""
    if times.mean is None:
        return NOT_KNOWN
    spread = "" if times.spread is None else f" ± {number(times.spread)}"
    basis = f"{plural(times.updates, 'update')} of {plural(times.rounds, 'round')}"
    return f"{number(times.mean)}{spread}{SPACE}s in {basis}"


def full_costs(run: Summary, full: Summary | None) -> tuple[Times, float | None, str]:
    """Return the times and the memory of a client's round with all layers, and the source of these values."""
    if full and full.full_times.mean is not None:
        return full.full_times, full.full_memory_mb, f"run {full.label}"
    return run.full_times, run.full_memory_mb, "the full rounds of the same run"


def tiles(run: Summary, full: Summary | None) -> list[tuple[str, str, str]]:
    """Return the key figures as (name, value, remark)."""
    times, memory, source = full_costs(run, full)
    partial = run.partial_times.mean is not None and not run.full_training
    run_times = run.partial_times if partial else run.full_times
    return [
        ("Accuracy", percent(run.accuracy), _accuracy_remark(run, full)),
        ("Sent by clients", amount(run.upload_bytes), _sent_remark(run)),
        ("Received by clients", amount(run.download_bytes), _received_remark(run)),
        (
            "A client's round",
            number(run_times.mean, 1, "s"),
            f"{timing(run_times)}; {timing(times)} with all layers ({source})" if partial else timing(run_times),
        ),
        (
            "Memory of a client",
            number(run.partial_memory_mb if partial else run.full_memory_mb, 0, "MB"),
            f"{number(memory, 0, 'MB')} with all layers" if partial else "mean of the peaks of each round",
        ),
    ]


def _accuracy_remark(run: Summary, full: Summary | None) -> str:
    if run.full_training:
        return "full training"
    return f"full training: {percent(full.accuracy)}" if full else f"after {plural(run.accuracy_round or 0, 'round')}"


def _sent_remark(run: Summary) -> str:
    if run.full_training:
        return "all layers, in every update"
    remark = f"{percent(run.upload_share, 0)} of full updates ({amount(run.full_upload_bytes)})"
    if run.warmup_rounds and run.partial_upload_share is not None:
        remark += f"; {percent(run.partial_upload_share, 0)} in partial rounds"
    return remark


def _received_remark(run: Summary) -> str:
    remark = "FEDn sends the whole model twice per round"
    if not run.validation_bytes:
        return remark
    return f"{remark}; {amount(run.validation_bytes)} of it to clients that only validated"


def profile_result(costs: ProfileCosts) -> str:
    """Return the result of a profile in two or three sentences."""
    cells = costs.profile.cells
    missing = len(costs.profile.missing)
    incomplete = f" The profile is incomplete: {plural(missing, 'combination')} not run." if missing else ""
    if not cells:
        return f"No training has been completed yet.{incomplete}"
    total = next((cell.total_layers for cell in cells if cell.total_layers), None)
    killed = [cell for cell in cells if cell.killed]
    limited = [cell for cell in cells if cell.limited and not cell.killed]
    ran = [cell for cell in cells if cell.seconds is not None and not cell.killed]
    flavours = list(dict.fromkeys(cell.flavour for cell in cells))
    sentence = (
        f"Training of {listed([str(layers) for layers in costs.columns])}{f' of {total:.0f}' if total else ''} layers "
        f"was profiled on {flavours[0] if len(flavours) == 1 else f'{len(flavours)} flavours'}; "
        f"{len(ran)} of {plural(len(cells), 'combination')} ran"
    )
    if limited:
        sentence += f", {len(limited)} trained fewer layers than requested"
    if killed:
        sentence += f", and {len(killed)} {'was' if len(killed) == 1 else 'were'} killed for lack of memory"
    if costs.gained:
        sentence += f"; {len(costs.gained)} of those that ran did not run in the paper"
    return f"{sentence}.{_profile_saving(costs)}{incomplete}"


def _profile_saving(costs: ProfileCosts) -> str:
    """Return the savings of the smallest over the largest number of layers, averaged over flavours that ran both."""
    few, many = min(costs.columns, default=0), max(costs.columns, default=0)
    both = [(flavour.pairs[few].ours, flavour.pairs[many].ours) for flavour in costs.flavours if few < many]
    both = [(low, high) for low, high in both if low and high and not (low.killed or high.killed)]
    changes = []
    for key, word in (("seconds", "time"), ("ram_mb", "memory")):
        shares = [ratio(getattr(low, key), getattr(high, key)) for low, high in both]
        shares = [share for share in shares if share is not None]
        changes.append(less(sum(shares) / len(shares), 1.0, word) if shares else None)
    savings = listed(list(filter(None, changes)))
    if not savings:
        return ""
    counts = sorted({cell.rounds for pair in both for cell in pair if cell.rounds})
    first = f"{counts[0]} to " if counts and counts[0] < counts[-1] else ""
    basis = f" (means of {first}{plural(counts[-1], 'round')} each)" if counts else ""
    return f" Training {few} layers took {savings} than {many}, on average{basis}."


def profile_remarks(costs: ProfileCosts) -> list[str]:
    """Return the differences between a profile and the table of the paper."""
    if not costs.table:
        return []
    profile = costs.profile
    images = profile.content.get("examples")
    batch = profile.setting("training", "batch_size")
    lines = [
        f"Here, a client trained on {images:,} images per round."
        if isinstance(images, int)
        else "The number of images per client is unknown here.",
        "The paper does not state the number of images per client; an equal partition of CIFAR-10's 50,000 images over "
        "10 clients has 5,000. Compare the growth of the seconds with the number of layers, not their absolute values.",
        f"The machine here: {machine(profile.content.get('machine'))}.",
        "CPU and RAM are those of the container here, and of the whole machine including its system in the paper.",
    ]
    if costs.table == 4 and batch not in (None, 32):
        lines.append(f"The batch size is {batch} here and 32 in the paper.")
    return [" ".join(lines)]
