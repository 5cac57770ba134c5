"""Heat maps of a report: trained layers by round and by client."""

from __future__ import annotations

import pandas as pd

from fedn_partial.client.charts import captions
from fedn_partial.client.charts.heat_maps import HeatMap, heat_map
from fedn_partial.client.charts.legend import heat_legend
from fedn_partial.client.charts.report import Chart

MAX_CLIENTS = 40  # columns of the heat map by client


def layer_maps(labels: list[str], tables: dict[str, pd.DataFrame]) -> list[Chart]:
    """Return two heat maps per run, except for runs in which every update had every layer."""
    charts = []
    for number, label in enumerate(labels):
        layers = tables["layers"][tables["layers"]["run"] == label]
        if (layers["clients"] == layers["of_clients"]).all():
            continue  # the heat map would be uniform or empty
        prefix = f"{label}: " if len(labels) > 1 else ""
        charts += [_by_round(number, prefix, layers, tables), _by_client(number, prefix, label, tables)]
    return charts


def _by_round(number: int, prefix: str, layers: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> Chart:
    label = layers["run"].iloc[0]
    staleness = tables["staleness"][tables["staleness"]["run"] == label]
    ages = staleness[["staleness", "longest_staleness"]].astype(str)
    cells = _pivot(layers, "round", "clients")
    data = HeatMap(
        rows=tuple(cells.index),
        columns=tuple(map(str, cells.columns)),
        counts=_tuples(cells),
        wholes=tuple(layers.groupby("round", sort=False)["of_clients"].first().tolist()),
        x_label="round",
        note_heads=("staleness", "longest"),
        notes=_tuples(ages),
    )
    chart = Chart(
        f"{prefix}Clients that trained a layer, by round",
        captions.layers(tables["rounds"], tables["staleness"], label),
        "layers",
        legend=heat_legend(max(data.wholes)),
        note="Right of the map: staleness after the last round, and the longest of the run.",
    )
    return chart.drawn(heat_map(f"when{number}", chart.description, data))


def _by_client(number: int, prefix: str, label: str, tables: dict[str, pd.DataFrame]) -> Chart:
    table = tables["layers_by_client"]
    table = table[table["run"] == label]
    title = f"{prefix}Rounds in which a layer was trained, by client"
    clients = table["client"].nunique()
    if clients > MAX_CLIENTS:
        text = f"No heat map for more than {MAX_CLIENTS} clients ({clients:,}); see the CSV file."
        return Chart(title, text, "layers_by_client")
    cells = _pivot(table, "client", "rounds")
    data = HeatMap(
        rows=tuple(cells.index),
        columns=tuple(cells.columns),
        counts=_tuples(cells),
        wholes=tuple(table.groupby("client", sort=False)["of_rounds"].first().tolist()),
        x_label="client",
    )
    chart = Chart(
        title,
        captions.clients(cells.sum(axis="columns")),
        "layers_by_client",
        legend=heat_legend(max(data.wholes)),
        note="Colour: share of the client's rounds.",
    )
    return chart.drawn(heat_map(f"who{number}", chart.description, data))


def _pivot(table: pd.DataFrame, columns: str, values: str) -> pd.DataFrame:
    """Return the column `values` as a frame of layers by `columns`, both in the order of the table."""
    frame = table.pivot(index="layer", columns=columns, values=values)
    return frame.loc[table["layer"].unique(), table[columns].unique()]


def _tuples(frame: pd.DataFrame) -> tuple[tuple, ...]:
    return tuple(map(tuple, frame.to_numpy().tolist()))
