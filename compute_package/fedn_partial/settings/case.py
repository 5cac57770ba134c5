"""The settings of a session, of a round, and of a device.

A device's own file overrides the session's settings, which the server functions send in every round; these override the
defaults below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fedn_partial import models
from fedn_partial.custom import modules, names
from fedn_partial.exchange.codecs import CODECS, DEFAULT, Codec
from fedn_partial.exchange.merge_rules import CLASSES, RULES
from fedn_partial.exchange.server_optimizers import OPTIMIZERS
from fedn_partial.settings.schema import SettingsError, bounded, parse
from fedn_partial.settings.yaml_file import read_yaml
from fedn_partial.submodel import selection
from fedn_partial.training import terms

MERGE_RULES = tuple(RULES)
BATCHNORM_STATISTICS = ("with_layer", "always", "local")
MODEL_DTYPES = ("float32", "float16")
MAX_EXAMPLES = 10_000_000  # more than a device can train on in a round
PARTITIONS = "iid, natural, or dirichlet:ALPHA with ALPHA above 0, such as dirichlet:0.3"
DATA_SETS = ("digits", "cifar10", "imdb", "casa")  # modules of fedn_partial.client.data


@dataclass(frozen=True)
class Training:
    """Local training in one round. A device's file may override every key."""

    epochs: int = bounded(1, at_least=1, at_most=1000)
    batch_size: int = bounded(32, at_least=1, at_most=65_536)
    optimizer: str = bounded("adam", one_of=("adam", "sgd"))
    learning_rate: float = bounded(0.001, above=0, at_most=10)
    momentum: float = bounded(0.0, at_least=0, below=1)  # of SGD

    def __post_init__(self):
        if self.momentum and self.optimizer != "sgd":
            raise SettingsError(f"momentum={self.momentum} requires optimizer sgd, found {self.optimizer}")


@dataclass(frozen=True)
class Session:
    """The session on FEDn."""

    rounds: int = bounded(10, at_least=1, at_most=100_000)
    # Seconds that a round waits for its slowest client, at most a week; devices stop training then.
    round_timeout: int = bounded(180, at_least=1, at_most=604_800)
    min_clients: int = bounded(1, at_least=1, at_most=100_000)  # connected clients that a round requires
    # Clients drawn for each round, on whose test examples its accuracy is then measured. None: all.
    clients_per_round: int | None = bounded(None, at_least=1, at_most=100_000)


@dataclass(frozen=True)
class ServerOptimizerSettings:
    """What the merged change does to the global model, see fedn_partial.exchange.server_optimizers."""

    name: str = bounded("none", one_of=tuple(OPTIMIZERS))
    beta: float = bounded(0.9, at_least=0, below=1)  # of momentum: the share of the last velocity that is kept
    learning_rate: float = bounded(1.0, above=0, at_most=10)  # of momentum


@dataclass(frozen=True)
class Data:
    """Data set of the clients of a local fleet or a simulation, and its partition."""

    name: str = "digits"
    clients: int = bounded(3, at_least=1, at_most=100_000)
    partition: str = "iid"  # or natural (by home, patient or writer), dirichlet:ALPHA
    examples: int | None = bounded(None, at_least=1)  # number of training examples, drawn from the whole set
    test_examples: int | None = bounded(None, at_least=1)

    def __post_init__(self):
        if self.name not in DATA_SETS and not names.is_custom(self.name):
            allowed = f"{', '.join(DATA_SETS)} (custom: my_module:read)"
            raise SettingsError(f"name {self.name!r} is unknown. Allowed are: {allowed}")
        parse_partition(self.partition)


@dataclass(frozen=True)
class SimulatedDevice:
    """The machine of simulated clients: a flavour of a profile, and its network."""

    profile: str  # folder written by 'fedn-partial profile'
    flavour: str
    upload_mbit: float | None = bounded(None, above=0)  # 10**6 bits per second; None: no transfer time
    download_mbit: float | None = bounded(None, above=0)


@dataclass(frozen=True)
class Simulation:
    """Behaviour of simulated clients."""

    dropout: float = bounded(0.0, at_least=0, below=1)  # probability that a client does not respond in a round
    straggler: float = bounded(0.0, at_least=0, at_most=1)  # probability that a client is slower in a round
    slowdown: float = bounded(4.0, at_least=1, at_most=1e6)  # factor on the time of a straggler
    global_seconds: float = bounded(0.0, at_least=0, at_most=1e6)  # duration of merging in a round
    devices: tuple[SimulatedDevice, ...] = ()  # assigned to the clients cyclically; if empty, no times are simulated

    def __post_init__(self):
        if self.straggler and not self.devices:
            raise SettingsError("straggler requires devices, which define the time of a client")


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """The settings of a session, sent from the case to the server functions and to every client.

    A key added here is an attribute of ``RoundSettings`` on the device.
    """

    model: dict  # name and options, see fedn_partial.models
    selection: dict  # selector and its fields, see fedn_partial.submodel.selection
    seed: int = bounded(1, at_least=0, at_most=2**32 - 1)
    training: Training = Training()
    objective: dict | None = None  # step term and its fields, see fedn_partial.training.terms; None: the loss alone
    merge: str = "all_clients"  # merge rule, see fedn_partial.exchange.merge_rules
    shrinkage: float = bounded(4.0, at_least=0, at_most=1e6)  # of merge rule `shrunk`
    clip: float = bounded(1.0, above=0, at_most=1e6)  # of `clipped`: times the median norm of a layer's changes
    trim: float = bounded(0.2, at_least=0, below=0.5)  # of `trimmed_mean`: share of the values cut at each end
    server_optimizer: ServerOptimizerSettings = ServerOptimizerSettings()
    # An update with more training examples is skipped. None: the largest shard, where the operator made the shards.
    max_examples: int | None = bounded(None, at_least=1, at_most=MAX_EXAMPLES)
    # See fedn_partial.submodel.update_tensors
    batchnorm_statistics: str = bounded("with_layer", one_of=BATCHNORM_STATISTICS)
    codec: str = DEFAULT  # of the updates, see fedn_partial.exchange.codecs
    model_dtype: str = bounded("float32", one_of=MODEL_DTYPES)  # of the global model on the wire
    session: Session = Session()

    def __post_init__(self):
        names.check("merge", self.merge, MERGE_RULES)
        names.check("codec", self.codec, CODECS)


@dataclass(frozen=True, kw_only=True)
class Case(SessionSettings):
    """A case, as in a file of `configs/`."""

    name: str = bounded(matches="[A-Za-z0-9._-]+")  # of the session; prefix of the run's folder
    data: Data | None = None  # for a local fleet or a simulation only
    simulation: Simulation = Simulation()
    package: dict | None = None  # key `with`: folder of custom modules, relative to the file


@dataclass(frozen=True, kw_only=True)
class RoundSettings(SessionSettings):
    """The settings of a round, sent by the server functions to every client.

    Attributes
    ----------
    round : of the session, from 1.
    warmup : whether this is a full round, in which every client trains every layer.
    fingerprint : of the model, see ``fedn_partial.submodel.layers.fingerprint``.
    base : digest of the global model, see ``fedn_partial.exchange.wire.digest``.
    session_id : unique id of the session; names the client's state between rounds.
    probabilities : whether the merge rule needs the probability of each trained layer.
    merged_rounds, participants, scores : inputs of selectors, see ``fedn_partial.submodel.selection.Context``.
    previous : report on the previous round (clients merged or skipped, with reasons); not read by clients.
    """

    round: int = bounded(at_least=1)
    warmup: bool = bounded()
    fingerprint: str = bounded()
    base: str = bounded()
    session_id: str = bounded(matches="[A-Za-z0-9]+")
    probabilities: bool = False
    merged_rounds: int = bounded(0, at_least=0)
    participants: tuple[str, ...] = ()
    scores: dict = field(default_factory=dict)
    previous: dict = field(default_factory=dict)

    @property
    def updates_frozen_batchnorm(self) -> bool:
        """Whether frozen BatchNormalization updates its statistics, see ``fedn_partial.submodel.update_tensors``."""
        return self.batchnorm_statistics != "with_layer"


@dataclass(frozen=True)
class Device:
    """The `fedn_partial:` section of a device's client.yaml."""

    data: str  # folder of this device's shard
    workdir: str = "."  # folder of samples and state
    max_layers: int | None = bounded(None, at_least=1)  # limits of a round: layers trained,
    memory_mb: float | None = bounded(None, above=0)  # predicted memory,
    upload_mb: float | None = bounded(None, above=0)  # size of the update,
    round_seconds: float | None = bounded(None, above=0)  # and predicted time
    monitor_interval: float = bounded(0.5, above=0, at_most=60)  # seconds between two samples
    training: dict = field(default_factory=dict)  # overrides keys of Training

    @property
    def state_folder(self) -> Path:
        """Folder of the state between rounds, see ``fedn_partial.runtime.client_state``, and the calibrations."""
        return Path(self.workdir) / "state"


def parse_partition(text: str) -> tuple[str, float | None]:
    """Return the kind of a partition and, for dirichlet, its alpha (raises SettingsError)."""
    kind, colon, value = text.partition(":")
    if kind in ("iid", "natural") and not colon:
        return kind, None
    if kind == "dirichlet":
        try:
            alpha = float(value)
        except ValueError:
            alpha = 0
        if 0 < alpha < float("inf"):
            return kind, alpha
    raise SettingsError(f"partition must be {PARTITIONS}; found {text!r}")


def load_case(path: str | Path, custom: str | Path | None = None) -> Case:
    """Read and check a case file, including model options and selector.

    Parameters
    ----------
    custom : folder of custom modules to use; None for the case's key `package: with:`.

    Raises
    ------
    SettingsError : invalid case. UserCodeError : a custom module fails.
    """
    raw = read_yaml(path)
    modules.use(custom or _custom_folder(raw.get("package"), Path(path)))
    return parse_case(raw, str(path))


def _custom_folder(package, path: Path) -> Path | None:
    """Return the folder of custom modules in the section `package:` of the case file `path`, or None."""
    if package is None:
        return None
    if not isinstance(package, dict) or list(package) != ["with"] or not isinstance(package["with"], str):
        raise SettingsError(f"{path}: package: expected the key 'with' and a folder, found {package!r}")
    return path.resolve().parent / package["with"]


def parse_case(raw: dict, where: str) -> Case:
    """Return the case with the keys `raw` read from `where`, checked as in ``load_case``."""
    case = parse(Case, raw, where)
    models.options(case.model, f"{where}: model")
    selection.from_dict(case.selection, f"{where}: selection")
    terms.from_dict(case.objective, f"{where}: objective")
    if names.is_custom(case.codec):
        names.find_class(case.codec, Codec, f"{where}: codec")
    if names.is_custom(case.merge):
        names.find_class(case.merge, CLASSES["BaseRule"], f"{where}: merge")
    if case.data and names.is_custom(case.data.name):
        names.find_function(case.data.name, "DataSet", f"{where}: data: name")
    return case


def session_part(case: Case) -> dict:
    """Return the session settings of a case as JSON values."""
    settings = dataclasses.asdict(case)
    return {spec.name: settings[spec.name] for spec in dataclasses.fields(SessionSettings)}


def with_max_examples(case: Case, shards: Iterable[int]) -> Case:
    """Return `case` with ``max_examples``, by default the largest of `shards`, the clients' numbers of examples."""
    return case if case.max_examples else dataclasses.replace(case, max_examples=min(max(shards), MAX_EXAMPLES))


def load_round_settings(raw: dict, device: Device) -> RoundSettings:
    """Return the checked settings from the server functions, overridden by the device's training settings.

    Raises
    ------
    SettingsError : missing or invalid settings.
    """
    if not raw:
        raise SettingsError(
            "the server sent no settings, so its server functions are not running: start the session with "
            "'fedn-partial session start' and check FEDn's hooks process"
        )
    training = raw.get("training", {})
    if isinstance(training, dict):  # otherwise parse raises
        if "optimizer" in device.training:
            training = {**training, "momentum": 0.0}  # the session's is for its own optimiser
        training = {**training, **device.training}
    settings = parse(RoundSettings, {**raw, "training": training}, "settings from the server")
    if names.is_custom(settings.codec):  # model and selector are resolved at use, the codec only after training
        names.find_class(settings.codec, Codec, "settings from the server: codec")
    return settings
