"""What FEDn's entry points call: startup, train and validate. Standard library only, until a request runs."""

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

# A fork server holds 185 MB between requests, and 40 MB more than without it in a request: too much for a machine
# with less bytes of memory than this.
SMALL_MEMORY = 700e6
ROUND_SETTINGS = os.path.join(forkserver.STATE, "round.json")  # what a training request leaves to validations
ATTEMPTS = 6  # of a training request that is killed for memory, each with fewer layers


def startup() -> None:
    """Start the fork server of this compute package, unless the machine is too small for one."""
    launcher = launch.find_launcher()
    launch.use_right_python(launcher)
    os.chdir(sys.path[0])
    memory = cgroup.machine_memory()
    if memory is not None and memory < SMALL_MEMORY:
        log(f"{memory / 1e6:.0f} MB of memory: TensorFlow is imported for each request and not kept")
    elif launcher is not None:
        forkserver.start(launcher)


def train(model: str, output: str) -> int:
    """Train: read the global model from `model`, write the local update to `output`. Return the exit code.

    It is always 0 and leaves an update, an empty one with the reason if nothing else: a FEDn 0.33 client does
    not survive a training request without a result.
    """
    model, output = _go_home(model, output)
    timeout = _round_timeout(model + "-metadata")
    deadline = time.monotonic() + timeout if timeout else None
    for _ in range(ATTEMPTS):
        oom_marker.clear()
        kills = cgroup.memory_kills()
        answer = _carry_out("train", model, output, deadline)
        out_of_memory = _is_memory_kill(answer, kills)
        killed = oom_marker.confirm_kill() if out_of_memory else None
        if killed is None:
            break
        log(f"killed for memory while training {killed.layers} layers; trying again with fewer")
    doing = f"training {killed.layers} layers" if killed else "it got ready to train"
    problem = _problem(answer, out_of_memory, doing, timeout)
    if problem is None and answer["exit"]:
        problem = f"its process ended with exit code {answer['exit']}; the client's log says why"
    if problem:
        log(f"cannot train: {problem}")
        write_refusal(output, problem)
    return 0


def validate(model: str, output: str) -> int:
    """Test the global model in `model`, write the metrics as JSON to `output`. Return the exit code: 0 if it worked."""
    kills = cgroup.memory_kills()
    model, output = _go_home(model, output)
    timeout = _round_timeout(ROUND_SETTINGS)
    answer = _carry_out("validate", model, output, time.monotonic() + timeout if timeout else None)
    problem = _problem(answer, _is_memory_kill(answer, kills), "testing", timeout)
    if problem:
        log(f"cannot validate: {problem}")
    return 1 if problem or answer["exit"] else 0


def _round_timeout(settings: str) -> int | None:
    """Return how many seconds a request may take by the round's settings in this file, None for any number."""
    try:
        with open(settings) as file:
            timeout = json.load(file)["session"]["round_timeout"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None  # which the request itself explains
    return timeout if isinstance(timeout, int) and timeout > 0 else None


def _go_home(*paths: str) -> list[str]:
    """Go to the compute package, where FEDn starts us anyway; return `paths` as absolute ones."""
    paths = [os.path.abspath(path) for path in paths]
    os.chdir(sys.path[0])
    return paths


def _carry_out(kind: str, model: str, output: str, deadline: float | None) -> dict:
    """Carry out a request until `deadline`, and start the fork server again if it was killed."""
    answer = forkserver.request(kind, model, output, _seconds_until(deadline))
    if answer is not None:
        return answer
    launcher = launch.find_launcher()
    launch.use_right_python(launcher)
    if launcher is not None and forkserver.was_started():
        log("the fork server was killed; starting it again")
        forkserver.start(launcher)
        answer = forkserver.request(kind, model, output, _seconds_until(deadline))
    return answer or forkserver.run_alone(kind, model, output, launcher, _seconds_until(deadline))


def _seconds_until(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)


def _is_memory_kill(answer: dict, kills_before: int | None) -> bool:
    """Whether the kernel killed the request, or the fork server below it, for memory.

    Where the kernel does not count, every SIGKILL is taken for that.
    """
    kills = cgroup.memory_kills()
    died = answer.get("signal") == signal.SIGKILL or "lost" in answer
    return died and (kills_before is None or kills is None or kills > kills_before)


def _problem(answer: dict, out_of_memory: bool, doing: str, timeout: int | None) -> str | None:
    if "timed_out" in answer:
        return (
            f"stopped after {timeout} s, the round's timeout: this device is too slow for what it was to train; "
            "set round_seconds or max_layers in client.yaml, or a longer round_timeout for the session"
        )
    if out_of_memory:
        return (
            f"the kernel killed its process for memory while {doing}; "
            "set a smaller batch_size in client.yaml, or add memory"
        )
    if answer.get("signal") == signal.SIGKILL:
        return "its process was killed (SIGKILL), and not for memory, as the kernel counts"
    if "signal" in answer:
        return f"its process ended by {signal.Signals(answer['signal']).name}"
    if "lost" in answer:
        return "the fork server was killed during the request; the next request starts it again"
    return None
