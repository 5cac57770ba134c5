"""Shows a session as it goes on, and writes its rows."""

from __future__ import annotations

import sys
import time

from fedn_partial.client.runs import RunFolder
from fedn_partial.client.watch import Round, Watcher, accuracy
from fedn_partial.errors import FednPartialError
from fedn_partial.settings import Case

POLL = 1.0  # seconds between two looks
LAST_VALIDATIONS = 60  # seconds that a round's validations may take; FEDn does not wait for them
PATIENCE = 120  # seconds beyond a round's timeout without any news, after which the session counts as stuck


def follow(watcher: Watcher, case: Case, layers: int, folder: RunFolder, check=lambda: None) -> dict:
    """Follow a session to its end, show each round, write its rows, and return the final metrics.

    Parameters
    ----------
    layers : how many the model has. check : called at every look; what it raises ends the following.

    Raises
    ------
    FednPartialError : the session is stuck.
    """
    shown: list[Round] = []
    over_since = last_news = time.monotonic()
    news = None
    while True:
        check()
        watcher.poll()
        waiting = [r for r in watcher.rounds.values() if r not in shown]
        now = time.monotonic()
        state = [
            (r.id, r.status, len(r.rows), sum(row.accuracy is not None for row in r.rows.values())) for r in waiting
        ]
        if state != news:
            news, last_news = state, now
        ended = watcher.status in ("Finished", "Terminated")
        if not ended:
            over_since = now
        for round_ in waiting:
            later = any(r.over for r in waiting if r is not round_ and int(r.id) > int(round_.id))
            complete = round_.over and (watcher.validated(round_) or later or now - over_since > LAST_VALIDATIONS)
            if not complete:
                break
            _show(round_, case, layers)
            folder.write_rows(list(round_.rows.values()))
            shown.append(round_)
        else:
            if ended:
                return summary(shown)
        _show_running(waiting)
        if now - last_news > case.session.round_timeout + PATIENCE:
            raise FednPartialError(
                f"nothing has happened for {now - last_news:.0f} s: FEDn's session is stuck, which happens in 0.33 when fewer "
                f"clients than min_clients={case.session.min_clients} are connected; start the clients and the session again"
            )
        time.sleep(POLL)


def summary(rounds: list[Round]) -> dict:
    """Return the final metrics of a session."""
    rows = [row for round_ in rounds for row in round_.rows.values()]
    good = [round_ for round_ in rounds if not round_.failed]
    last = good[-1] if good else None
    return {
        "accuracy": accuracy(last.rows.values()) if last else None,
        "rounds": len(rounds),
        "failed_rounds": len(rounds) - len(good),
        "upload_bytes": sum(row.upload_bytes or 0 for row in rows),
        "download_bytes": sum(row.download_bytes or 0 for row in rows),
        "full_upload_bytes": sum(4 * (row.total_params or 0) for row in rows),
        "success": bool(rounds) and last is rounds[-1],
    }


def table(rounds_shown: list[dict]) -> str:
    """Return rows of equal keys as an aligned text table."""
    if not rounds_shown:
        return ""
    heads = list(rounds_shown[0])
    cells = [[str(row[head]) for head in heads] for row in rounds_shown]
    widths = [max(len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(heads)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *cells]
    )


def size(count: float | None) -> str:
    """Return a number of bytes in words: 1.2 MB."""
    if count is None:
        return "n/a"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _show(round_: Round, case: Case, layers: int) -> None:
    rows = list(round_.rows.values())
    if round_.failed:
        line = "FAILED, the global model stays as it was"
    else:
        covered = {name for row in rows for name in row.layers}
        tested = accuracy(rows)
        line = "  ".join(
            (
                f"coverage {len(covered):2d}/{layers} layers",
                f"accuracy {tested:.3f}" if tested is not None else "accuracy n/a",
                f"up {size(sum(row.upload_bytes or 0 for row in rows))}",
                f"down {size(sum(row.download_bytes or 0 for row in rows))}",
                f"{round_.seconds:.1f} s" if round_.seconds is not None else "",
            )
        )
    kind = "full" if round_.warmup else "part"
    asked = "?" if round_.expected is None else round_.expected
    number = round_.number if round_.number is not None else f"FEDn's {round_.id}"
    _clear()
    print(f"round {number:>2} of {case.session.rounds}  {kind}  {len(rows)} of {asked} clients  {line}", flush=True)
    for row in rows:
        if row.outcome.startswith(("refused", "skipped")):
            print(f"  {row.client} {row.outcome}", flush=True)


def _show_running(waiting: list[Round]) -> None:
    if not sys.stdout.isatty() or not waiting:
        return
    round_ = waiting[-1]
    answers = "validating" if round_.over else f"{len(round_.rows)} updates so far"
    _clear()
    print(
        f"round {len(waiting) and round_.id} running: {answers}, {time.monotonic() - round_.started:.0f} s",
        end="",
        flush=True,
    )


def _clear() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="")
