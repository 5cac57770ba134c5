"""Execution of one request from FEDn: train or evaluate the global model."""

from __future__ import annotations

import json
import os
import traceback
from dataclasses import dataclass
from pathlib import Path

from fedn_partial.errors import FednPartialError
from fedn_partial.log import log
from fedn_partial.runtime import entry, launch
from fedn_partial.runtime.atomic import write_text
from fedn_partial.runtime.refusal import write_refusal

ROUND_SETTINGS = Path(entry.ROUND_SETTINGS)


@dataclass(frozen=True)
class Request:
    """A request from FEDn; the current folder is the compute package.

    Attributes
    ----------
    kind : "train" or "validate".
    input, output : absolute paths of the global model, and of the file to write.
    pid : of the entry point that waits for the reply; its resources are measured as well.
    launcher : the FEDn client that sent the request, or None if unknown.
    """

    kind: str
    input: str
    output: str
    pid: int
    launcher: launch.Launcher | None


def run(request: Request) -> None:
    """Execute `request` and log to standard error.

    A training request always writes an update, an empty one with the reason if training is refused or fails.
    A failed validation request writes no file.

    Raises
    ------
    SystemExit : a validation failed (FEDn then sends no metrics and continues).
    """
    try:
        (_train if request.kind == "train" else _validate)(request)
    except Exception as error:
        reason = str(error)
        if not isinstance(error, FednPartialError):
            reason = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        log(f"cannot {request.kind}: {reason}")
        if request.kind != "train":
            raise SystemExit(1) from None
        write_refusal(request.output, reason)


def _train(request: Request) -> None:
    from fedn_partial.runtime.client_state import remove_earlier_layout
    from fedn_partial.runtime.device_round import DeviceClient
    from fedn_partial.runtime.round import commit_round, run_round
    from fedn_partial.settings.case import load_round_settings

    device, name = _device(request)
    raw = _read_json(request.input + "-metadata")
    settings = load_round_settings(raw, device)
    ROUND_SETTINGS.parent.mkdir(mode=0o700, exist_ok=True)
    write_text(ROUND_SETTINGS, json.dumps(raw), durable=False)
    remove_earlier_layout(device.workdir)
    client = DeviceClient(request, device, name, settings)
    with client.monitor:
        result = run_round(settings, client, request.input, request.output)
    resources, update_bytes = client.monitor.summary(), os.path.getsize(request.output)
    client.choice.calibrate(resources["seconds"], client.monitor.phases["train"])
    commit_round(
        result,
        request.output,
        predicted_memory_mb=client.choice.predicted_mb,
        update_bytes=update_bytes,
        resources=resources,
    )
    log(f"round {settings.round}: loss {result.loss:.4f}, {update_bytes:,} bytes, {resources['seconds']:.1f} s")


def _validate(request: Request) -> None:
    from fedn_partial.runtime.device_round import DeviceClient
    from fedn_partial.runtime.round import run_evaluation
    from fedn_partial.settings.case import load_round_settings

    device, name = _device(request)
    if not ROUND_SETTINGS.exists():
        raise FednPartialError(
            "no round settings: this client has had no training request since it started, and FEDn sends them with "
            "these only; validation works from the next round on"
        )
    settings = load_round_settings(_read_json(ROUND_SETTINGS), device)
    client = DeviceClient(request, device, name, settings)
    with client.monitor:
        metrics = run_evaluation(settings, client, request.input)
    metrics["validate_seconds"] = client.monitor.summary()["seconds"]
    write_text(request.output, json.dumps(metrics), durable=False)
    accuracy, examples = metrics["accuracy"], metrics["test_examples"]
    log(f"round {settings.round}: accuracy {accuracy:.4f} on {examples} held-out examples")


def _device(request: Request):
    """Return the settings and the name of this device."""
    from fedn_partial.settings import client_file
    from fedn_partial.settings.schema import SettingsError

    config = launch.device_config(request.launcher)
    if config is None:
        raise SettingsError(
            "client.yaml not found: start the client with 'fedn-partial client start --config client.yaml' or "
            "'fedn client start -in client.yaml', or set FEDN_PARTIAL_CLIENT to the file's path"
        )
    device = client_file.load_device(config)
    client = launch.client_name(config, request.launcher)
    if client is None:
        raise SettingsError(f"{config}: key 'name' is missing; it decides which layers this device trains")
    return device, client


def _read_json(path: str | Path) -> dict:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise FednPartialError(f"{path} cannot be read: {error}") from None
