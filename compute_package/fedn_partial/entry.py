"""What FEDn's entry points call: startup, train and validate. Standard library only, until a request runs."""

from __future__ import annotations

import os
import signal
import sys

from fedn_partial import attempt, cgroup, forkserver, launch
from fedn_partial.log import log
from fedn_partial.refusal import write_refusal

# A fork server holds 185 MB between requests, and 40 MB more than without it in a request: too much for a machine
# with less bytes of memory than this.
SMALL_MEMORY = 700e6
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
    for _ in range(ATTEMPTS):
        attempt.forget()
        kills = cgroup.memory_kills()
        answer = _carry_out("train", model, output)
        out_of_memory = _is_memory_kill(answer, kills)
        killed = attempt.was_killed() if out_of_memory else None
        if killed is None:
            break
        log(f"killed for memory while training {killed.layers} layers; trying again with fewer")
    doing = f"training {killed.layers} layers" if killed else "it got ready to train"
    problem = _problem(answer, out_of_memory, doing)
    if problem is None and answer["exit"]:
        problem = f"its process ended with exit code {answer['exit']}; the client's log says why"
    if problem:
        log(f"cannot train: {problem}")
        write_refusal(output, problem)
    return 0


def validate(model: str, output: str) -> int:
    """Test the global model in `model`, write the metrics as JSON to `output`. Return the exit code: 0 if it worked."""
    kills = cgroup.memory_kills()
    answer = _carry_out("validate", *_go_home(model, output))
    problem = _problem(answer, _is_memory_kill(answer, kills), "testing")
    if problem:
        log(f"cannot validate: {problem}")
    return 1 if problem or answer["exit"] else 0


def _go_home(*paths: str) -> list[str]:
    """Go to the compute package, where FEDn starts us anyway; return `paths` as absolute ones."""
    paths = [os.path.abspath(path) for path in paths]
    os.chdir(sys.path[0])
    return paths


def _carry_out(kind: str, model: str, output: str) -> dict:
    answer = forkserver.ask(kind, model, output)
    if answer is not None:
        return answer
    launcher = launch.find_launcher()
    launch.use_right_python(launcher)
    return forkserver.run_alone(kind, model, output, launcher)


def _is_memory_kill(answer: dict, kills_before: int | None) -> bool:
    """Whether the kernel killed the request, or the fork server below it, for memory.

    Where the kernel does not count, every SIGKILL is taken for that.
    """
    kills = cgroup.memory_kills()
    died = answer.get("signal") == signal.SIGKILL or "lost" in answer
    return died and (kills_before is None or kills is None or kills > kills_before)


def _problem(answer: dict, out_of_memory: bool, doing: str) -> str | None:
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
        return "the fork server ended during the request; restart this client"
    return None
