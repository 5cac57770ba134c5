"""Show the progress of a session, and write its rows."""

from __future__ import annotations

import shutil
import sys
import time

from fedn_partial.client.fedn_api.api import ApiError
from fedn_partial.client.follow.poller import SETTLE, Round, SessionPoller
from fedn_partial.client.follow.silent import Silent, silent
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.run_folder import Row, RunFolder, weighted_mean
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import Layer

POLL = 1.0  # seconds between two polls
LAST_VALIDATIONS = 60  # seconds to wait for the validations of the last round, for which FEDn does not wait
STUCK_AFTER = 120  # seconds without change beyond the round timeout after which a session counts as stuck
NOT_MERGED = (Outcome.REFUSED, Outcome.SKIPPED, Outcome.LATE)
MAX_PROBLEMS = 20  # problems shown per round


def follow(
    poller: SessionPoller,
    case: Case,
    layers: list[Layer],
    folder: RunFolder,
    check=lambda: (),
    on_event=lambda event: None,
) -> dict:
    """Follow a session to its end: print a line per round, write its rows, and return the final metrics.

    The rows of a round are written two rounds later, when the report of the server functions and most late updates
    have arrived. Rows that arrive later are written immediately.

    Parameters
    ----------
    layers : layers of the model.
    check : called before every poll; returns lines to print. An exception from it ends ``follow``.
    on_event : called with the ``round_event`` of each ended round, and with an event for each other printed line.

    Raises
    ------
    FednPartialError : the session is stuck, or FEDn no longer answers.
    """
    folder.set_layers(layers)
    follower = _SessionFollower(poller, case, len(layers), folder, on_event)
    try:
        while not follower.update(check()):
            time.sleep(POLL)
        final = summary(follower.shown, case, poller.status)
        folder.finish(final)
        return final
    except BaseException as error:
        folder.finish({**summary(follower.shown, case), "problem": str(error) or "interrupted"})
        raise
    finally:
        follower.write(follower.shown)


class _SessionFollower:
    """Prints and writes each part of a session once.

    Attributes
    ----------
    shown : rounds whose line was printed.
    """

    def __init__(self, poller: SessionPoller, case: Case, layers: int, folder: RunFolder, on_event):
        self.poller, self.case, self.layers, self.folder, self.on_event = poller, case, layers, folder, on_event
        self.shown: list[Round] = []
        self._shown_problems: set[tuple[str, str]] = set()  # (round id, client)
        self._shown_notes: set[tuple[int, str]] = set()
        self._written: set[tuple[str, str]] = set()  # (round id, client)
        self._api_error: str | None = None  # of the last poll
        self._api_error_since = 0.0
        self._state, self._last_change, self._inactivity_shown = None, time.monotonic(), False
        self._ended: float | None = None

    def update(self, lines) -> bool:
        """Print `lines`, poll FEDn, print and write what has changed, and return whether the session has ended."""
        for text in lines:
            self._print_network_event(text)
        self._poll()
        now = time.monotonic()
        if self.poller.over:
            self._ended = self._ended or now
        rounds = self._rounds(now)
        self._show_rounds(rounds, now)
        self._show_problems()
        self._show_notes()
        self.write(self.shown[:-2])
        if self._ended and len(self.shown) == len(rounds):
            _clear()
            return True
        _show_running(rounds[len(self.shown) :], self._silent)
        self._check_inactivity(now - self._last_change)
        return False

    def _print(self, text: str, event: dict) -> None:
        _clear()
        print(text, flush=True)
        self.on_event(event)

    def _poll(self) -> None:
        """Poll FEDn. Network errors are printed and do not end the session."""
        previous_error = self._api_error
        try:
            self.poller.poll()
            self._api_error = None
        except ApiError as error:
            self._api_error = str(error)
        now = time.monotonic()
        if self._api_error and previous_error is None:
            self._api_error_since = now
            self._print_network_event(f"{self._api_error} Trying again every {POLL:g} s")
        elif previous_error and self._api_error is None:
            self._print_network_event(f"FEDn answers again, after {duration(now - self._api_error_since)}")
        rounds = self.poller.rounds.values()
        state = [
            (r.id, r.status, len(r.rows), sum(row.accuracy is not None for row in r.rows.values())) for r in rounds
        ]
        if state != self._state:
            self._state, self._last_change, self._inactivity_shown = state, now, False

    def _print_network_event(self, text: str) -> None:
        self._print(text, {"event": "network", "text": text})

    def _rounds(self, now: float) -> list[Round]:
        """Return the rounds, except abandoned ones, which FEDn leaves in a running state."""
        rounds = sorted(self.poller.rounds.values(), key=lambda r: int(r.id))
        running = [] if self._ended and now - self._ended > SETTLE else rounds[-1:]
        return [round_ for round_ in rounds if round_.over or round_ in running]

    def _show_rounds(self, rounds: list[Round], now: float) -> None:
        timeout = SETTLE if self.poller.status == "Terminated" else LAST_VALIDATIONS
        for index, round_ in enumerate(rounds[len(self.shown) :], start=len(self.shown)):
            overdue = any(r.over for r in rounds[index + 1 :]) or (self._ended and now - self._ended > timeout)
            if not (round_.over and (self.poller.validated(round_) or overdue)):
                break
            event = round_event(round_, self.case, self.layers)
            event["problems"] += self._not_answered(round_)
            self._shown_problems |= {(round_.id, client) for client in _problems(round_)}
            _show(event)
            self.on_event(event)
            self.shown.append(round_)

    def _silent(self, round_: Round) -> Silent:
        earlier = [other for other in self.poller.rounds.values() if int(other.id) < int(round_.id)]
        return silent(round_, earlier, self.poller.online, self.case.session.clients_per_round)

    def _not_answered(self, round_: Round) -> list[str]:
        required, online = self.case.session.min_clients, len(round_.online)
        if round_.failed and round_.expected is None and online < required:
            return [f"too few clients were online: {online}, the session needs min_clients={required}"]
        return self._silent(round_).lines(round_.seconds or 0)

    def _show_problems(self) -> None:
        """Print the problems that the server functions reported after the line of their round was printed."""
        for round_ in self.shown:
            problems = _problems(round_).items()
            new = {client: problem for client, problem in problems if (round_.id, client) not in self._shown_problems}
            self._shown_problems |= {(round_.id, client) for client in new}
            for text in limited(list(new.values())):
                self._print(
                    f"  round {round_.number}: {text}", {"event": "problem", "round": round_.number, "text": text}
                )

    def _show_notes(self) -> None:
        for number, text in self.poller.notes():
            if (number, text) not in self._shown_notes:
                self._shown_notes.add((number, text))
                self.folder.add_note(number, text)
                self._print(f"  round {number}: {text}", {"event": "note", "round": number, "text": text})

    def write(self, rounds: list[Round]) -> None:
        """Write the rows of `rounds` that are not written yet."""
        for round_ in rounds:
            new = [row for name, row in round_.rows.items() if (round_.id, name) not in self._written]
            self._written |= {(round_.id, name) for name in round_.rows}
            if new:
                self.folder.write_rows(new)

    def _check_inactivity(self, seconds: float) -> None:
        """Print a possible cause once the session is inactive for a round timeout; raise once it is stuck."""
        restart = "Start the session again: it goes on from the newest model"
        if seconds > self.case.session.round_timeout + STUCK_AFTER:
            raise FednPartialError(
                f"{self._api_error} It has not answered for {duration(seconds)}. {restart}"
                if self._api_error
                else f"no progress for {duration(seconds)}: {self._inactivity_cause()}. FEDn 0.33 gets stuck if its "
                f"combiner is restarted during a round; see the log of its controller. {restart}"
            )
        is_new = not (self._inactivity_shown or self._api_error or self._ended)
        if is_new and seconds > self.case.session.round_timeout:
            self._inactivity_shown = True
            self._print_network_event(f"no progress for {duration(seconds)}: {self._inactivity_cause()}")

    def _inactivity_cause(self) -> str:
        """Return a possible cause of the inactivity as text."""
        required, online = self.case.session.min_clients, len(self.poller.online)
        running = [round_ for round_ in self.poller.rounds.values() if not round_.over]
        waiting = self._silent(running[-1]).summary() if running else "no round is running"
        missing = [f"clients online: {online}, the session needs min_clients={required}"] if online < required else []
        return "; ".join([waiting or "all clients have answered, FEDn does not end the round", *missing])


def summary(rounds: list[Round], case: Case, status: str = "Finished") -> dict:
    """Return the metrics of a session for session.json; "problem" is None if it succeeded.

    "validation_bytes" is the part of "download_bytes" that clients downloaded in rounds in which they only validated;
    "validations" is the same by FEDn's round id. `status` is FEDn's status of the session.
    """
    rows = [row for round_ in rounds for row in round_.rows.values()]
    successful = [round_ for round_ in rounds if not round_.failed]
    last = successful[-1] if successful else None
    validations = {round_.id: sum(round_.validations.values()) for round_ in rounds if round_.validations}
    validation_bytes = sum(validations.values())
    return {
        "accuracy": weighted_mean(last.rows.values(), "accuracy") if last else None,
        "rounds": len(rounds),
        "failed_rounds": len(rounds) - len(successful),
        "upload_bytes": sum(row.upload_bytes or 0 for row in rows),
        "download_bytes": sum(row.download_bytes or 0 for row in rows) + validation_bytes,
        "validation_bytes": validation_bytes,
        "validations": validations,
        "full_upload_bytes": sum(4 * (row.total_params or 0) for row in rows),
        "problem": _problem(rounds, case, status),
    }


def _problem(rounds: list[Round], case: Case, status: str) -> str | None:
    """Return the reason why a session is not a success, or None."""
    done = sum(round_.status != "Terminated" for round_ in rounds)
    if done < case.session.rounds:
        ended = f"after {done} of {case.session.rounds} rounds"
        if status == "Terminated":
            return f"FEDn terminated it {ended}; start the session again: it goes on from the newest model"
        return f"it ended {ended}"
    if rounds[-1].failed:
        return "its last round failed"
    if not any(row.layers for row in rounds[-1].rows.values()):
        return "no client trained in its last round"
    if rounds[-1].unchanged:
        return "no update was merged in its last round"
    return None


def cost_table(rows: list[Row]) -> str:
    """Return a text table of each client's resource use: totals of bytes, means over its rounds of the rest."""
    heads = ("client", "rounds", "layers", "upload", "download", "train s", "round s", "CPU %", "RSS MB", "accuracy")
    lines = [heads]
    for client in sorted({row.client for row in rows}):
        client_rows = [row for row in rows if row.client == client]
        tested = [row.accuracy for row in client_rows if row.accuracy is not None]
        lines.append(
            (
                client,
                str(len(client_rows)),
                _mean([len(row.layers) for row in client_rows]),
                _total([row.upload_bytes for row in client_rows]),
                _total([row.download_bytes for row in client_rows]),
                _mean([row.train_seconds for row in client_rows]),
                _mean([row.round_seconds for row in client_rows]),
                _mean([row.cpu_percent for row in client_rows]),
                _mean([row.rss_peak_mb for row in client_rows]),
                f"{tested[-1]:.3f}" if tested else "n/a",
            )
        )
    return aligned(lines)


def aligned(lines: list[tuple[str, ...]]) -> str:
    """Return rows of cells as a text table with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _mean(values: list) -> str:
    available = [value for value in values if value is not None]
    return f"{sum(available) / len(available):.1f}" if available else "n/a"


def _total(counts: list) -> str:
    return _optional_size(_sum(counts))


def _optional_size(count: float | None) -> str:
    return "n/a" if count is None else size(count)


def size(count: float) -> str:
    """Return a number of bytes as text, such as 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Return a number of seconds as text, such as 3 min."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds:.0f} s"


def round_event(round_: Round, case: Case, layers: int) -> dict:
    """Return the event of a round, for ``round_line`` and for JSON output. Unknown values are None.

    FEDn sends validation requests to all connected clients, including those without a training request:
    "only_validated" is their number, "validation_bytes" the part of "download_bytes" that they downloaded.
    """
    rows = list(round_.rows.values())
    return {
        "event": "round",
        "round": round_.number,
        "fedn_round": round_.id,
        "rounds": case.session.rounds,
        "warmup": round_.warmup,
        "failed": round_.failed,
        "terminated": round_.status == "Terminated",
        "clients": len(rows),
        "clients_asked": round_.expected,
        "layers_trained": len({name for row in rows for name in row.layers}),
        "layers": layers,
        "accuracy": weighted_mean(rows, "accuracy"),
        "upload_bytes": _sum([row.upload_bytes for row in rows]),
        "download_bytes": _sum([row.download_bytes for row in rows] + list(round_.validations.values())),
        "validation_bytes": sum(round_.validations.values()),
        "only_validated": len(round_.validations),
        "seconds": None if round_.seconds is None else round(round_.seconds, 3),
        "problems": limited(list(_problems(round_).values())),
    }


def _sum(values: list) -> float | None:
    """Return the sum of the values that are not None, or None if all of one or more values are None."""
    available = [value for value in values if value is not None]
    return sum(available) if available or not values else None


def _problems(round_: Round) -> dict[str, str]:
    """Return {client: problem} of the clients whose update was not merged."""
    rows = round_.rows.values()
    problems = {row.client: f"{row.client} {row.outcome_text()}" for row in rows if row.outcome in NOT_MERGED}
    if round_.unregistered:
        ids = f"{len(round_.unregistered)} sender id{'s' * (len(round_.unregistered) != 1)}"
        problems[""] = f"updates with {ids} unknown to this FEDn server are not counted"
    return problems


def limited(lines: list[str]) -> list[str]:
    """Return the first MAX_PROBLEMS of `lines`, and a line with the number of the others."""
    more = len(lines) - MAX_PROBLEMS
    return lines[:MAX_PROBLEMS] + [f"and {more} more, see rounds.jsonl"] * (more > 0)


def round_line(event: dict) -> str:
    """Return the line to print for a ``round_event``."""
    if event["failed"]:
        result = f"{'TERMINATED' if event['terminated'] else 'FAILED'}, the global model stays as it was"
    else:
        result = "  ".join(
            (
                f"coverage {event['layers_trained']:2d}/{event['layers']} layers",
                "accuracy n/a" if event["accuracy"] is None else f"accuracy {event['accuracy']:.3f}",
                f"up {_optional_size(event['upload_bytes'])}",
                f"down {_optional_size(event['download_bytes'])}{_only_validated(event)}",
                "" if event["seconds"] is None else f"{event['seconds']:.1f} s",
            )
        )
    if event["round"] is None:  # the server functions did not begin it
        return f"round {event['fedn_round']} of FEDn  {result}"
    kind = {True: "warm-up", False: "partial", None: "-------"}[event["warmup"]]
    requested = "?" if event["clients_asked"] is None else event["clients_asked"]
    number = f"{event['round']:>2} of {event['rounds']}"
    return f"round {number}  {kind}  {event['clients']} of {requested} clients  {result}"


def _only_validated(event: dict) -> str:
    if not event["only_validated"]:
        return ""
    clients = f"{event['only_validated']} client{'s' * (event['only_validated'] != 1)}"
    return f" ({size(event['validation_bytes'])} by {clients} that only validated)"


def _show(event: dict) -> None:
    _clear()
    print("\n  ".join([round_line(event), *event["problems"]]), flush=True)


def _show_running(rounds: list[Round], silent_of) -> None:
    if not sys.stdout.isatty() or not rounds:
        return
    round_ = rounds[-1]
    answers = "validating" if round_.over else f"{len(round_.rows)} updates so far"
    missing = "" if round_.over else silent_of(round_).summary()
    _clear()
    seconds = f"{time.monotonic() - round_.started:.0f} s"
    text = ", ".join(filter(None, (f"round running: {answers}", seconds, missing)))
    print(text[: shutil.get_terminal_size().columns - 1], end="", flush=True)


def _clear() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="")
