"""Captions of the charts of a report: the result of each chart in one or two sentences."""

from __future__ import annotations

import pandas as pd

from fedn_partial.client.report.summary import Summary
from fedn_partial.client.report.wording import amount, listed, percent, plural

LOSS = "Mean loss on the clients' test examples; lower is better."


def accuracy(rounds: pd.DataFrame, labels: list[str]) -> str:
    tested = rounds[rounds["accuracy"].notna()]
    ends = tested.groupby("run", observed=True, sort=False).last()
    if len(labels) == 1 and len(ends):
        last, best = tested.iloc[-1], tested.loc[tested["accuracy"].idxmax()]
        return (
            f"{percent(last['accuracy'])} of the clients' test examples are classified correctly after round "
            f"{last['round']}; the best was {percent(best['accuracy'])}, after round {best['round']}."
        )
    texts = [f"{label} {percent(end['accuracy'])} (round {end['round']})" for label, end in ends.iterrows()]
    return f"Share of the clients' test examples that are classified correctly, at the end: {listed(texts)}."


def sent(summaries: list[Summary]) -> str:
    if len(summaries) == 1:
        (run,) = summaries
        text = f"All clients together sent {amount(run.upload_bytes)}; the dotted line is the size of full updates"
        if run.partial_upload_share is not None:
            text += f", of which partial rounds send {percent(run.partial_upload_share, 0)}"
        return f"{text}."
    texts = [f"{run.label} {percent(run.upload_share, 0)}" for run in summaries]
    return (
        f"All clients together, by round. Share of the size of full updates: {listed(texts)}. "
        f"Dotted: full updates ({summaries[0].label})."
    )


def received(summaries: list[Summary]) -> str:
    amounts = [f"{run.label} {amount(run.download_bytes)}" for run in summaries]
    total = amounts if len(amounts) > 1 else [amount(summaries[0].download_bytes)]
    return (
        "A participating client receives the model before training, and the new model for its test. "
        f"In total: {listed(total)}."
    )


def phases(costs: pd.DataFrame) -> str:
    timed = costs[costs["round_seconds"].notna()]
    if timed.empty:
        return "The duration of a client's round is unknown."
    total = (timed["round_seconds"] * timed["updates"]).sum()
    text = f"A client's round takes {total / timed['updates'].sum():.1f} s on average"
    if timed["train_seconds"].notna().any():
        share = (timed["train_seconds"] * timed["updates"]).sum() / total
        text += f", {percent(share, 0)} of it in training steps"
    return (
        f"{text}. Load: read data and model; trace: build the graph; encode: write the update; "
        "rest: download, upload, waiting."
    )


def layers(rounds: pd.DataFrame, staleness: pd.DataFrame, label: str) -> str:
    """Return the caption of the heat map of layers by round for one run."""
    rounds = rounds[rounds["run"] == label]
    staleness = staleness[(staleness["run"] == label) & staleness["longest_staleness"].notna()]
    if staleness.empty:
        return "No client has trained a layer yet."
    partial = rounds[~rounds["warmup"] & ~rounds["failed"]]
    text = ""
    if len(partial) and pd.notna(partial["layers"].iloc[-1]):
        covered, total = partial["layers_trained"].mean(), partial["layers"].iloc[-1]
        if covered < total:
            text = f"Mean coverage of a partial round: {covered:.1f} of the {total} layers. "
    stalest = staleness.loc[staleness["longest_staleness"].idxmax()]
    if not stalest["longest_staleness"]:
        return f"{text}Every layer was trained in every round."
    return f"{text}Longest staleness: {plural(stalest['longest_staleness'], 'round')} ({stalest['layer']})."


def clients(per_layer: pd.Series) -> str:
    """Return the caption of the heat map of layers by client; `per_layer` is the number of updates with each layer."""
    if per_layer.min() == per_layer.max():
        return "Every layer was trained equally often."
    most, fewest = per_layer.idxmax(), per_layer.idxmin()
    return (
        f"Most often trained: {most} ({per_layer[most]:,} times); least often: {fewest} ({per_layer[fewest]:,} times)."
    )
