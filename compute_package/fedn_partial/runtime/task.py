"""One request from FEDn, from its input file to its output file: train the global model a little, or test it."""

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
    """What FEDn asked for.

    Attributes
    ----------
    kind : "train" or "validate".
    input, output : absolute paths of the global model, and of what is to be written.
    pid : of the process in which FEDn waits for the answer; its cost is counted, too.
    launcher : the FEDn client that asks, or None if it is not known.

    The current folder is the compute package.
    """

    kind: str
    input: str
    output: str
    pid: int
    launcher: launch.Launcher | None


def run(request: Request) -> None:
    """Carry out `request`; what happens is logged to standard error.

    A training request always leaves an update: where training is refused or fails, an empty one with the reason.
    A validation request that fails leaves no file.

    Raises
    ------
    SystemExit : a validation failed (FEDn then sends no metrics and goes on).
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
    from fedn_partial.data.shard import check_fits, open_shard
    from fedn_partial.device import cgroup, device_limits
    from fedn_partial.device.planner import Planner
    from fedn_partial.errors import ModelError
    from fedn_partial.exchange import encoding, wire
    from fedn_partial.settings.case import load_round_settings
    from fedn_partial.submodel.layers import fingerprint, read_layers

    device, client = _device(request)
    raw = _read_json(request.input + "-metadata")
    settings = load_round_settings(raw, device)
    ROUND_SETTINGS.parent.mkdir(mode=0o700, exist_ok=True)
    write_text(ROUND_SETTINGS, json.dumps(raw), durable=False)
    monitor = _monitor(request, device, client, settings)
    with monitor:
        with monitor.phase("load"):
            shard = open_shard(device.data)
        with monitor.phase("import"):
            import tensorflow  # noqa: F401

            from fedn_partial import models
            from fedn_partial.runtime import local_round
        free_bytes = cgroup.available_memory()
        with monitor.phase("trace"):
            model = models.build(settings.model, empty=True)
            local_round.set_seed(model, settings, client)
            layers = read_layers(model)
            if fingerprint(layers) != settings.fingerprint:
                raise ModelError(
                    f"model {settings.model} built here has fingerprint {fingerprint(layers)}, the session's is "
                    f"{settings.fingerprint}: the versions of this package or of Keras differ"
                )
        with monitor.phase("load"):
            check_fits(shard, model)
            if wire.digest(local_round.load(model, layers, request.input)) != settings.base:
                raise ModelError("the global model that arrived is not the one that the server functions saw")
            local_round.put_own_statistics(model, layers, settings, Path(device.workdir))
        planner = Planner(
            layers=layers,
            training=settings.training,
            codec=settings.codec,
            base_mb=monitor.memory.get("import"),
            forked=os.getppid() != request.pid,
            examples=len(shard.y_train) * settings.training.epochs,
            batchnorm_statistics=settings.batchnorm_statistics,
        )
        context = local_round.context(settings, client, device.max_layers)
        choice = device_limits.select_within_limits(device, settings, context, planner, free_bytes)
        selected = choice.selected
        if choice.limited:
            log(f"round {settings.round}: {choice.limited}")
        names = " ".join(layer.name for layer in selected)
        log(f"round {settings.round}: training {len(selected)} of {len(layers)} layers: {names}")
        choice.mark()
        trained = local_round.train(model, layers, selected, shard, settings, client, phase=monitor.phase)
        with monitor.phase("encode"):
            checksum = local_round.write_update(
                request.output, model, layers, selected, settings, request.input, Path(device.workdir)
            )
    resources, update_bytes = monitor.summary(), os.path.getsize(request.output)
    choice.learn(resources["seconds"], monitor.phases["train"])
    encoding.write_metadata(
        request.output,
        {
            **local_round.metadata(settings, client, layers, selected, trained, checksum, choice.context),
            "limited": choice.limited,
            "predicted_memory_mb": choice.predicted_mb,
            "update_bytes": update_bytes,
            "download_bytes": os.path.getsize(request.input),
            "resources": resources,
        },
    )
    log(f"round {settings.round}: loss {trained.loss:.4f}, {update_bytes:,} bytes, {resources['seconds']:.1f} s")


def _validate(request: Request) -> None:
    from fedn_partial.data.shard import check_fits, open_shard
    from fedn_partial.exchange import wire
    from fedn_partial.runtime import local_round
    from fedn_partial.settings.case import load_round_settings
    from fedn_partial.submodel.layers import read_layers

    device, client = _device(request)
    if not ROUND_SETTINGS.exists():
        raise FednPartialError(
            "FEDn says with a training request only which model it is, and there was none since this client started; "
            "the next validation will work"
        )
    settings = load_round_settings(_read_json(ROUND_SETTINGS), device)
    monitor = _monitor(request, device, client, settings)
    with monitor:
        from fedn_partial import models
        from fedn_partial.training import local_training

        shard = open_shard(device.data)
        model = models.build(settings.model, empty=True)
        check_fits(shard, model)
        layers = read_layers(model)
        digest = wire.digest(local_round.load(model, layers, request.input))
        local_round.put_own_statistics(model, layers, settings, Path(device.workdir))
        accuracy, loss = local_training.evaluate(model, shard.x_test, shard.y_test)
    metrics = {
        "accuracy": accuracy,
        "loss": loss,
        "test_examples": len(shard.y_test),
        "model_digest": wire.short_digest(digest),
        "download_bytes": os.path.getsize(request.input),
        "validate_seconds": monitor.summary()["seconds"],
    }
    write_text(request.output, json.dumps(metrics), durable=False)
    log(f"round {settings.round}: accuracy {accuracy:.4f} on {len(shard.y_test)} held-out examples")


def _device(request: Request):
    """Return the settings and the name of this device."""
    from fedn_partial.settings import client_file
    from fedn_partial.settings.schema import SettingsError

    config = launch.device_config(request.launcher)
    if config is None:
        raise SettingsError(
            "which client.yaml is this device's? Start it with 'fedn-partial client start --config client.yaml' or "
            "'fedn client start -in client.yaml', or set FEDN_PARTIAL_CLIENT to the file's path"
        )
    device = client_file.load_device(config)
    client = launch.client_name(config, request.launcher)
    if client is None:
        raise SettingsError(f"{config}: key 'name' is missing; it decides which layers this device trains")
    return device, client


def _monitor(request: Request, device, client: str, settings):
    from fedn_partial.device.monitor import ResourceMonitor

    return ResourceMonitor(
        interval=device.monitor_interval,
        roots=[os.getpid(), request.pid],
        # With FEDn's client, and with the fork server, most of whose memory this process shares.
        memory_roots=[os.getpid(), os.getppid(), request.pid, *([request.launcher.pid] if request.launcher else [])],
        samples=Path(device.workdir) / "samples.jsonl",
        labels={"client": client, "round": settings.round, "task": request.kind},
    )


def _read_json(path: str | Path) -> dict:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise FednPartialError(f"{path} cannot be read: {error}") from None
