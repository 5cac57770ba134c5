"""Follows a session through FEDn's REST interface: who answered, what it cost, how good the model is.

Everything comes through FEDn: updates and their metadata, and the metrics of validations, from the statuses that
clients send after each; what the server functions did with an update from the settings of a later round. (FEDn's
list of validations does not hold its clients' ids where it is kept in SQL.)
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

# Columns that are taken over by their name: from an update's metadata, and from its resources.
FROM_METADATA = (
    *("trained_params", "total_params", "training_macs"),
    *("download_bytes", "train_loss", "predicted_memory_mb"),
)
FROM_RESOURCES = (
    *("cpu_seconds", "cpu_percent", "rss_peak_mb", "memory_peak_mb"),
    *("machine_cpu_percent", "ram_used_mb", "ram_percent", "gpu_percent", "temperature_c", "power_mw"),
)


SIGNED = ("train_loss", "loss", "temperature_c")  # what may be below 0
LARGEST = 1e15  # of any number in a row: bytes, weights, seconds, operations
CLIENTS_PERIOD = 5  # seconds between two looks of FEDn at who is online
SETTLE = 10  # seconds after a round in which FEDn may still be writing down its last updates


@dataclass
class Round:
    """One of FEDn's rounds of this session.

    Attributes
    ----------
    id : FEDn's number.
    model : id of the global model that it started from. new_model : of the one it made, or None.
    rows : by client. ids : {FEDn's id of a client: its key in `rows`}. expected : clients that were asked.
    aggregated : updates that FEDn's combiner had at the end of the round, refused ones included.
    online : {FEDn's id: name} of the clients that were online when it began.
    validations : {FEDn's id: bytes downloaded} of clients that tested the new model without an update in this round.
    strangers : ids under which updates came that are of no client, as far as FEDn and the server functions know.
    base : digest of `model`, as the server functions have it.
    model_digests : {FEDn's id: short digest of the new model, as the client that tested it says}.
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
    strangers: set[str] = field(default_factory=set)
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
        """Whether most clients that tested the new model have found that it is the old one: nothing was merged."""
        same = sum(digest == short_digest(self.base) for digest in self.model_digests.values()) if self.base else 0
        return 2 * same > len(self.model_digests)


class SessionPoller:
    """The state of one session, brought up to date by ``poll``.

    Attributes
    ----------
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
        self._began: datetime | None = None
        self._reports: dict[int, dict] = {}  # number of a round -> what later settings say became of it
        self._names: dict[str, str] = {}  # FEDn's id of a client -> its name in the rows
        self._updates: list[str] = []  # whose round FEDn has not told of yet
        self._validations: dict[str, dict[str, dict]] = defaultdict(dict)  # model -> FEDn's id of a client -> metrics
        self._new_updates = self._statuses("MODEL_UPDATE", "Model update completed.")
        self._new_validations = self._statuses("MODEL_VALIDATION", "Model validation completed.")

    def _statuses(self, kind: str, text: str) -> Listing:
        return Listing(
            self.api, "statuses/", {"session_id": self.session_id, "type": kind, "status": text}, "status_id"
        )

    def poll(self) -> None:
        """Ask FEDn what is new (raises ApiError)."""
        session = self.api.get(f"sessions/{self.session_id}")
        self.status = session["status"]
        self._began = read_date(session.get("committed_at"))
        statuses = self._round_statuses()
        self._read_rounds()
        if not self.over:
            self._read_clients(before=statuses)
        self._updates += [status["data"] for status in self._new_updates.new()]
        waiting, self._updates = self._updates, []
        validations = [status["data"] for status in self._new_validations.new()]
        self._read_registered(waiting + validations)
        for data in waiting:
            _from_client(self._read_update, data)
        for data in validations:
            _from_client(self._read_validation, data)
        self._join_validations()
        self._join_outcomes()

    @property
    def over(self) -> bool:
        """Whether FEDn does not go on with the session."""
        return self.status in SESSION_OVER

    def validated(self, round_: Round) -> bool:
        """Whether all updates of a round that is over are known, and their clients have tested the new model."""
        settled = round_.ended is not None and time.monotonic() - round_.ended > SETTLE
        if round_.failed or (len(round_.rows) < (round_.aggregated or 0) and not settled):
            return round_.failed
        waited_for = [row for row in round_.rows.values() if row.outcome is not Outcome.REFUSED]
        return all(row.accuracy is not None for row in waited_for)

    def notes(self) -> Iterator[tuple[int, str]]:
        """Yield what the server functions say of a whole round, with its number."""
        for number, report in sorted(self._reports.items()):
            for text in report.get("notes") or ():
                yield number, plain(text, 500)

    def _round_statuses(self) -> dict[str, str]:
        return {round_.id: round_.status for round_ in self.rounds.values()}

    def _read_clients(self, before: dict[str, str]) -> None:
        """Read who is online when a round has begun or ended since `before`, else as often as FEDn looks."""
        now = time.monotonic()
        if self._round_statuses() == before and now - self._clients_read < CLIENTS_PERIOD:
            return
        clients = self.api.get("clients/", params={"status": "online"})["result"]
        self.online = {client["client_id"]: plain(client["name"]) for client in clients}
        self._clients_read = now
        for id in self.rounds.keys() - before.keys():
            self.rounds[id].online = self.online

    def _read_registered(self, messages: list[str]) -> None:
        """Read FEDn's list of clients if the list read before lacks a sender of `messages`."""
        senders: set[str] = set()
        for data in messages:
            _from_client(lambda message: senders.add(str(message["sender"]["clientId"])), data)
        if not senders <= self._registered:
            self._registered = {client["client_id"] for client in self.api.get("clients/")["result"]}

    def _is_client(self, client_id: str) -> bool:
        """Whether FEDn has a client with this id, or, if it was removed since, the server functions have merged it."""
        merged = (report.get("merged", ()) for report in self._reports.values())
        return client_id in self._registered or any(client_id in ids for ids in merged)

    def _read_rounds(self) -> None:
        # Each carries the session's settings twice, so only the newest are asked for, and older ones until one is
        # known, or older than the session: it may have ended long ago, or the network have been away for a while.
        rounds = []
        while True:
            page = self.api.get("rounds/", limit=4, order="desc", skip=len(rounds))["result"]
            rounds += page
            if len(page) < 4 or any(raw["round_id"] in self.rounds or self._is_older(raw) for raw in page):
                break
        for raw in reversed(rounds):
            config = raw.get("round_config") or {}
            if not self._is_ours(raw):
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

    def _is_ours(self, raw: dict) -> bool:
        return (raw.get("round_config") or {}).get("session_id") == self.session_id

    def _is_older(self, raw: dict) -> bool:
        date = read_date(raw.get("committed_at"))
        return not self._is_ours(raw) and (None in (date, self._began) or date < self._began)

    def _read_combiners(self, round_: Round, combiners: list[dict]) -> None:
        data = [combiner.get("data") or {} for combiner in combiners]
        round_.expected = _sum(part.get("nr_expected_updates") for part in data)
        round_.aggregated = _sum((part.get("aggregation_time") or {}).get("nr_aggregated_models") for part in data)
        for combiner in combiners:
            self._read_instructions(round_, (combiner.get("config") or {}).get("client_settings") or {})

    def _read_instructions(self, round_: Round, settings: dict) -> None:
        round_.number = settings.get("round")
        round_.warmup = settings.get("warmup")
        round_.base = settings.get("base")
        for row in round_.rows.values():
            row.warmup = round_.warmup
            row.round = round_.number or row.round
        previous = settings.get("previous") or {}
        if "round" in previous:  # a later report on the same round may be cut, or have a note more
            report = self._reports.setdefault(previous["round"], {})
            notes = dict.fromkeys([*report.get("notes", ()), *previous.get("notes", ())])
            report |= {**previous, "notes": list(notes)}

    def _join_outcomes(self) -> None:
        for round_ in self.rounds.values():
            for client_id, name in round_.ids.items():
                row = round_.rows[name]
                result = outcome(client_id, round_.number, self._reports) or self._last_outcome(round_)
                # A device's own reason for a refusal is more precise than the server functions', but anybody who can
                # reach FEDn can send one in its name.
                if row.outcome is Outcome.REFUSED and result != (Outcome.MERGED, None):
                    continue
                if round_.failed and result in (None, (Outcome.MERGED, None)):  # FEDn has not kept that model
                    result = Outcome.ROUND_FAILED, None
                if result is not None:
                    row.outcome, row.reason = result

    def _last_outcome(self, round_: Round) -> tuple[Outcome, str] | None:
        """Return the outcome of the updates of a last round, on which the server functions cannot report."""
        return (Outcome.SKIPPED, "nothing was merged in this round") if round_.unchanged else None

    def _read_update(self, update: dict) -> None:
        meta = json.loads(update["meta"])
        data = meta.get("training_metadata") or {}
        resources = data.get("resources") or {}
        phases = resources.get("phases") or {}
        fedn_round = json.loads(meta["config"])["round_id"]
        if fedn_round not in self.rounds:
            self._updates.append(json.dumps(update))
            return
        round_ = self.rounds[fedn_round]
        client_id = str(update["sender"]["clientId"])
        if client_id in round_.ids:  # the server functions take the first one of a client
            return
        if not self._is_client(client_id):  # FEDn takes a status under any id
            round_.strangers.add(client_id)
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
        round_.ids[client_id] = client  # last: of an update that could not be read there must be no trace
        self._names[client_id] = client

    def _name(self, round_: Round, client_id: str, name: str) -> str:
        """Return a name for a client that no other has in this round: two devices may have been given one."""
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


def _from_client(read, text: str, *context) -> None:
    """Read what a client sent; what is no JSON of the right shape is left out, it must not end the following."""
    with contextlib.suppress(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        read(json.loads(text), *context)


def _sum(counts) -> int | None:
    """Return the sum of the counts that are known, or None if none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _seconds(raw: dict) -> float | None:
    """Return how long a round took, by FEDn's dates, to the second."""
    began, ended = read_date(raw.get("committed_at")), read_date(raw.get("updated_at"))
    return None if None in (began, ended) else (ended - began).total_seconds()


def _number(value, signed: bool = False) -> float | None:
    """Return a number that a client sent, or None if it is none, or one that nothing measured here can have."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = number and (-LARGEST if signed else 0) <= value < LARGEST
    return value if good else None
