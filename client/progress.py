"""Shows a session as it goes on, and writes its rows."""

from __future__ import annotations

import sys
import time

from fedn_partial.client.runs import Row, RunFolder, over_examples
from fedn_partial.client.watch import Round, Watcher
from fedn_partial.errors import FednPartialError
from fedn_partial.layers import Layer
from fedn_partial.seed_model.api import ApiError
from fedn_partial.settings import Case

POLL = 1.0  # seconds between two looks
LAST_VALIDATIONS = 60  # seconds that a round's validations may take; FEDn does not wait for them
PATIENCE = 120  # seconds beyond a round's timeout without any news, after which the session counts as stuck


def follow(
    watcher: Watcher, case: Case, table: list[Layer], folder: RunFolder, check=lambda: (), tell=lambda event: None
) -> dict:
    """Follow a session to its end, show each round, write its rows, and return the final metrics.

    A round's rows are written one round later, when the server functions have said what they did with them.

    Parameters
    ----------
    table : layers of the model.
    check : called at every look; it returns sentences to be shown, and what it raises ends the following.
    tell : called with the ``figures`` of each round that is over.

    Raises
    ------
    FednPartialError : the session is stuck, or FEDn does not answer any more.
    """
    folder.know_layers(table)
    shown: list[Round] = []
    written = 0  # how many of them are in the run's folder
    news, last_news, ended_at = None, time.monotonic(), None
    try:
        while True:
            for sentence in check():
                _clear()
                print(sentence, flush=True)
                tell({"event": "network", "text": sentence})
            problem = _poll(watcher)
            now = time.monotonic()
            rounds = sorted(watcher.rounds.values(), key=lambda r: int(r.id))
            state = [
                (r.id, r.status, len(r.rows), sum(row.accuracy is not None for row in r.rows.values())) for r in rounds
            ]
            if state != news:
                news, last_news = state, now
            if watcher.status in ("Finished", "Terminated"):
                ended_at = ended_at or now
            for index, round_ in enumerate(rounds[len(shown) :], start=len(shown)):
                late = any(r.over for r in rounds[index + 1 :]) or (ended_at and now - ended_at > LAST_VALIDATIONS)
                if not (round_.over and (watcher.validated(round_) or late)):
                    break
                known = figures(round_, case, len(table))
                _show(known)
                tell(known)
                shown.append(round_)
                written = _write(folder, shown[:-1], written)
            if ended_at and len(shown) == len(rounds):
                _clear()
                final = summary(shown, case)
                folder.finish(final)
                return final
            _show_running(rounds[len(shown) :])
            if now - last_news > case.session.round_timeout + PATIENCE:
                raise FednPartialError(
                    problem
                    or f"nothing has happened for {now - last_news:.0f} s. FEDn 0.33 sticks when its combiner was "
                    "restarted in mid-round, or when fewer clients than "
                    f"min_clients={case.session.min_clients} are connected; its controller's log says more. "
                    "Start the session again: it goes on from the newest model"
                )
            time.sleep(POLL)
    except BaseException as error:
        folder.finish({**summary(shown, case), "problem": str(error) or "interrupted"})
        raise
    finally:
        _write(folder, shown, written)


def _poll(watcher: Watcher) -> str | None:
    """Bring `watcher` up to date; return what went wrong. A network that fails for a while must not end a session."""
    try:
        watcher.poll()
    except ApiError as error:
        return str(error)
    return None


def _write(folder: RunFolder, rounds: list[Round], written: int) -> int:
    """Write the rows of `rounds` but the first `written`; return how many are written now."""
    for round_ in rounds[written:]:
        folder.write_rows(list(round_.rows.values()))
    return len(rounds)


def summary(rounds: list[Round], case: Case) -> dict:
    """Return the metrics of a session so far; "problem" is None if it ended as `case` asked."""
    rows = [row for round_ in rounds for row in round_.rows.values()]
    good = [round_ for round_ in rounds if not round_.failed]
    last = good[-1] if good else None
    return {
        "accuracy": over_examples(last.rows.values(), "accuracy") if last else None,
        "rounds": len(rounds),
        "failed_rounds": len(rounds) - len(good),
        "upload_bytes": sum(row.upload_bytes or 0 for row in rows),
        "download_bytes": sum(row.download_bytes or 0 for row in rows),
        "full_upload_bytes": sum(4 * (row.total_params or 0) for row in rows),
        "problem": _problem(rounds, case),
    }


def _problem(rounds: list[Round], case: Case) -> str | None:
    """Return what keeps a session from counting as a success, or None."""
    if len(rounds) < case.session.rounds:
        return f"it ended after {len(rounds)} of {case.session.rounds} rounds"
    if rounds[-1].failed:
        return "its last round failed"
    if not any(row.layers for row in rounds[-1].rows.values()):
        return "no client trained in its last round"
    return None


def cost_table(rows: list[Row]) -> str:
    """Return a text table of what the rounds of `rows` cost each client; means are over its rounds."""
    heads = ("client", "rounds", "layers", "upload", "download", "train s", "round s", "CPU %", "RSS MB", "accuracy")
    lines = [heads]
    for client in sorted({row.client for row in rows}):
        own = [row for row in rows if row.client == client]
        tested = [row.accuracy for row in own if row.accuracy is not None]
        lines.append(
            (
                client,
                str(len(own)),
                _mean([len(row.layers) for row in own]),
                _total([row.upload_bytes for row in own]),
                _total([row.download_bytes for row in own]),
                _mean([row.train_seconds for row in own]),
                _mean([row.round_seconds for row in own]),
                _mean([row.cpu_percent for row in own]),
                _mean([row.rss_peak_mb for row in own]),
                f"{tested[-1]:.3f}" if tested else "n/a",
            )
        )
    return aligned(lines)


def aligned(lines: list[tuple[str, ...]]) -> str:
    """Return rows of cells as a text table with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _mean(values: list) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1f}" if known else "n/a"


def _total(counts: list) -> str:
    known = [count for count in counts if count is not None]
    return size(sum(known)) if known else "n/a"


def size(count: float) -> str:
    """Return a number of bytes in words: 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Return a number of seconds in words: 3 min."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds:.0f} s"


def figures(round_: Round, case: Case, layers: int) -> dict:
    """Return what is told of a round: to people as a line, to machines as JSON. What is not known is None."""
    rows = list(round_.rows.values())
    return {
        "event": "round",
        "round": round_.number,
        "fedn_round": round_.id,
        "rounds": case.session.rounds,
        "warmup": round_.warmup,
        "failed": round_.failed,
        "clients": len(rows),
        "clients_asked": round_.expected,
        "layers_trained": len({name for row in rows for name in row.layers}),
        "layers": layers,
        "accuracy": over_examples(rows, "accuracy"),
        "upload_bytes": sum(row.upload_bytes or 0 for row in rows),
        "download_bytes": sum(row.download_bytes or 0 for row in rows),
        "seconds": None if round_.seconds is None else round(round_.seconds, 3),
        "problems": [f"{row.client} {row.outcome}" for row in rows if row.outcome.startswith(("refused", "skipped"))],
    }


def line(known: dict) -> str:
    """Return the ``figures`` of a round as people read them."""
    if known["failed"]:
        what = "FAILED, the global model stays as it was"
    else:
        what = "  ".join(
            (
                f"coverage {known['layers_trained']:2d}/{known['layers']} layers",
                "accuracy n/a" if known["accuracy"] is None else f"accuracy {known['accuracy']:.3f}",
                f"up {size(known['upload_bytes'])}",
                f"down {size(known['download_bytes'])}",
                "" if known["seconds"] is None else f"{known['seconds']:.1f} s",
            )
        )
    kind = {True: "warm-up", False: "partial", None: "-------"}[known["warmup"]]
    asked = "?" if known["clients_asked"] is None else known["clients_asked"]
    number = f"FEDn's {known['fedn_round']}" if known["round"] is None else known["round"]
    return f"round {number:>2} of {known['rounds']}  {kind}  {known['clients']} of {asked} clients  {what}"


def _show(known: dict) -> None:
    _clear()
    print("\n  ".join([line(known), *known["problems"]]), flush=True)


def _show_running(waiting: list[Round]) -> None:
    if not sys.stdout.isatty() or not waiting:
        return
    round_ = waiting[-1]
    answers = "validating" if round_.over else f"{len(round_.rows)} updates so far"
    _clear()
    print(f"round running: {answers}, {time.monotonic() - round_.started:.0f} s", end="", flush=True)


def _clear() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="")
