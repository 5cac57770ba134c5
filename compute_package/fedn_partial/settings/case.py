"""The settings of a session, of a round, and of a device.

They come from three places. A device's own file wins over the session's settings, which the server functions
send with every round; those win over the defaults below.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from fedn_partial import models
from fedn_partial.custom import modules, names
from fedn_partial.exchange.codecs import Codec
from fedn_partial.exchange.merge_rules import RULES, MergeRule
from fedn_partial.settings.schema import SettingsError, bounded, parse
from fedn_partial.settings.yaml_file import read_yaml
from fedn_partial.submodel import selection

MERGE_RULES = tuple(RULES)
BATCHNORM_STATISTICS = ("with_layer", "always", "local")
CODECS = ("float32", "float16", "int8")
MODEL_DTYPES = ("float32", "float16")
PARTITIONS = "iid, natural, or dirichlet:ALPHA with ALPHA above 0, such as dirichlet:0.3"
DATA_SETS = ("digits", "cifar10", "imdb", "casa")  # each a module of the operator's part


@dataclass(frozen=True)
class Training:
    """How a client trains in one round. Every key may also be set in a device's file."""

    epochs: int = bounded(1, at_least=1, at_most=1000)
    batch_size: int = bounded(32, at_least=1, at_most=65_536)
    optimizer: str = bounded("adam", one_of=("adam", "sgd"))
    learning_rate: float = bounded(0.001, above=0, at_most=10)
    momentum: float = bounded(0.0, at_least=0, below=1)  # of SGD

    def __post_init__(self):
        if self.momentum and self.optimizer != "sgd":
            raise SettingsError(f"momentum={self.momentum} is for optimizer sgd, not {self.optimizer}")


@dataclass(frozen=True)
class Session:
    """What FEDn is asked for."""

    rounds: int = bounded(10, at_least=1, at_most=100_000)
    # Seconds that a round waits for its slowest client, at most a week. A device ends a training that takes longer.
    round_timeout: int = bounded(180, at_least=1, at_most=604_800)
    min_clients: int = bounded(1, at_least=1, at_most=100_000)  # fewer connected clients than this: no round
    # As many are drawn for each round, and the accuracy of a round is then that on their test examples. None: all.
    clients_per_round: int | None = bounded(None, at_least=1, at_most=100_000)


@dataclass(frozen=True)
class Data:
    """Data set of the clients of a local fleet or a simulation, and its partition."""

    name: str = "digits"
    clients: int = bounded(3, at_least=1, at_most=100_000)
    partition: str = "iid"  # or natural (by home, patient, writer), dirichlet:ALPHA
    examples: int | None = bounded(None, at_least=1)  # only so many to train on, drawn from the whole set
    test_examples: int | None = bounded(None, at_least=1)

    def __post_init__(self):
        if self.name not in DATA_SETS and not names.is_custom(self.name):
            allowed = f"{', '.join(DATA_SETS)} (one of your own: my_module:read)"
            raise SettingsError(f"name {self.name!r} is unknown. Allowed are: {allowed}")
        parse_partition(self.partition)


@dataclass(frozen=True)
class SimulatedDevice:
    """A machine that simulated clients have: a flavour of a profile, and its network."""

    profile: str  # folder that 'fedn-partial profile' made
    flavour: str
    upload_mbit: float | None = bounded(None, above=0)  # 10**6 bits a second; None: bytes take no time
    download_mbit: float | None = bounded(None, above=0)


@dataclass(frozen=True)
class Simulation:
    """How the clients of a simulation behave."""

    dropout: float = bounded(0.0, at_least=0, below=1)  # probability that a client does not answer in a round
    straggler: float = bounded(0.0, at_least=0, at_most=1)  # probability that a client is slower in a round,
    slowdown: float = bounded(4.0, at_least=1, at_most=1e6)  # so many times
    global_seconds: float = bounded(0.0, at_least=0, at_most=1e6)  # of a round, for merging
    devices: tuple[SimulatedDevice, ...] = ()  # assigned to the clients in turn; without, no times are simulated

    def __post_init__(self):
        if self.straggler and not self.devices:
            raise SettingsError("straggler needs devices, to know how long a client takes")


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """The settings of a session, which travel whole: from the case to the server functions, and to every client.

    A key that is added here arrives as an attribute of ``RoundSettings`` on the device.
    """

    model: dict  # name and options of a model, see fedn_partial.models
    selection: dict  # which layers a client trains, see fedn_partial.submodel.selection
    seed: int = bounded(1, at_least=0, at_most=2**32 - 1)
    training: Training = Training()
    merge: str = "all_clients"  # merge rule, see fedn_partial.exchange.merge_rules
    shrinkage: float = bounded(4.0, at_least=0, at_most=1e6)  # of merge rule `shrunk`
    # Of BatchNormalization, see fedn_partial.submodel.update_tensors
    batchnorm_statistics: str = bounded("with_layer", one_of=BATCHNORM_STATISTICS)
    codec: str = "float32"  # of the updates, see fedn_partial.exchange.encoding
    model_dtype: str = bounded("float32", one_of=MODEL_DTYPES)  # of the global model as FEDn stores and sends it
    session: Session = Session()

    def __post_init__(self):
        names.check("merge", self.merge, MERGE_RULES)
        names.check("codec", self.codec, CODECS)


@dataclass(frozen=True, kw_only=True)
class Case(SessionSettings):
    """One case: the whole of a file in `configs/`."""

    name: str = bounded(matches="[A-Za-z0-9._-]+")  # of the session, and the beginning of the run's folder
    data: Data | None = None  # for a local fleet or a simulation: devices of their own have their own data
    simulation: Simulation = Simulation()
    package: dict | None = None  # with: folder of custom modules, relative to the file; see fedn_partial.custom.modules


@dataclass(frozen=True, kw_only=True)
class RoundSettings(SessionSettings):
    """The settings of a round, which the server functions send to every client.

    Attributes
    ----------
    round : of the session, from 1.
    warmup : whether this is a full round, in which every client trains every layer.
    fingerprint : of the model, see ``fedn_partial.submodel.layers.fingerprint``.
    base : digest of the global model that comes with it, see ``fedn_partial.exchange.wire.digest``.
    session_id : unique to the session; what a client keeps from round to round is kept under it.
    probabilities : whether the merge rule needs the probability of each trained layer.
    merged_rounds, participants, scores : what selectors go by, see ``fedn_partial.submodel.selection.Context``.
    previous : report on the round before (who was merged, who was skipped and why); clients do not read it.
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
        """Whether frozen BatchNormalization follows the batch, see ``fedn_partial.submodel.update_tensors``."""
        return self.batchnorm_statistics != "with_layer"

    @property
    def stateful(self) -> bool:
        """Whether a client keeps something from round to round: error feedback, or its own statistics."""
        return self.codec not in ("float32", "float16") or self.batchnorm_statistics == "local"


@dataclass(frozen=True)
class Device:
    """The `fedn_partial:` section of a device's client.yaml."""

    data: str  # folder of this device's shard
    workdir: str = "."  # the samples of the monitor go there
    max_layers: int | None = bounded(None, at_least=1)  # never train more layers than this in a round
    memory_mb: float | None = bounded(None, above=0)  # nor a selection predicted to take more memory,
    upload_mb: float | None = bounded(None, above=0)  # to send more,
    round_seconds: float | None = bounded(None, above=0)  # or to take longer than this
    monitor_interval: float = bounded(0.5, above=0, at_most=60)  # seconds between two samples
    training: dict = field(default_factory=dict)  # keys of Training that differ on this device


def parse_partition(text: str) -> tuple[str, float | None]:
    """Return the kind of a partition and, for Dirichlet's, its alpha (raises SettingsError)."""
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
    """Read a case file and check all of it, model options and selector included.

    Parameters
    ----------
    custom : folder of custom modules; without, that of the case's key `package: with:`. It is in use from now on.

    Raises
    ------
    SettingsError : something in the file is refused. UserCodeError : a custom module is wrong.
    """
    raw = read_yaml(path)
    modules.use(custom or _custom_folder(raw.get("package"), Path(path)))
    return parse_case(raw, str(path))


def _custom_folder(package, path: Path) -> Path | None:
    """Return the folder that the section `package:` of the case file `path` names, or None."""
    if package is None:
        return None
    if not isinstance(package, dict) or list(package) != ["with"] or not isinstance(package["with"], str):
        raise SettingsError(f"{path}: package: expected the key 'with' and a folder, found {package!r}")
    return path.resolve().parent / package["with"]


def parse_case(raw: dict, where: str) -> Case:
    """Return the case whose keys were read from `where`, all of it checked as in ``load_case``."""
    case = parse(Case, raw, where)
    models.options(case.model, f"{where}: model")
    selection.from_dict(case.selection, f"{where}: selection")
    for key, base in (("codec", Codec), ("merge", MergeRule)):
        if names.is_custom(getattr(case, key)):
            names.find_class(getattr(case, key), base, f"{where}: {key}")
    return case


def session_part(case: Case) -> dict:
    """Return the settings of a case that travel, as plain values for JSON."""
    settings = dataclasses.asdict(case)
    return {spec.name: settings[spec.name] for spec in dataclasses.fields(SessionSettings)}


def load_round_settings(raw: dict, device: Device) -> RoundSettings:
    """Check what the server functions sent, and put the device's own training settings over it.

    Raises
    ------
    SettingsError : nothing was sent, or something in it is refused.
    """
    if not raw:
        raise SettingsError(
            "the server sent no settings: its server functions are not running "
            "(was the session started with 'fedn-partial session start', and is FEDn's hooks process up?)"
        )
    training = raw.get("training", {})
    if isinstance(training, dict):  # if not, it is refused as it is
        if "optimizer" in device.training:
            training = {**training, "momentum": 0.0}  # the session's was for its own optimiser
        training = {**training, **device.training}
    settings = parse(RoundSettings, {**raw, "training": training}, "settings from the server")
    if names.is_custom(settings.codec):  # model and selector are resolved when they are used, the codec after training
        names.find_class(settings.codec, Codec, "settings from the server: codec")
    return settings
