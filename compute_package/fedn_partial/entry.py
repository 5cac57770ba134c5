"""What FEDn's entry points call: startup, train and validate. Standard library only, until a request runs."""

from __future__ import annotations

import os
import signal
import sys

from fedn_partial import cgroup, forkserver, launch
from fedn_partial.log import log
from fedn_partial.refusal import write_refusal

# A fork server holds 185 MB between requests, and 40 MB more than without it in a request: too much for a machine
# with less bytes of memory than this.
SMALL_MEMORY = 700e6


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
    answer = _carry_out("train", model, output)
    problem = _problem(answer)
    if problem is None and answer["exit"]:
        problem = f"its process ended with exit code {answer['exit']}; the client's log says why"
    if problem:
        log(f"cannot train: {problem}")
        write_refusal(output, problem)
    return 0


def validate(model: str, output: str) -> int:
    """Test the global model in `model`, write the metrics as JSON to `output`. Return the exit code: 0 if it worked."""
    answer = _carry_out("validate", model, output)
    problem = _problem(answer)
    if problem:
        log(f"cannot validate: {problem}")
    return 1 if problem or answer["exit"] else 0


def _carry_out(kind: str, model: str, output: str) -> dict:
    model, output = os.path.abspath(model), os.path.abspath(output)
    os.chdir(sys.path[0])  # the compute package, where FEDn starts us anyway
    answer = forkserver.ask(kind, model, output)
    if answer is not None:
        return answer
    launcher = launch.find_launcher()
    launch.use_right_python(launcher)
    return forkserver.run_alone(kind, model, output, launcher)


def _problem(answer: dict) -> str | None:
    if answer.get("signal") == signal.SIGKILL:
        return (
            "its process was killed (SIGKILL), most likely because the memory ran out; "
            "set max_layers or a smaller batch_size in client.yaml"
        )
    if "signal" in answer:
        return f"its process ended by {signal.Signals(answer['signal']).name}"
    if "lost" in answer:
        return "the fork server ended during the request; restart this client"
    return None
