"""Made-up runs and profiles whose report is counted by hand, and the text of a report's page."""

import json
from html.parser import HTMLParser
from pathlib import Path

from fedn_partial.client.report import summary, tables
from reports.run_folders import write_profile, write_run

LAYERS = {"a": 10, "b": 20, "c": 30}  # 60 weights: a full update is 240 bytes


def client(round, name, layers, outcome="merged", **columns):
    trained = sum(LAYERS[layer] for layer in layers)
    known = {"trained_params": trained, "total_params": 60} if layers else {}
    return {"round": round, "client": name, "layers": layers, "outcome": outcome, **known, **columns}


# Round 4 brings nothing from anybody, round 5 nothing from c2; round 3 fails.
# Round 4 brings nothing from anybody, round 5 nothing from c2; round 3 fails.
ROWS = [
    client(1, "c1", ["a", "b", "c"], warmup=True, upload_bytes=250, accuracy=0.5, test_examples=100, round_seconds=8),
    client(1, "c2", ["a", "b", "c"], warmup=True, upload_bytes=250, accuracy=0.25, test_examples=300, round_seconds=6),
    client(2, "c1", ["a"], upload_bytes=50, accuracy=0.75, test_examples=100, round_seconds=4, memory_peak_mb=100),
    client(2, "c2", ["b", "c"], upload_bytes=210, accuracy=0.5, test_examples=300, round_seconds=5, memory_peak_mb=200),
    client(3, "c1", ["a"], "skipped: too late", upload_bytes=45),
    client(3, "c2", [], "refused: memory 400.0 MB predicted", upload_bytes=9),
    client(5, "c1", ["b"], "sent", upload_bytes=30, accuracy=0.8, test_examples=100, limited="1 of the 2 layers"),
]


UPLOADED = 250 + 250 + 50 + 210 + 45 + 9 + 30


def full_run(folder, accuracy, seconds, memory, **settings):
    rows = [
        client(1, name, ["a", "b", "c"], upload_bytes=250, round_seconds=seconds, memory_peak_mb=memory)
        | {"accuracy": accuracy, "test_examples": 100}
        for name in ("c1", "c2")
    ]
    return write_run(folder, rows, name="full", layers=LAYERS, **settings)


def with_session(path: Path, **changes) -> Path:
    """Change keys of a run's session.json."""
    session = json.loads((path / "session.json").read_text())
    (path / "session.json").write_text(json.dumps({**session, **changes}))
    return path


def vgg_rows(*sent):
    """One row for each (layers, bytes, weights), as of the paper's model."""
    return [
        {"round": number, "client": "c", "layers": [f"conv{n}" for n in range(layers)]}
        | {"upload_bytes": size, "trained_params": weights, "total_params": 14_736_714}
        for number, (layers, size, weights) in enumerate(sent, start=1)
    ]


def cell(flavour, layers, **columns):
    return {"flavour": flavour, "layers": layers, "cpus": 1, "memory_mib": 1024, "total_layers": 14, **columns}


CELLS = [
    cell("ssc.xsmall", 4, seconds=10.0, cpu_percent=98.0, ram_mb=500.0, ram_percent=46.6, run="ssc.xsmall-4"),
    cell("ssc.xsmall", 7, seconds=12.0, cpu_percent=97.0, ram_mb=600.0, ram_percent=55.9, run=None),
    cell("ssc.xsmall", 10, seconds=13.0, limited="9.0 of 10 layers: memory 900.0 MB predicted"),
    cell("ssc.xsmall", 14, killed="in round 1, after 3 of 20 steps"),
    cell("my-board", 4, seconds=20.0, rounds=2),
    cell("my-board", 14, seconds=25.0, rounds=1),
]


VGG16 = {"model": {"name": "vgg16"}, "training": {"batch_size": 32}}


def make_profile(folder, **settings):
    return write_profile(folder, CELLS, refused={"ssc.large": "has 4 processors, this machine has 2"}, **settings)


class Text(HTMLParser):
    """The text of a page, its tags, and the cells of its tables' rows by their heads."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.rows, self.cells = [], {}, None
        self.pieces, self.in_cell, self.skipped = [], False, 0
        self.feed(page)
        self.text = " ".join("".join(self.pieces).replace("\xa0", " ").split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.skipped += tag in ("style", "script")
        if tag == "tr":
            self.cells = []
        elif tag in ("td", "th") and self.cells is not None:
            self.cells.append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.skipped -= tag in ("style", "script")
        self.in_cell &= tag not in ("td", "th")
        if tag == "tr" and self.cells:
            self.rows.setdefault(self.cells[0].strip(), []).append([cell.strip() for cell in self.cells[1:]])

    def handle_data(self, data):
        if not self.skipped:
            self.pieces.append(data)
        if self.in_cell:
            self.cells[-1] += data


def tables_of(run, memory="memory_peak_mb") -> dict:
    """Return the tables that a report of one run is made of, by name, and the rows that they are counted from."""
    rows = tables.client_rows([run], memory)
    layers = tables.layers_table([run], rows)
    return {
        "rows": rows,
        "layers": layers,
        "rounds": tables.rounds_table([run], rows, layers),
        "costs": tables.costs_table(rows),
        "layers_by_client": tables.layers_by_client_table([run], rows),
        "staleness": tables.staleness_table([run], layers),
        "clients": tables.clients_table(rows),
    }


def summary_of(run):
    """Return the summary of one run."""
    frames = tables_of(run)
    return summary.summary(run, frames["rows"], frames["rounds"])
