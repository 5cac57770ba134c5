"""Tables of a report as pandas frames, which are also written as CSV files.

Unknown values are missing and are excluded from sums and means. MB are 10**6 bytes.
"""

from __future__ import annotations

import pandas as pd

from fedn_partial.client.records.load import Profile, Run
from fedn_partial.client.report.paper import ProfileCosts
from fedn_partial.client.report.rounds import is_full, is_merged, layer_count, layer_names, natural, rounds

PHASES = ("load", "import", "trace", "train", "encode")
SENSORS = ("gpu_percent", "temperature_c", "power_mw")  # columns that only some devices measure
FLOAT32 = 4  # bytes per weight in a full update
MEASURED = (  # columns of ``Row`` that are copied to ``client_rows``
    *("trained_params", "total_params", "test_examples", "upload_bytes", "download_bytes"),
    *("train_seconds", "round_seconds", "cpu_percent", "train_loss", "accuracy", "loss", *SENSORS),
)
BY_ROUND = ["run", "round"]


def to_python(value):
    """Return a value of a frame as a Python scalar, or None if it is missing."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def records(table: pd.DataFrame, **values) -> list[dict]:
    """Return the rows whose columns equal `values`, as {column: value or None}."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table.astype(object).where(table.notna(), None).to_dict("records")


def listing(rows: list[tuple], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return rows as a frame of objects, without conversion of the values."""
    return pd.DataFrame(rows, columns=list(columns), dtype=object)


def _column(values: list):
    """Return numbers as a nullable column, of integers if all of them are."""
    integers = all(value is None or isinstance(value, int) for value in values)
    return pd.array(values, dtype="Int64" if integers else "Float64")


def client_rows(runs: list[Run], memory: str = "memory_peak_mb") -> pd.DataFrame:
    """Return one row per run, round and client, in this order, from which the other tables are computed.

    The columns are those named in `MEASURED`, and

    - run, round, client;
    - warmup, merged, full: whether the round was a warm-up round, the update was merged, and all layers were trained;
    - layers, layer_count: names and number of the layers trained;
    - phase_NAME: seconds of each phase;
    - rest_seconds: remaining seconds of the client's round (download, upload, start, waiting);
    - memory_mb: the column `memory` of ``Row``;
    - full_upload_bytes: bytes of a full float32 update.
    """
    items = [(run, round_, row) for run in runs for round_ in rounds(run) for row in round_.rows]
    rows = [row for _, _, row in items]
    layers = {run.label: layer_count(run) for run in runs}
    frame = pd.DataFrame(
        {
            "run": pd.Categorical([run.label for run, _, _ in items], categories=[run.label for run in runs]),
            "round": pd.array([round_.number for _, round_, _ in items], dtype="int64"),
            "client": _sorted_names([row.client for row in rows]),
            "warmup": pd.array([bool(row.warmup) for row in rows], dtype="bool"),
            "merged": pd.array([is_merged(row) for row in rows], dtype="bool"),
            "full": pd.array([is_full(row, layers[run.label]) for run, _, row in items], dtype="bool"),
            "layers": pd.Series([list(dict.fromkeys(row.layers)) for row in rows], dtype=object),
            "layer_count": pd.array([len(row.layers) for row in rows], dtype="int64"),
            **{name: _column([getattr(row, name) for row in rows]) for name in MEASURED},
            **{f"phase_{name}": _column([row.phases.get(name) for row in rows]) for name in PHASES},
            "memory_mb": _column([getattr(row, memory) for row in rows]),
        }
    )
    phases = frame[[f"phase_{name}" for name in PHASES]].astype("Float64")
    rest = (frame["round_seconds"] - phases.sum(axis="columns", min_count=1)).clip(lower=0)
    return frame.assign(rest_seconds=rest, full_upload_bytes=FLOAT32 * frame["total_params"])


def _sorted_names(names: list[str]) -> pd.Categorical:
    """Return names as an ordered column, sorted by `natural`."""
    return pd.Categorical(names, categories=sorted(set(names), key=natural))


def memory_column(runs: list[Run]) -> str:
    """Return the column of ``Row`` with the memory that all runs contain; old runs contain resident memory only."""
    has_peak = all(any(row.memory_peak_mb is not None for row in run.rows) for run in runs if run.rows)
    return "memory_peak_mb" if has_peak else "rss_peak_mb"


def rounds_table(runs: list[Run], rows: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and round: accuracy and loss, bytes of all clients, and coverage.

    Parameters
    ----------
    rows : result of ``client_rows``.
    layers : result of ``layers_table``.
    """
    groups = rows.groupby(BY_ROUND, observed=True)
    sums = groups[["upload_bytes", "full_upload_bytes", "download_bytes"]].sum(min_count=1)
    validated = {(run.label, round_.number): round_.validation_bytes for run in runs for round_ in rounds(run)}
    validated = pd.Series(_column([validated[key] for key in sums.index]), index=sums.index)
    covered = layers[layers["clients"] > 0].groupby(BY_ROUND, observed=True).size()
    table = pd.DataFrame(
        {
            "warmup": groups["warmup"].any(),
            "failed": ~groups["merged"].any(),
            "clients": groups.size(),
            "accuracy": _weighted_mean(rows, "accuracy"),
            "loss": _weighted_mean(rows, "loss"),
            "train_loss": groups["train_loss"].mean(),
            **sums.assign(download_bytes=sums["download_bytes"].add(validated, fill_value=0)),
            "layers_trained": covered.reindex(sums.index, fill_value=0),
        }
    ).reset_index()
    totals = {run.label: layer_count(run) for run in runs}
    return table.assign(layers=_column([totals[label] for label in table["run"]]))


def _weighted_mean(rows: pd.DataFrame, key: str) -> pd.Series:
    """Return the mean of a column by run and round, weighted by the clients' test examples."""
    examples = rows["test_examples"].where((rows["test_examples"] > 0).fillna(False) & rows[key].notna())
    weighted = rows[BY_ROUND].assign(sum=rows[key] * examples, examples=examples)
    sums = weighted.groupby(BY_ROUND, observed=True).sum(min_count=1)
    return sums["sum"] / sums["examples"]


def costs_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and number of trained layers: means over clients and rounds, minima and maxima."""
    trained = rows[rows["layer_count"] > 0].rename(columns={"layers": "names", "layer_count": "layers"})
    columns = {"updates": ("client", "size"), "round_seconds": ("round_seconds", "mean")}
    columns |= {f"{name}_seconds": (f"phase_{name}", "mean") for name in PHASES}
    columns |= {"rest_seconds": ("rest_seconds", "mean")}
    for name in ("cpu_percent", "memory_mb", "upload_bytes"):
        columns |= {name: (name, "mean"), f"{name}_lowest": (name, "min"), f"{name}_highest": (name, "max")}
    return trained.groupby(["run", "layers"], observed=True).agg(**columns).reset_index()


def layers_table(runs: list[Run], rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run, round and layer: number of clients that trained it, and staleness after the round.

    The staleness of a layer that no client has trained yet is the number of rounds so far.
    """
    cells = [
        (run.label, name, round_.number, len(round_.rows))
        for run in runs
        for round_ in rounds(run)
        for name in layer_names(run)
    ]
    table = pd.DataFrame(cells, columns=["run", "layer", "round", "of_clients"]).astype({"round": "int64"})
    by = ["run", "layer", "round"]
    table["clients"] = _counted(_trained_layers(rows).groupby(by, observed=True).size(), table[by])
    last = table["round"].where(table["clients"] > 0, 0).groupby([table["run"], table["layer"]]).cummax()
    table["staleness"] = table["round"] - last
    return table[[*by, "clients", "of_clients", "staleness"]]


def _trained_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per layer of each merged update: run, round, client, layer."""
    merged = rows.loc[rows["merged"], ["run", "round", "client", "layers"]]
    return merged.explode("layers").rename(columns={"layers": "layer"})


def _counted(counts: pd.Series, keys: pd.DataFrame) -> list[int]:
    """Return the entry of `counts` for each row of `keys`, 0 if there is none."""
    by_key = counts.to_dict()
    return [by_key.get(key, 0) for key in keys.itertuples(index=False, name=None)]


def layers_by_client_table(runs: list[Run], rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run, layer and client: number of the client's rounds in which its update had the layer."""
    answered = rows.groupby(["run", "client"], observed=True).size()
    clients = answered.reset_index(name="of_rounds")
    names = pd.DataFrame([(run.label, name) for run in runs for name in layer_names(run)], columns=["run", "layer"])
    table = names.merge(clients.astype({"run": object, "client": object}), on="run")
    by = ["run", "layer", "client"]
    table["rounds"] = _counted(_trained_layers(rows).groupby(by, observed=True).size(), table[by])
    return table[[*by, "rounds", "of_rounds"]]


def staleness_table(runs: list[Run], layers: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and layer: number of rounds and updates that trained it, last and longest staleness."""
    groups = layers.assign(trained=layers["clients"] > 0).groupby(["run", "layer"], sort=False)
    counts = groups.agg(
        rounds_trained=("trained", "sum"),
        updates=("clients", "sum"),
        staleness=("staleness", "last"),
        longest_staleness=("staleness", "max"),
    )
    names = [(run.label, name) for run in runs for name in layer_names(run)]
    parameters = [(run.session.get("layers") or {}).get(name) for run in runs for name in layer_names(run)]
    table = listing(names, ("run", "layer")).assign(parameters=pd.Series(parameters, dtype=object))
    return table.join(counts.astype("Int64"), on=["run", "layer"]).fillna({"rounds_trained": 0, "updates": 0})


def clients_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and client: means over the rounds in which it trained, and sums of its bytes.

    Columns `rounds` and `trained` are the numbers of rounds in which it answered and trained; accuracy is that of its
    last test.
    """
    by = ["run", "client"]
    means = [*("layer_count", "train_seconds", "round_seconds", "cpu_percent", "memory_mb"), *SENSORS]
    groups = rows.assign(trained=rows["layer_count"] > 0).groupby(by, observed=True)
    table = pd.concat(
        [
            groups.agg(rounds=("merged", "size"), trained=("trained", "sum"), accuracy=("accuracy", "last")),
            groups[["upload_bytes", "download_bytes"]].sum(min_count=1),
            rows[rows["layer_count"] > 0].groupby(by, observed=True)[means].mean(),
        ],
        axis="columns",
    )
    columns = ["run", "client", "rounds", "trained", "layers", "upload_bytes", "download_bytes", "train_seconds"]
    columns += ["round_seconds", "cpu_percent", "memory_mb", *SENSORS, "accuracy"]
    return table.reset_index().rename(columns={"layer_count": "layers"})[columns]


def flavours_table(profiles: list[Profile]) -> pd.DataFrame:
    """Return one row per cell of each profile."""
    columns = ("flavour", "cpus", "memory_mib", "layers", "total_layers", "rounds", "seconds", "round_seconds")
    columns += ("cpu_percent", "ram_mb", "ram_percent", "killed", "limited")
    cells = [(profile.label, cell) for profile in profiles for cell in profile.cells]
    return listing(
        [(label, *(getattr(cell, name) for name in columns)) for label, cell in cells], ("profile", *columns)
    )


def paper_costs_table(costs: list[ProfileCosts]) -> pd.DataFrame:
    """Return the cells of Table 4 or 5, of the profiles and of the paper."""
    figures = ("seconds", "cpu_percent", "ram_mb", "ram_percent")
    rows = []
    for item in costs:
        for flavour in item.flavours:
            for layers, pair in flavour.pairs.items():
                if pair.ours:
                    values = (getattr(pair.ours, name) for name in (*figures, "killed", "limited"))
                    rows.append((item.profile.label, flavour.name, layers, *values))
                if pair.paper == "-":
                    rows.append(("paper", flavour.name, layers, *[None] * len(figures), "did not run", None))
                elif pair.paper:
                    values = (pair.paper[name] for name in figures)
                    rows.append(("paper", flavour.name, layers, *values, None, None))
    columns = ("source", "flavour", "layers", *figures, "killed", "limited")
    return listing(list(dict.fromkeys(rows)), columns)
