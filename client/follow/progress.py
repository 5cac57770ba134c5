"""Shows a session as it goes on, and writes its rows."""

from __future__ import annotations

import shutil
import sys
import time

from fedn_partial.client.fedn_api.api import ApiError
from fedn_partial.client.follow.poller import SETTLE, Round, SessionPoller
from fedn_partial.client.follow.silent import Silent, silent
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.run_folder import Row, RunFolder, over_examples
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import Layer

POLL = 1.0  # seconds between two looks
LAST_VALIDATIONS = 60  # seconds that a round's validations may take; FEDn does not wait for them
PATIENCE = 120  # seconds beyond a round's timeout without any news, after which the session counts as stuck
NOT_MERGED = (Outcome.REFUSED, Outcome.SKIPPED, Outcome.LATE)
MOST_PROBLEMS = 20  # as many of a round are shown


def follow(
    poller: SessionPoller,
    case: Case,
    layers: list[Layer],
    folder: RunFolder,
    check=lambda: (),
    on_event=lambda event: None,
) -> dict:
    """Follow a session to its end, show each round, write its rows, and return the final metrics.

    A round's rows are written two rounds later, when the server functions have said what they did with them, and
    with those that came late. Rows that come later still are written as they come.

    Parameters
    ----------
    layers : layers of the model.
    check : called at every look; it returns sentences to be shown, and what it raises ends the following.
    on_event : called with the ``figures`` of each round that is over, and with each sentence that is shown.

    Raises
    ------
    FednPartialError : the session is stuck, or FEDn does not answer any more.
    """
    folder.know_layers(layers)
    following = _Following(poller, case, len(layers), folder, on_event)
    try:
        while not following.look(check()):
            time.sleep(POLL)
        final = summary(following.shown, case, poller.status)
        folder.finish(final)
        return final
    except BaseException as error:
        folder.finish({**summary(following.shown, case), "problem": str(error) or "interrupted"})
        raise
    finally:
        following.write(following.shown)


class _Following:
    """What was shown and written of a session so far.

    Attributes
    ----------
    shown : rounds whose line was shown.
    """

    def __init__(self, poller: SessionPoller, case: Case, layers: int, folder: RunFolder, on_event):
        self.poller, self.case, self.layers, self.folder, self.on_event = poller, case, layers, folder, on_event
        self.shown: list[Round] = []
        self._said: set[tuple[str, str]] = set()  # id of a round, client with a problem
        self._notes: set[tuple[int, str]] = set()  # that were shown
        self._written: set[tuple[str, str]] = set()  # id of a round, client
        self._problem: str | None = None  # why FEDn does not answer
        self._problem_since = 0.0
        self._news, self._last_news, self._quiet_said = None, time.monotonic(), False
        self._ended: float | None = None

    def look(self, sentences) -> bool:
        """Ask FEDn what is new, show it after the `sentences`, and return whether the session is over."""
        for sentence in sentences:
            self._say(sentence, {"event": "network", "text": sentence})
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
        self._judge(now - self._last_news)
        return False

    def _say(self, text: str, event: dict) -> None:
        _clear()
        print(text, flush=True)
        self.on_event(event)

    def _poll(self) -> None:
        """Poll FEDn. A network that fails for a while must not end a session."""
        before = self._problem
        try:
            self.poller.poll()
            self._problem = None
        except ApiError as error:
            self._problem = str(error)
        now = time.monotonic()
        if self._problem and before is None:
            self._problem_since = now
            self._network(f"{self._problem} Trying again every {POLL:g} s")
        elif before and self._problem is None:
            self._network(f"FEDn answers again, after {duration(now - self._problem_since)}")
        rounds = self.poller.rounds.values()
        news = [(r.id, r.status, len(r.rows), sum(row.accuracy is not None for row in r.rows.values())) for r in rounds]
        if news != self._news:
            self._news, self._last_news, self._quiet_said = news, now, False

    def _network(self, text: str) -> None:
        self._say(text, {"event": "network", "text": text})

    def _rounds(self, now: float) -> list[Round]:
        """Return the rounds without those that FEDn gave up, which it leaves as if they went on."""
        rounds = sorted(self.poller.rounds.values(), key=lambda r: int(r.id))
        running = [] if self._ended and now - self._ended > SETTLE else rounds[-1:]
        return [round_ for round_ in rounds if round_.over or round_ in running]

    def _show_rounds(self, rounds: list[Round], now: float) -> None:
        patience = SETTLE if self.poller.status == "Terminated" else LAST_VALIDATIONS
        for index, round_ in enumerate(rounds[len(self.shown) :], start=len(self.shown)):
            late = any(r.over for r in rounds[index + 1 :]) or (self._ended and now - self._ended > patience)
            if not (round_.over and (self.poller.validated(round_) or late)):
                break
            event = figures(round_, self.case, self.layers)
            event["problems"] += self._not_answered(round_)
            self._said |= {(round_.id, client) for client in _problems(round_)}
            _show(event)
            self.on_event(event)
            self.shown.append(round_)

    def _silent(self, round_: Round) -> Silent:
        earlier = [other for other in self.poller.rounds.values() if int(other.id) < int(round_.id)]
        return silent(round_, earlier, self.poller.online, self.case.session.clients_per_round)

    def _not_answered(self, round_: Round) -> list[str]:
        needed, online = self.case.session.min_clients, len(round_.online)
        if round_.failed and round_.expected is None and online < needed:
            return [f"too few clients were online: {online}, the session needs min_clients={needed}"]
        return self._silent(round_).sentences(round_.seconds or 0)

    def _show_problems(self) -> None:
        """Show what the server functions said of updates after their round's line was shown."""
        for round_ in self.shown:
            problems = _problems(round_).items()
            new = {client: problem for client, problem in problems if (round_.id, client) not in self._said}
            self._said |= {(round_.id, client) for client in new}
            for text in bounded(list(new.values())):
                self._say(
                    f"  round {round_.number}: {text}", {"event": "problem", "round": round_.number, "text": text}
                )

    def _show_notes(self) -> None:
        for number, text in self.poller.notes():
            if (number, text) not in self._notes:
                self._notes.add((number, text))
                self.folder.note(number, text)
                self._say(f"  round {number}: {text}", {"event": "note", "round": number, "text": text})

    def write(self, rounds: list[Round]) -> None:
        """Write the rows of `rounds` that were not written before."""
        for round_ in rounds:
            new = [row for name, row in round_.rows.items() if (round_.id, name) not in self._written]
            self._written |= {(round_.id, name) for name in round_.rows}
            if new:
                self.folder.write_rows(new)

    def _judge(self, quiet: float) -> None:
        """Say what is known when nothing has happened for `quiet` seconds, and end the following of a stuck session."""
        again = "Start the session again: it goes on from the newest model"
        if quiet > self.case.session.round_timeout + PATIENCE:
            raise FednPartialError(
                f"{self._problem} It has not answered for {duration(quiet)}. {again}"
                if self._problem
                else f"nothing has happened for {duration(quiet)}: {self._known()}. FEDn 0.33 sticks when its combiner "
                f"was restarted in mid-round; its controller's log says more. {again}"
            )
        waits = not (self._quiet_said or self._problem or self._ended)
        if waits and quiet > self.case.session.round_timeout:
            self._quiet_said = True
            self._network(f"nothing has happened for {duration(quiet)}: {self._known()}")

    def _known(self) -> str:
        """Return why nothing happens, as far as that is known."""
        needed, online = self.case.session.min_clients, len(self.poller.online)
        running = [round_ for round_ in self.poller.rounds.values() if not round_.over]
        waiting = self._silent(running[-1]).summary() if running else "no round is running"
        few = [f"clients online: {online}, the session needs min_clients={needed}"] if online < needed else []
        return "; ".join([waiting or "all clients have answered, FEDn does not end the round", *few])


def summary(rounds: list[Round], case: Case, status: str = "Finished") -> dict:
    """Return the metrics of a session so far; "problem" is None if it ended as `case` asked.

    "validation_bytes" are the part of "download_bytes" that clients downloaded for a round in which they only
    validated, "validations" the same by FEDn's number of the round. `status` is FEDn's of the session.
    """
    rows = [row for round_ in rounds for row in round_.rows.values()]
    good = [round_ for round_ in rounds if not round_.failed]
    last = good[-1] if good else None
    validations = {round_.id: sum(round_.validations.values()) for round_ in rounds if round_.validations}
    validation_bytes = sum(validations.values())
    return {
        "accuracy": over_examples(last.rows.values(), "accuracy") if last else None,
        "rounds": len(rounds),
        "failed_rounds": len(rounds) - len(good),
        "upload_bytes": sum(row.upload_bytes or 0 for row in rows),
        "download_bytes": sum(row.download_bytes or 0 for row in rows) + validation_bytes,
        "validation_bytes": validation_bytes,
        "validations": validations,
        "full_upload_bytes": sum(4 * (row.total_params or 0) for row in rows),
        "problem": _problem(rounds, case, status),
    }


def _problem(rounds: list[Round], case: Case, status: str) -> str | None:
    """Return what keeps a session from counting as a success, or None."""
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
    return _size_or_not_known(_sum(counts))


def _size_or_not_known(count: float | None) -> str:
    return "n/a" if count is None else size(count)


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
    """Return what is told of a round: to people as a line, to machines as JSON. What is not known is None.

    FEDn asks all connected clients to validate a model, also those that it did not ask to train: "only_validated" says
    how many, "validation_bytes" what they downloaded, which is in "download_bytes".
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
        "accuracy": over_examples(rows, "accuracy"),
        "upload_bytes": _sum([row.upload_bytes for row in rows]),
        "download_bytes": _sum([row.download_bytes for row in rows] + list(round_.validations.values())),
        "validation_bytes": sum(round_.validations.values()),
        "only_validated": len(round_.validations),
        "seconds": None if round_.seconds is None else round(round_.seconds, 3),
        "problems": bounded(list(_problems(round_).values())),
    }


def _sum(values: list) -> float | None:
    """Return the sum of the known values, or None if there are values and none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known or not values else None


def _problems(round_: Round) -> dict[str, str]:
    """Return {client: problem} of the clients whose update was not merged."""
    rows = round_.rows.values()
    problems = {row.client: f"{row.client} {row.outcome_text()}" for row in rows if row.outcome in NOT_MERGED}
    if round_.strangers:
        ids = f"{len(round_.strangers)} id{'s' * (len(round_.strangers) != 1)}"
        problems[""] = f"updates under {ids} that this FEDn server has no client for are not counted"
    return problems


def bounded(lines: list[str]) -> list[str]:
    """Return at most MOST_PROBLEMS of `lines`, and how many more there are."""
    more = len(lines) - MOST_PROBLEMS
    return lines[:MOST_PROBLEMS] + [f"and {more} more, see rounds.jsonl"] * (more > 0)


def line(event: dict) -> str:
    """Return the ``figures`` of a round as people read them."""
    if event["failed"]:
        what = f"{'TERMINATED' if event['terminated'] else 'FAILED'}, the global model stays as it was"
    else:
        what = "  ".join(
            (
                f"coverage {event['layers_trained']:2d}/{event['layers']} layers",
                "accuracy n/a" if event["accuracy"] is None else f"accuracy {event['accuracy']:.3f}",
                f"up {_size_or_not_known(event['upload_bytes'])}",
                f"down {_size_or_not_known(event['download_bytes'])}{_only_validated(event)}",
                "" if event["seconds"] is None else f"{event['seconds']:.1f} s",
            )
        )
    kind = {True: "warm-up", False: "partial", None: "-------"}[event["warmup"]]
    requested = "?" if event["clients_asked"] is None else event["clients_asked"]
    number = f"FEDn's {event['fedn_round']}" if event["round"] is None else event["round"]
    return f"round {number:>2} of {event['rounds']}  {kind}  {event['clients']} of {requested} clients  {what}"


def _only_validated(event: dict) -> str:
    if not event["only_validated"]:
        return ""
    clients = f"{event['only_validated']} client{'s' * (event['only_validated'] != 1)}"
    return f" ({size(event['validation_bytes'])} by {clients} that only validated)"


def _show(event: dict) -> None:
    _clear()
    print("\n  ".join([line(event), *event["problems"]]), flush=True)


def _show_running(waiting: list[Round], silent_of) -> None:
    if not sys.stdout.isatty() or not waiting:
        return
    round_ = waiting[-1]
    answers = "validating" if round_.over else f"{len(round_.rows)} updates so far"
    missing = "" if round_.over else silent_of(round_).summary()
    _clear()
    seconds = f"{time.monotonic() - round_.started:.0f} s"
    text = ", ".join(filter(None, (f"round running: {answers}", seconds, missing)))
    print(text[: shutil.get_terminal_size().columns - 1], end="", flush=True)


def _clear() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="")
