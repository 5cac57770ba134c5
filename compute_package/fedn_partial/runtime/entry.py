"""Implementation of FEDn's entry points startup, train and validate. Standard library only, until a request runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from fedn_partial.device import cgroup, oom_marker
from fedn_partial.log import log
from fedn_partial.runtime import forkserver, launch
from fedn_partial.runtime.refusal import write_refusal

# Machines with less memory (bytes) run without a fork server, which holds 185 MB between requests and adds 40 MB to a
# request.
SMALL_MEMORY = 700e6
ROUND_SETTINGS = os.path.join(forkserver.STATE, "round.json")  # saved by a training request for validations
ATTEMPTS = 6  # of a training request, each with fewer layers, after out-of-memory kills


def startup() -> None:
    """Start the fork server of this compute package, unless the machine is too small for one."""
    launcher = launch.find_launcher()
    launch.use_client_python(launcher)
    os.chdir(sys.path[0])
    memory = cgroup.machine_memory()
    if memory is not None and memory < SMALL_MEMORY:
        log(f"memory {memory / 1e6:.0f} MB: no fork server, TensorFlow is imported in each request")
    elif launcher is not None:
        forkserver.start(launcher)


def train(model: str, output: str) -> int:
    """Train the global model in `model` and write the local update to `output`. Return the exit code.

    The exit code is always 0, and an update is always written, an empty one with the reason after a failure: a FEDn
    0.33 client crashes after a training request without a result.
    """
    model, output = _enter_package(model, output)
    timeout = _round_timeout(model + "-metadata")
    deadline = time.monotonic() + timeout if timeout else None
    for _ in range(ATTEMPTS):
        oom_marker.clear()
        kills = cgroup.memory_kills()
        reply = _execute("train", model, output, deadline)
        out_of_memory = _is_memory_kill(reply, kills)
        killed = oom_marker.confirm_kill() if out_of_memory else None
        if killed is None:
            break
        log(f"out-of-memory kill while training {killed.layers} layers; retrying with fewer")
    activity = f"training {killed.layers} layers" if killed else "preparing to train"
    problem = _problem(reply, out_of_memory, activity, timeout)
    if problem is None and reply["exit"]:
        problem = f"training process ended with exit code {reply['exit']}; see the client's log"
    if problem:
        log(f"cannot train: {problem}")
        write_refusal(output, problem)
    return 0


def validate(model: str, output: str) -> int:
    """Evaluate the global model in `model` and write the metrics as JSON to `output`. Return the exit code."""
    kills = cgroup.memory_kills()
    model, output = _enter_package(model, output)
    timeout = _round_timeout(ROUND_SETTINGS)
    reply = _execute("validate", model, output, time.monotonic() + timeout if timeout else None)
    problem = _problem(reply, _is_memory_kill(reply, kills), "evaluating", timeout)
    if problem:
        log(f"cannot validate: {problem}")
    return 1 if problem or reply["exit"] else 0


def _round_timeout(settings: str) -> int | None:
    """Return the round_timeout in seconds from a file of round settings, or None."""
    try:
        with open(settings) as file:
            timeout = json.load(file)["session"]["round_timeout"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None  # the request itself reports the error
    return timeout if isinstance(timeout, int) and timeout > 0 else None


def _enter_package(*paths: str) -> list[str]:
    """Change to the compute package's folder; return `paths` as absolute paths."""
    paths = [os.path.abspath(path) for path in paths]
    os.chdir(sys.path[0])
    return paths


def _execute(kind: str, model: str, output: str, deadline: float | None) -> dict:
    """Execute a request until `deadline`; restart the fork server if it was killed."""
    reply = forkserver.request(kind, model, output, _seconds_until(deadline))
    if reply is not None:
        return reply
    launcher = launch.find_launcher()
    launch.use_client_python(launcher)
    if launcher is not None and forkserver.was_started():
        log("fork server was killed; restarting it")
        forkserver.start(launcher)
        reply = forkserver.request(kind, model, output, _seconds_until(deadline))
    return reply or forkserver.run_alone(kind, model, output, launcher, _seconds_until(deadline))


def _seconds_until(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)


def _is_memory_kill(reply: dict, kills_before: int | None) -> bool:
    """Return whether the kernel killed the request or the fork server for memory.

    Where the kernel does not count such kills, every SIGKILL counts as one.
    """
    kills = cgroup.memory_kills()
    died = reply.get("signal") == signal.SIGKILL or "lost" in reply
    return died and (kills_before is None or kills is None or kills > kills_before)


def _problem(reply: dict, out_of_memory: bool, activity: str, timeout: int | None) -> str | None:
    """Return why a request failed, or None."""
    if "timed_out" in reply:
        return (
            f"stopped after {timeout} s, the round's timeout: this device is too slow for the requested layers; "
            "set round_seconds or max_layers in client.yaml, or a longer round_timeout for the session"
        )
    if out_of_memory:
        return f"out-of-memory kill while {activity}; set a smaller batch_size in client.yaml, or add memory"
    if reply.get("signal") == signal.SIGKILL:
        return "request process was killed (SIGKILL), not for memory according to the kernel's counters"
    if "signal" in reply:
        return f"request process was ended by {signal.Signals(reply['signal']).name}"
    if "lost" in reply:
        return "the fork server was killed during the request; the next request restarts it"
    return None
