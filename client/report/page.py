"""Write a report: one self-contained HTML page, and a folder with its tables as CSV files."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd

import fedn_partial
from fedn_partial.client.charts import style
from fedn_partial.client.charts.layer_maps import layer_maps
from fedn_partial.client.charts.legend import swatch
from fedn_partial.client.charts.report import profile_charts, run_charts
from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.records.load import Profile, Run, load
from fedn_partial.client.report import paper, problems, results, table3, tables, wording
from fedn_partial.client.report.csv_files import write_csv
from fedn_partial.client.report.facts import facts, subtitle
from fedn_partial.client.report.summary import Summary, baseline, runs_table, summary
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import WriteError, write_text

MAX_CLIENTS = 40  # lines of the table of clients
MAX_PROBLEMS = 30  # lines of the table of problems
ALARMS = ("refused", "skipped", "round failed", "no answer", "note")  # kinds of problems shown at the top of the page


def write_report(folders: list[Path], output: Path) -> dict:
    """Write the report of runs and profiles to `output`, and its CSV files to the folder `output`_data.

    Returns
    -------
    "output", "csv" (paths), "result" (a sentence per run or profile), "runs" (key figures by run), "profiles" (cells).

    Raises
    ------
    FednPartialError : a folder contains no run or profile, or a damaged file.
    """
    if not folders:
        raise FednPartialError("a report requires at least one run folder, such as runs/NAME")
    if not output.name or output.is_dir():
        raise FednPartialError(f"{output} is a folder; give a file name for the report, such as report.html")
    runs, profiles = load(folders)
    costs = [paper.costs(profile) for profile in profiles]
    sent = table3.table3(runs, profiles)
    memory = tables.memory_column(runs)
    summaries, frames = _frames(runs, profiles, costs, sent, memory)
    main, full = _compared(runs, summaries)
    labelled = [(main.label, results.result(main, full))] if main else []
    labelled += [(item.profile.label, results.profile_result(item)) for item in costs]
    sentences = [f"{label}: {sentence}" if len(folders) > 1 else sentence for label, sentence in labelled]

    data = output.with_name(f"{output.stem}_data")
    output.parent.mkdir(parents=True, exist_ok=True)
    is_new = not data.exists()
    try:
        files = write_csv(data, frames)
    except WriteError:
        if is_new:
            shutil.rmtree(data, ignore_errors=True)
        raise
    text = (
        _environment()
        .get_template("page.html")
        .render(
            sentences=sentences,
            main=main,
            full=full,
            table3=sent,
            memory=memory,
            files=[path.name for path in files],
            folder=quote(data.name),
            **_head(runs, profiles, summaries, main, full),
            **_sections(runs, profiles, summaries, frames, costs),
        )
    )
    write_text(output, text)
    return {
        "output": str(output),
        "csv": [str(path) for path in files],
        "result": [sentence.replace(wording.SPACE, " ") for sentence in sentences],
        "runs": tables.records(frames["runs"]),
        "profiles": tables.records(frames["flavours"]),
    }


def _frames(
    runs: list[Run], profiles: list[Profile], costs: list[paper.ProfileCosts], sent: list[table3.Sent], memory: str
) -> tuple[list[Summary], dict[str, pd.DataFrame]]:
    """Return the summaries of the runs, and {name: table}; the names are those of the CSV files."""
    rows = tables.client_rows(runs, memory)
    layers = tables.layers_table(runs, rows)
    rounds = tables.rounds_table(runs, rows, layers)
    summaries = [summary(run, rows, rounds) for run in runs]
    return summaries, {
        "runs": runs_table(summaries),
        "rounds": rounds,
        "costs": tables.costs_table(rows),
        "layers": layers,
        "layers_by_client": tables.layers_by_client_table(runs, rows),
        "staleness": tables.staleness_table(runs, layers),
        "clients": tables.clients_table(rows),
        "problems": problems.problems_table(runs, profiles),
        "flavours": tables.flavours_table(profiles),
        "table3": table3.table3_csv(sent),
        **{f"table{n}": tables.paper_costs_table([item for item in costs if item.table == n]) for n in (4, 5)},
    }


def _compared(runs: list[Run], summaries: list[Summary]) -> tuple[Summary | None, Summary | None]:
    """Return the main run of the page, and its baseline: a run of full training with the same model and data, or None.

    The main run is the first run that is not full training, or the first run if all are.
    """
    main = next((item for item in summaries if not item.full_training), summaries[0] if summaries else None)
    if main is None or main.full_training:
        return main, None
    task = {run.label: (run.setting("model"), run.data) for run in runs}
    return main, baseline([item for item in summaries if task[item.label] == task[main.label]])


def _head(
    runs: list[Run], profiles: list[Profile], summaries: list[Summary], main: Summary | None, full: Summary | None
) -> dict:
    """Return the template variables of the page's header."""
    items = [item.label for item in [*runs, *profiles]]
    return {
        "title": wording.listed(items),
        "subtitle": subtitle((runs or profiles)[0], summaries[0] if summaries else None),
        "problems_of_runs": [item for item in summaries if item.problem],
        "cut_off": [run for run in runs if run.cut_off],
        "summaries": summaries,
        "tiles": results.tiles(main, full) if main and len(summaries) == 1 and main.clients else [],
        "labels": [item.label for item in summaries],
        "items": items,
    }


def _sections(
    runs: list[Run],
    profiles: list[Profile],
    summaries: list[Summary],
    frames: dict[str, pd.DataFrame],
    costs: list[paper.ProfileCosts],
) -> dict:
    """Return the template variables of the page's sections."""
    lines = problems.problem_lines(frames["problems"])
    clients = tables.records(frames["clients"])
    return {
        "facts": _facts(runs, profiles, summaries),
        "charts": run_charts(summaries, frames),
        "maps": layer_maps([run.label for run in runs], frames),
        "answered": any(item.clients for item in summaries) or bool(profiles),
        "unmapped": [item.label for item in summaries if item.full_training and not item.failed_rounds],
        "costs": [{"table": item, "charts": profile_charts(item, number)} for number, item in enumerate(costs)],
        "clients": clients,
        "sensors": [name for name in tables.SENSORS if any(row[name] is not None for row in clients)],
        "problems": lines,
        "alarms": [line for line in lines if line["kind"] in ALARMS],
    }


def _facts(runs: list[Run], profiles: list[Profile], summaries: list[Summary]) -> list[tuple[str, list[str]]]:
    """Return the settings as (name, value for each run and profile)."""
    columns = [facts(run, item) for run, item in zip(runs, summaries, strict=True)]
    columns += [facts(profile) for profile in profiles]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "") for column in columns]) for name in names]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedn_partial.client.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": wording.percent, "number": wording.number, "amount": wording.amount}
    environment.globals |= {
        "swatch": swatch,
        "palettes": {"light": style.LIGHT, "dark": style.DARK, "print": style.PRINT},
        "paper": {"layers": paper.LAYERS, "source": figures()["source"]},
        "listed": wording.listed,
        "layers_trained": results.layers_trained,
        "profile_remarks": results.profile_remarks,
        "table3_remarks": table3.table3_remarks,
        "max_clients": MAX_CLIENTS,
        "max_problems": MAX_PROBLEMS,
        "version": fedn_partial.__version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }
    return environment
