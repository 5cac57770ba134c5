"""Poll the state of a session through FEDn's REST interface.

Update metadata and validation metrics come from the statuses that clients send after each task, outcomes of updates
from the settings of later rounds. FEDn's list of validations is not used, as it lacks client ids with an SQL database.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from fedn_partial.client.fedn_api.api import SESSION_OVER, Api, read_date
from fedn_partial.client.follow.listing import Listing
from fedn_partial.client.follow.outcomes import outcome
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.run_folder import Row
from fedn_partial.exchange.wire import plain, short_digest
from fedn_partial.submodel.update_tensors import STATISTICS

# Columns of ``Row`` copied by name from the metadata of an update, and from the resources in it.
FROM_METADATA = (
    *("trained_params", "total_params", "training_macs"),
    *("download_bytes", "train_loss", "predicted_memory_mb"),
)
FROM_RESOURCES = (
    *("cpu_seconds", "cpu_percent", "rss_peak_mb", "memory_peak_mb"),
    *("machine_cpu_percent", "ram_used_mb", "ram_percent", "gpu_percent", "temperature_c", "power_mw"),
)

SIGNED = ("train_loss", "loss", "temperature_c")  # columns that may be negative
LARGEST = 1e15  # limit of any number in a row: bytes, weights, seconds, operations
CLIENTS_PERIOD = 5  # seconds between two updates of FEDn's list of online clients
SETTLE = 10  # seconds after a round in which FEDn may still write the statuses of its last updates


@dataclass
class Round:
    """One FEDn round of the session.

    Attributes
    ----------
    id : FEDn's round id.
    model, new_model : ids of the global model before and after the round; `new_model` is None if there is none.
    rows : {client: row}.
    ids : {FEDn's id of a client: key in `rows`}.
    expected : number of clients that received a request, or None while unknown.
    aggregated : number of updates at FEDn's combiner at the end of the round, refusals included.
    online : {FEDn's id: name} of the clients that were online at the start of the round.
    validations : {FEDn's id: bytes downloaded} of clients that tested the new model without an update in this round.
    unregistered : sender ids of updates that belong to no client known to FEDn or the server functions.
    base : digest of `model`, as reported by the server functions.
    model_digests : {FEDn's id: short digest of the new model, as reported by the client that tested it}.
    """

    id: str
    model: str | None = None
    new_model: str | None = None
    status: str = "Pending"
    number: int | None = None
    warmup: bool | None = None
    expected: int | None = None
    aggregated: int | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    online: dict[str, str] = field(default_factory=dict)
    validations: dict[str, float] = field(default_factory=dict)
    unregistered: set[str] = field(default_factory=set)
    base: str | None = None
    model_digests: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    seconds: float | None = None

    @property
    def failed(self) -> bool:
        return self.status in ("Failed", "Terminated")

    @property
    def over(self) -> bool:
        return self.failed or self.status == "Finished"

    @property
    def unchanged(self) -> bool:
        """Whether most clients that tested the new model report the digest of the old one: nothing was merged."""
        same = sum(digest == short_digest(self.base) for digest in self.model_digests.values()) if self.base else 0
        return 2 * same > len(self.model_digests)


class SessionPoller:
    """The state of one session, updated by ``poll``.

    Attributes
    ----------
    status : FEDn's status of the session.
    rounds : {FEDn's round id: round}.
    online : {FEDn's id: name} of the clients that are online.
    """

    def __init__(self, api: Api, session_id: str):
        self.api = api
        self.session_id = session_id
        self.status = "Created"
        self.rounds: dict[str, Round] = {}
        self.online: dict[str, str] = {}
        self._clients_read = -math.inf
        self._registered: set[str] = set()  # FEDn's ids of all clients that ever connected
        self._started: datetime | None = None
        self._reports: dict[int, dict] = {}  # {round number: report of the server functions}
        self._names: dict[str, str] = {}  # {FEDn's id of a client: its name in the rows}
        self._pending_updates: list[str] = []  # updates of rounds that FEDn does not list yet
        self._validations: dict[str, dict[str, dict]] = defaultdict(dict)  # {model: {FEDn's id of a client: metrics}}
        self._new_updates = self._statuses("MODEL_UPDATE", "Model update completed.")
        self._new_validations = self._statuses("MODEL_VALIDATION", "Model validation completed.")

    def _statuses(self, kind: str, text: str) -> Listing:
        return Listing(
            self.api, "statuses/", {"session_id": self.session_id, "type": kind, "status": text}, "status_id"
        )

    def poll(self) -> None:
        """Read new rounds, updates, validations and outcomes from FEDn (raises ApiError)."""
        session = self.api.get(f"sessions/{self.session_id}")
        self.status = session["status"]
        self._started = read_date(session.get("committed_at"))
        statuses = self._round_statuses()
        self._read_rounds()
        if not self.over:
            self._read_clients(before=statuses)
        self._pending_updates += [status["data"] for status in self._new_updates.new()]
        updates, self._pending_updates = self._pending_updates, []
        validations = [status["data"] for status in self._new_validations.new()]
        self._read_registered(updates + validations)
        for data in updates:
            _parse_message(self._read_update, data)
        for data in validations:
            _parse_message(self._read_validation, data)
        self._join_validations()
        self._join_outcomes()

    @property
    def over(self) -> bool:
        """Whether FEDn has ended the session."""
        return self.status in SESSION_OVER

    def validated(self, round_: Round) -> bool:
        """Whether all updates of an ended round were read and their clients have tested the new model."""
        settled = round_.ended is not None and time.monotonic() - round_.ended > SETTLE
        if round_.failed or (len(round_.rows) < (round_.aggregated or 0) and not settled):
            return round_.failed
        trained = [row for row in round_.rows.values() if row.outcome is not Outcome.REFUSED]
        return all(row.accuracy is not None for row in trained)

    def notes(self) -> Iterator[tuple[int, str]]:
        """Yield round number and text of the server functions' notes on whole rounds."""
        for number, report in sorted(self._reports.items()):
            for text in report.get("notes") or ():
                yield number, plain(text, 500)

    def _round_statuses(self) -> dict[str, str]:
        return {round_.id: round_.status for round_ in self.rounds.values()}

    def _read_clients(self, before: dict[str, str]) -> None:
        """Read the online clients if a round has started or ended since `before`, else every CLIENTS_PERIOD seconds."""
        now = time.monotonic()
        if self._round_statuses() == before and now - self._clients_read < CLIENTS_PERIOD:
            return
        clients = self.api.get("clients/", params={"status": "online"})["result"]
        self.online = {client["client_id"]: plain(client["name"]) for client in clients}
        self._clients_read = now
        for id in self.rounds.keys() - before.keys():
            self.rounds[id].online = self.online

    def _read_registered(self, messages: list[str]) -> None:
        """Read FEDn's list of clients again if a sender of `messages` is not in it."""
        senders: set[str] = set()
        for data in messages:
            _parse_message(lambda message: senders.add(str(message["sender"]["clientId"])), data)
        if not senders <= self._registered:
            self._registered = {client["client_id"] for client in self.api.get("clients/")["result"]}

    def _is_client(self, client_id: str) -> bool:
        """Return whether FEDn has a client with this id, or the server functions merged an update of a removed one."""
        merged = (report.get("merged", ()) for report in self._reports.values())
        return client_id in self._registered or any(client_id in ids for ids in merged)

    def _read_rounds(self) -> None:
        # A round contains the session's settings twice and is therefore large. Read pages of the newest rounds until
        # one contains a round that was read before or is older than the session.
        rounds = []
        while True:
            page = self.api.get("rounds/", limit=4, order="desc", skip=len(rounds))["result"]
            rounds += page
            if len(page) < 4 or any(raw["round_id"] in self.rounds or self._is_older(raw) for raw in page):
                break
        for raw in reversed(rounds):
            config = raw.get("round_config") or {}
            if not self._in_session(raw):
                continue
            is_new = raw["round_id"] not in self.rounds
            round_ = self.rounds.setdefault(raw["round_id"], Round(raw["round_id"], started=time.monotonic()))
            if not round_.over and raw["status"] != round_.status:
                round_.status = raw["status"]
                if round_.over:
                    round_.ended = time.monotonic()
                    round_.seconds = _seconds(raw) if is_new else round_.ended - round_.started
            round_.model = config.get("model_id")
            self._read_combiners(round_, raw.get("combiners") or [])

    def _in_session(self, raw: dict) -> bool:
        return (raw.get("round_config") or {}).get("session_id") == self.session_id

    def _is_older(self, raw: dict) -> bool:
        date = read_date(raw.get("committed_at"))
        return not self._in_session(raw) and (None in (date, self._started) or date < self._started)

    def _read_combiners(self, round_: Round, combiners: list[dict]) -> None:
        data = [combiner.get("data") or {} for combiner in combiners]
        round_.expected = _sum(part.get("nr_expected_updates") for part in data)
        round_.aggregated = _sum((part.get("aggregation_time") or {}).get("nr_aggregated_models") for part in data)
        for combiner in combiners:
            self._read_settings(round_, (combiner.get("config") or {}).get("client_settings") or {})

    def _read_settings(self, round_: Round, settings: dict) -> None:
        round_.number = settings.get("round")
        round_.warmup = settings.get("warmup")
        round_.base = settings.get("base")
        for row in round_.rows.values():
            row.warmup = round_.warmup
            row.round = round_.number or row.round
        previous = settings.get("previous") or {}
        if "round" in previous:  # a later report on the same round may be shortened, or contain another note
            report = self._reports.setdefault(previous["round"], {})
            notes = dict.fromkeys([*report.get("notes", ()), *previous.get("notes", ())])
            report |= {**previous, "notes": list(notes)}

    def _join_outcomes(self) -> None:
        for round_ in self.rounds.values():
            for client_id, name in round_.ids.items():
                row = round_.rows[name]
                result = outcome(client_id, round_.number, self._reports) or self._last_outcome(round_)
                # The device's own reason is more precise than that of the server functions. As statuses are not
                # authenticated, a refusal does not override a merged update.
                if row.outcome is Outcome.REFUSED and result != (Outcome.MERGED, None):
                    continue
                if round_.failed and result in (None, (Outcome.MERGED, None)):  # FEDn discarded the merged model
                    result = Outcome.ROUND_FAILED, None
                if result is not None:
                    row.outcome, row.reason = result

    def _last_outcome(self, round_: Round) -> tuple[Outcome, str] | None:
        """Return the outcome of the updates of the last round, for which there is no report."""
        return (Outcome.SKIPPED, "nothing was merged in this round") if round_.unchanged else None

    def _read_update(self, update: dict) -> None:
        meta = json.loads(update["meta"])
        data = meta.get("training_metadata") or {}
        resources = data.get("resources") or {}
        phases = resources.get("phases") or {}
        fedn_round = json.loads(meta["config"])["round_id"]
        if fedn_round not in self.rounds:
            self._pending_updates.append(json.dumps(update))
            return
        round_ = self.rounds[fedn_round]
        client_id = str(update["sender"]["clientId"])
        if client_id in round_.ids:  # the server functions accept only a client's first update
            return
        if not self._is_client(client_id):  # FEDn accepts statuses with any sender id
            round_.unregistered.add(client_id)
            return
        client = self._name(round_, client_id, plain(update["sender"]["name"]))
        seconds = [_number(meta.get(key)) for key in ("fetch_model", "processing_time", "upload_model")]
        round_.rows[client] = Row(
            round=round_.number or _number(data.get("round")),
            fedn_round=fedn_round,
            client=client,
            limited=plain(data["limited"], 300) if data.get("limited") else None,
            outcome=Outcome.REFUSED if data.get("refused") else Outcome.SENT,
            reason=plain(data["refused"], 500) if data.get("refused") else None,
            warmup=round_.warmup,
            layers=[plain(name) for name in data.get("layers", []) if name != STATISTICS],
            num_examples=_number(int(data["num_examples"])) if str(data.get("num_examples")).isdecimal() else None,
            upload_bytes=_number(meta.get("upload_bytes"))
            or _number(data.get("update_bytes", 0) + len(update["meta"])),
            train_seconds=_number(phases.get("train")),
            round_seconds=_number(round(sum(seconds), 3)) if None not in seconds else None,
            phases={plain(name): _number(value) for name, value in phases.items()},
            **{key: _number(data.get(key), signed=key in SIGNED) for key in FROM_METADATA},
            **{key: _number(resources.get(key), signed=key in SIGNED) for key in FROM_RESOURCES},
        )
        round_.ids[client_id] = client  # last, so that an update that cannot be read leaves no state behind
        self._names[client_id] = client

    def _name(self, round_: Round, client_id: str, name: str) -> str:
        """Return a name for a client that is unique in this round; two devices may be configured with one name."""
        name = self._names.get(client_id, name)
        if name in round_.rows and round_.ids.get(client_id) != name:
            return f"{name} ({plain(client_id, 8)})"
        return name

    def _read_validation(self, validation: dict) -> None:
        metrics = json.loads(validation["data"])
        keys = ("accuracy", "loss", "test_examples", "download_bytes", "model_digest")
        metrics = {key: _number(metrics.get(key), signed=key in SIGNED) for key in keys}
        if metrics["accuracy"] is not None and not 0 <= metrics["accuracy"] <= 1:
            metrics["accuracy"] = None
        self._validations[validation["modelId"]][str(validation["sender"]["clientId"])] = metrics

    def _join_validations(self) -> None:
        models = {m["model_id"]: m for m in self._models()}
        for round_ in self.rounds.values():
            if round_.failed:
                continue
            if round_.new_model is None and round_.over:
                children = [id for id, m in models.items() if m.get("parent_model") == round_.model]
                round_.new_model = children[0] if children else None
            for client_id, metrics in self._validations.get(round_.new_model, {}).items():
                if not self._is_client(client_id):
                    continue
                if metrics["model_digest"] is not None:
                    round_.model_digests[client_id] = metrics["model_digest"]
                row = round_.rows.get(round_.ids.get(client_id))
                if row is None:
                    round_.validations[client_id] = metrics["download_bytes"] or 0
                    continue
                round_.validations.pop(client_id, None)
                if row.accuracy is None:
                    row.accuracy, row.loss = metrics["accuracy"], metrics["loss"]
                    row.test_examples = metrics["test_examples"]
                    if row.download_bytes is not None:
                        row.download_bytes = _number(row.download_bytes + (metrics["download_bytes"] or 0))

    def _models(self) -> list[dict]:
        models = self.api.get("models/", params={"session_id": self.session_id})["result"]
        return [model for model in models if model.get("session_id") == self.session_id]


def _parse_message(read, text: str) -> None:
    """Pass a client's JSON message to `read`; ignore malformed messages, as clients are not trusted."""
    with contextlib.suppress(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        read(json.loads(text))


def _sum(counts) -> int | None:
    """Return the sum of the counts that are not None, or None if there are none."""
    available = [count for count in counts if count is not None]
    return sum(available) if available else None


def _seconds(raw: dict) -> float | None:
    """Return the duration of a round from FEDn's dates, which have a resolution of one second."""
    started, ended = read_date(raw.get("committed_at")), read_date(raw.get("updated_at"))
    return None if None in (started, ended) else (ended - started).total_seconds()


def _number(value, signed: bool = False) -> float | None:
    """Return a client's value if it is a number within the plausible range, else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_valid = is_number and (-LARGEST if signed else 0) <= value < LARGEST
    return value if is_valid else None
