"""A device's client.yaml: FEDn's keys, those of earlier versions, and the section `fedn_partial`. Unknown keys fail."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path

from fedn_partial.settings.case import Device, Training
from fedn_partial.settings.schema import SettingsError, bounded, parse
from fedn_partial.settings.yaml_file import read_yaml

# Keys of FEDn and its earlier versions that are accepted and ignored.
WITHOUT_EFFECT = (
    "validator",
    "trainer",
    "helper_type",
    "network_id",
    "checksum",
    "remote_compute_context",
    "force_ssl",
    "dry_run",
    "secure",
    "preshared_cert",
    "verify",
    "proxy_server",
    "init",
    "logfile",
    "log_level",
    "heartbeat_interval",
    "reconnect_after_missed_heartbeat",
    "verbosity",
)
# FEDn's earlier names of keys, and those of the section `controller` in old files.
EARLIER_NAMES = {"discover_host": "api_url", "discover_port": "api_port"}
CONTROLLER = {"host": "api_url", "port": "api_port", "token": "token", **EARLIER_NAMES}


@dataclass(frozen=True)
class ClientFile:
    """Content of a client.yaml; None for missing keys.

    Attributes
    ----------
    fedn_partial : the section of this package, see ``load_device``.
    ignored : FEDn's keys in the file that have no effect.
    Others : as for FEDn's own client; `ca` and `insecure` as in fedn-partial.yaml.
    """

    name: str | None = None
    api_url: str | None = None
    api_port: int | None = bounded(None, at_least=1, at_most=65535)
    token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    ca: str | None = None
    insecure: bool = False
    client_id: str | None = None
    preferred_combiner: str | None = None
    combiner: str | None = None
    combiner_port: int | None = bounded(None, at_least=1, at_most=65535)
    package_checksum: str | None = None
    fedn_partial: dict | None = None
    ignored: tuple[str, ...] = ()

    def connection_options(self) -> dict:
        """Return the keys for the connection to FEDn's controller."""
        return {key: getattr(self, key) for key in ("api_url", "api_port", "token", "ca", "insecure")}


TEXTS = [spec.name for spec in dataclasses.fields(ClientFile) if spec.type == "str | None"]
KEYS = [spec.name for spec in dataclasses.fields(ClientFile) if spec.name != "ignored"]


def load_client_file(path: str | Path) -> ClientFile:
    """Read a client.yaml; ``load_device`` reads the section `fedn_partial`.

    Raises
    ------
    SettingsError : unreadable file, unknown key, or invalid value.
    """
    values = _as_written(path, read_yaml(path))
    _check_keys(values, [*KEYS, *EARLIER_NAMES, "controller", *WITHOUT_EFFECT], str(path))
    values = {key: value for key, value in values.items() if value is not None and value != ""}
    for key in ("token", "refresh_token"):
        if not isinstance(values.get(key, ""), str):
            raise SettingsError(f"{path}: {key} must be text")  # without the secret value
    section = values.pop("controller", {})
    if not isinstance(section, dict):
        raise SettingsError(f"{path}: controller: expected keys and values, found {section!r}")
    _check_keys(section, list(CONTROLLER), f"{path}: controller")
    ignored = [key for key in values if key in WITHOUT_EFFECT]
    earlier = {CONTROLLER[key]: value for key, value in section.items() if value not in (None, "")}
    earlier |= {EARLIER_NAMES[key]: value for key, value in values.items() if key in EARLIER_NAMES}
    current = {key: value for key, value in values.items() if key in KEYS}
    merged = {**earlier, **current, "ignored": ignored}
    for key in ("api_port", "combiner_port"):
        if str(merged.get(key, "")).isdecimal():
            merged[key] = int(merged[key])
    file = parse(ClientFile, merged, str(path))
    return dataclasses.replace(file, ca=str(Path(path).resolve().parent / file.ca)) if file.ca else file


def load_name(path: str | Path) -> str:
    """Return the device's name in a client.yaml (raises SettingsError)."""
    name = load_client_file(path).name
    if name is None:
        raise SettingsError(f"{path}: key 'name' is missing; set a unique name for this device")
    return name


def load_device(path: str | Path) -> Device:
    """Read the section `fedn_partial` of a client.yaml and check the rest of the file (raises SettingsError).

    Folders are relative to the file.
    """
    section = load_client_file(path).fedn_partial
    if section is None:
        raise SettingsError(f"{path}: section 'fedn_partial' is missing; add it with at least 'data: FOLDER'")
    device = parse(Device, section, f"{path}: fedn_partial")
    # Checked as for SGD, so that a device may override only the momentum of a session with SGD.
    parse(Training, {"optimizer": "sgd", **device.training}, f"{path}: fedn_partial: training")
    folder = Path(path).resolve().parent
    return dataclasses.replace(device, data=str(folder / device.data), workdir=str(folder / device.workdir))


def _as_written(path: str | Path, values: dict) -> dict:
    """Return `values` with texts as written in the file: YAML converts 42, on or 0123."""
    texts = read_yaml(path, as_text=True)
    written = {
        str(key): texts[str(key)]
        if key in TEXTS and values[key] is not None and isinstance(texts.get(str(key)), str)
        else value
        for key, value in values.items()
    }
    section, section_texts = values.get("controller"), texts.get("controller")
    if isinstance(section, dict) and section.get("token") is not None:
        text = section_texts.get("token") if isinstance(section_texts, dict) else None
        written["controller"] = {**section, "token": text if isinstance(text, str) else section["token"]}
    return written


def _check_keys(values: dict, allowed: list[str], where: str) -> None:
    for key in values:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise SettingsError(f"{where}: unknown key {key!r}{hint}. Supported keys are: {', '.join(KEYS)}")
