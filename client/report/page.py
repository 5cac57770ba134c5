"""Writes a report: one HTML page, complete in itself, and a folder with the CSV files of its figures beside it."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from urllib.parse import quote

import jinja2

import fedn_partial
from fedn_partial.client.records.load import Profile, Run, load
from fedn_partial.client.report import captions, exhibits, paper, statistics
from fedn_partial.client.report.statistics import Summary, Table
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

MOST_CLIENTS = 40  # lines of the page's table of clients
MOST_PROBLEMS = 30  # lines of the page's table of problems
ALARMS = ("refused", "skipped", "round failed", "no answer", "noted")  # problems that the page's head mentions
MADE = "files.txt"  # in the folder of the CSV files: which of them are a report's
CSV_NAMES = tuple(
    f"{name}.csv"
    for name in (
        *("runs", "rounds", "costs", "layers", "layers_by_client", "staleness", "clients", "problems"),
        *("flavours", "table3", "table4", "table5"),
    )
)


def write_report(folders: list[Path], output: Path) -> dict:
    """Write the report of runs and profiles to `output`, and its CSV files into the folder `output`_data beside it.

    Returns
    -------
    "output", "csv" (paths), "result" (one sentence a run or profile), "runs" (key figures by run), "profiles" (cells).

    Raises
    ------
    FednPartialError : a folder that holds no run or profile, or a damaged file in it.
    """
    if not folders:
        raise FednPartialError("a report needs at least one folder of a run, such as runs/NAME")
    if not output.name or output.is_dir():
        raise FednPartialError(f"{output} is a folder; name a file for the report, such as report.html")
    runs, profiles = load(folders)
    memory = statistics.memory_column(runs)
    summaries = [statistics.summary(run, memory) for run in runs]
    found = [paper.costs(profile) for profile in profiles]
    sent = paper.table3(runs, profiles)
    tables = _tables(runs, profiles, summaries, memory, found, sent)
    main = next((one for one in summaries if not one.full_training), summaries[0] if summaries else None)
    full = _full(main, runs, summaries)
    results = [(main.label, captions.result(main, full))] if main else []
    results += [(one.profile.label, captions.profile_result(one)) for one in found]
    several = len(folders) > 1
    sentences = [f"{label}: {sentence}" if several else sentence for label, sentence in results]

    data = output.with_name(f"{output.stem}_data")
    output.parent.mkdir(parents=True, exist_ok=True)
    written = _write_csv(data, tables.values())
    problems = captions.problem_lines(tables["problems"])
    page = _environment().get_template("page.html")
    text = page.render(
        title=captions.listed([item.label for item in [*runs, *profiles]]),
        subtitle=captions.subtitle((runs or profiles)[0], summaries[0] if summaries else None),
        sentences=sentences,
        problems_of_runs=[one for one in summaries if one.problem],
        cut_off=[run for run in runs if run.cut_off],
        summaries=summaries,
        main=main,
        full=full,
        tiles=captions.tiles(main, full) if main and len(summaries) == 1 and main.clients else [],
        facts=_facts(runs, profiles, summaries),
        labels=[one.label for one in summaries],
        items=[item.label for item in [*runs, *profiles]],
        charts=exhibits.run_charts(runs, summaries, tables),
        maps=exhibits.layer_maps(runs, tables),
        answered=any(one.clients for one in summaries) or bool(profiles),
        unmapped=[one.label for one in summaries if one.full_training and not one.failed_rounds],
        costs=[{"table": one, "charts": exhibits.profile_charts(one, number)} for number, one in enumerate(found)],
        table3=sent,
        paper=paper,
        clients=tables["clients"].records() if runs else [],
        sensors=[
            name for name in statistics.SENSORS if any(row[name] is not None for row in tables["clients"].records())
        ],
        most_clients=MOST_CLIENTS,
        problems=problems,
        alarms=[line for line in problems if line["kind"] in ALARMS],
        most_problems=MOST_PROBLEMS,
        memory=memory,
        files=[path.name for path in written],
        folder=quote(data.name),
        version=fedn_partial.__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        captions=captions,
        swatch=exhibits.swatch,
    )
    write_text(output, text)
    return {
        "output": str(output),
        "csv": [str(path) for path in written],
        "result": [sentence.replace(captions.SPACE, " ") for sentence in sentences],
        "runs": tables["runs"].records(),
        "profiles": tables["flavours"].records(),
    }


def _full(main: Summary | None, runs: list[Run], summaries: list[Summary]) -> Summary | None:
    """Return the run of full training that `main` can be compared with: the same model and data, every layer."""
    if main is None or main.full_training:
        return None
    of = dict(zip((one.label for one in summaries), runs, strict=True))
    alike = [
        one
        for one in summaries
        if (of[one.label].setting("model"), of[one.label].data)
        == (of[main.label].setting("model"), of[main.label].data)
    ]
    return statistics.baseline(alike)


def _tables(
    runs: list[Run],
    profiles: list[Profile],
    summaries: list[Summary],
    memory: str,
    found: list[paper.Costs],
    sent: list[paper.Sent],
) -> dict[str, Table]:
    layers = statistics.layers_table(runs)
    tables = [
        statistics.runs_table(summaries),
        statistics.rounds_table(runs),
        statistics.costs_table(runs, memory),
        layers,
        statistics.layers_by_client_table(runs),
        statistics.staleness_table(runs, layers),
        statistics.clients_table(runs, memory),
        statistics.problems_table(runs, profiles),
        statistics.flavours_table(profiles),
        paper.table3_csv(sent),
        *(paper.costs_csv(number, [one for one in found if one.table == number]) for number in (4, 5)),
    ]
    return {table.name: table for table in tables}


def _write_csv(folder: Path, tables) -> list[Path]:
    """Write the tables that have rows; files of an earlier report are replaced, and of nobody else."""
    made = folder / MADE
    earlier = made.read_text(encoding="utf-8").split() if made.exists() else []
    tables = {f"{table.name}.csv": table for table in tables if table.rows}
    if foreign := [name for name in tables if name not in earlier and (folder / name).exists()]:
        raise FednPartialError(f"{folder / foreign[0]} is not of an earlier report; choose another name for the report")
    folder.mkdir(exist_ok=True)
    for name in earlier:
        if name in CSV_NAMES:
            (folder / name).unlink(missing_ok=True)
    write_text(made, "\n".join(tables) + "\n")
    for name, table in tables.items():
        content = io.StringIO()
        writer = csv.writer(content)
        writer.writerow(table.columns)
        writer.writerows([[_harmless(cell) for cell in row] for row in table.rows])
        write_text(folder / name, content.getvalue())
    return [folder / name for name in tables]


def _harmless(cell):
    """Return a cell that no spreadsheet takes for a formula: names and reasons come from devices."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedn_partial.client.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": captions.percent,
        "number": captions.number,
        "amount": captions.amount,
    }
    return environment


def _facts(runs: list[Run], profiles: list[Profile], summaries: list[Summary]) -> list[tuple[str, list[str]]]:
    """Return what ran: name, and a value for each run and profile."""
    columns = [dict(captions.facts(run, one)) for run, one in zip(runs, summaries, strict=True)]
    columns += [dict(captions.facts(profile)) for profile in profiles]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "") for column in columns]) for name in names]
