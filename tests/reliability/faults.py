"""Inject each fault into a session on a real FEDn network and write what happened as a table: docs/RELIABILITY.md.

Run as root (a full disk is a small file system in memory): ``make faults``. About 25 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "harness"), str(HERE.parent / "e2e")]

import psutil  # noqa: E402
from conftest import Run, RunningFleet, assert_models_are_what_clients_sent, make_case  # noqa: E402

from fedn_partial.client.fleet import processes  # noqa: E402

ROUNDS = 4
VICTIM = "client-3"
STOPPED = 20  # seconds that a process is stopped with SIGSTOP
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"

# The line that a phase of round 2 begins with, and in whose log.
PHASES = {
    "downloading": (VICTIM, "Downloading model from combiner"),
    "training": (VICTIM, "round 2: training"),
    "uploading": (VICTIM, "round 2: loss"),
    "merging": ("hooks", "Received metadata"),
    "validating": ("combiner", "COMBINER orchestrating validation"),
}
SERVERS = ("controller", "combiner", "hooks", "storage")


@dataclass
class Fault:
    """A fault: `inject` is called with the network when `phase` of round 2 begins, `mend` after the session."""

    name: str
    phase: str
    inject: Callable[[RunningFleet], None]
    mend: Callable[[RunningFleet], None] = lambda running: None


@dataclass
class Outcome:
    """What a session made of a fault; seconds count from the fault."""

    fault: Fault
    statuses: list[str] = field(default_factory=list)
    problem: str | None = None
    ended: float | None = None
    seen: list[tuple[float, str]] = field(default_factory=list)
    models: str = "FEDn was away"

    def row(self) -> str:
        parts = [f"{self.statuses.count('Finished')} of {ROUNDS} rounds made a model"] if self.statuses else []
        if self.problem:
            parts.append(f"ended after {self.ended:.0f} s: {shortened(self.problem)}")
        session = "; ".join(parts)
        seen = "; ".join(f"{seconds:.0f} s: {text}" for seconds, text in self.seen[:3]) or "nothing beside the rounds"
        cells = (self.fault.name, self.fault.phase, session, seen, self.models)
        return "| " + " | ".join(anonymised(cell.replace("|", "/").replace("\n", " ")) for cell in cells) + " |"


def anonymised(text: str) -> str:
    """Return `text` without what differs from run to run: the network's folder and ports."""
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/faults-\w+/network", "FOLDER", text)
    return re.sub(r"(?<=127\.0\.0\.1:)\d+", "PORT", text)


def shortened(text: str) -> str:
    """Return the first and the last of the lines of an error that quotes a log."""
    first, *quoted = text.splitlines()
    return f"{first} ... {quoted[-1]}" if quoted else first


def kill(name: str, number: int = signal.SIGKILL) -> Callable[[RunningFleet], None]:
    def inject(running):
        os.kill(process(running, name).pid, number)

    return inject


def stop_for_a_while(name: str) -> Callable[[RunningFleet], None]:
    def inject(running):
        stopped = process(running, name)
        family = [stopped, *stopped.children(recursive=True)]
        for member in family:
            member.suspend()
        time.sleep(STOPPED)
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.resume()

    return inject


def process(running: RunningFleet, name: str) -> psutil.Process:
    return running.fleet.clients[name] if name == VICTIM else running.network.running[name]


def restart_client(running: RunningFleet) -> None:
    """Start the client again that was killed, and wait until FEDn counts it."""
    processes.stop([running.fleet.clients[VICTIM]])
    home = running.fleet.folder / VICTIM
    command = [sys.executable, "-m", "fedn_partial.client", "client", "start", "--config", "client.yaml"]
    running.fleet.clients[VICTIM] = processes.start(command, home / "client.log", dict(os.environ), home, tied=True)


def fill_disk(of: str) -> tuple[Callable, Callable]:
    """Return how the disk of a device's working folder, or of the object store, becomes full, and has room again."""

    def folder(running) -> Path:
        return running.fleet.folder / VICTIM if of == "device" else running.network.folder / "storage"

    def inject(running):
        with contextlib.suppress(OSError), (folder(running) / "filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()

    def mend(running):
        (folder(running) / "filler").unlink(missing_ok=True)

    return inject, mend


def storage_gone() -> tuple[Callable, Callable]:
    def inject(running):
        models = running.network.folder / "storage" / "fedn-models"
        models.rename(models.with_name("away"))

    def mend(running):
        models = running.network.folder / "storage" / "fedn-models"
        for model in models.with_name("away").iterdir():
            model.rename(models / model.name)
        models.with_name("away").rmdir()

    return inject, mend


def controller_gone() -> tuple[Callable, Callable]:
    """The controller is killed and cannot be started again, as its settings are gone."""

    def inject(running):
        settings = running.network.folder / "settings.yaml"
        settings.rename(settings.with_suffix(".away"))
        kill("controller")(running)

    def mend(running):
        settings = running.network.folder / "settings.yaml"
        settings.with_suffix(".away").rename(settings)
        running.network._restarts.clear()

    return inject, mend


def faults() -> list[Fault]:
    made = [Fault(f"{name} killed", phase, kill(name)) for name in SERVERS for phase in ("waiting", *PHASES)]
    made += [Fault("client killed", phase, kill(VICTIM), restart_client) for phase in ("waiting", *PHASES)]
    made += [Fault(f"{name} stopped for {STOPPED} s", "training", stop_for_a_while(name)) for name in SERVERS]
    made += [Fault(f"client stopped for {STOPPED} s", "training", stop_for_a_while(VICTIM))]
    made += [
        Fault("disk of a device full", "training", *fill_disk("device")),
        Fault("disk of the object store full", "training", *fill_disk("storage")),
        Fault("models removed from the object store", "training", *storage_gone()),
        Fault("controller killed, cannot be started again", "training", *controller_gone()),
    ]
    return made


def log_of(running: RunningFleet, name: str) -> Path:
    return running.fleet.folder / name / "client.log" if name == VICTIM else running.network.log(name)


def wait_for_phase(running: RunningFleet, poller, phase: str) -> None:
    """Return as soon as `phase` of the session's second round begins."""
    while not any(round_.over for round_ in poller.rounds.values()):
        time.sleep(0.05)
    if phase == "waiting":
        return
    while len(poller.rounds) < 2 and phase not in ("downloading", "training", "uploading"):
        time.sleep(0.02)
    name, words = PHASES[phase]
    with log_of(running, name).open(errors="replace") as log:
        log.seek(0, os.SEEK_END)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if words in log.readline():
                return
            time.sleep(0.002)
    raise RuntimeError(f"{phase} did not begin: no {words!r} in the log of {name}")


def play(running: RunningFleet, fault: Fault, folder: Path) -> Outcome:
    """Play a session with `fault` in its second round."""
    outcome, injected, events = Outcome(fault), [], []

    def meanwhile(poller):
        wait_for_phase(running, poller, fault.phase)
        injected.append(time.monotonic())
        fault.inject(running)

    case = make_case(name="faults", session={"rounds": ROUNDS, "round_timeout": 30, "min_clients": 2})
    try:
        run = Run(running, folder, case, meanwhile, on_event=lambda event: events.append((time.monotonic(), event)))
        outcome.problem, rounds = run.final["problem"], run.rounds()
        outcome.statuses = [round_.status for round_ in rounds]
    except Exception as error:
        outcome.problem, run = str(error), None
    ended = time.monotonic()
    fault.mend(running)
    outcome.ended = ended - injected[0] if injected else None
    outcome.seen = [(when - injected[0], text) for when, text in sentences(events) if injected and when >= injected[0]]
    if run is not None:
        try:
            assert_models_are_what_clients_sent(running, run, folder)
            outcome.models = "right"
        except AssertionError as error:
            outcome.models = f"WRONG: {str(error)[:80]}"
    return outcome


def sentences(events):
    """Yield when something beside the figures of a good round was shown, and what."""
    for when, event in events:
        if event["event"] == "round":
            if event["failed"]:
                number = event["round"] or f"{event['fedn_round']} of FEDn"
                yield when, f"round {number} failed, the global model stays as it was"
            yield from ((when, problem) for problem in event["problems"])
        elif "text" in event:
            yield when, event["text"]


def settle(running: RunningFleet) -> None:
    """Wait until network and clients are as before the fault."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        for event in running.network.supervise():
            print(f"  {event}")
        with contextlib.suppress(Exception):
            online = running.api.get("clients/", params={"status": "online"})["result"]
            states = {session["status"] for session in running.api.get("sessions/", limit=5, order="desc")["result"]}
            if len(online) == 3 and "Started" not in states:
                running.network._restarts.clear()  # the next fault is the first of its process again
                return
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="Play the faults whose name and phase have one of these, with commas between.")
    parser.add_argument("--document", type=Path, help="Write the table into this file, between its marks.")
    options = parser.parse_args()
    words = (options.only or "").split(",")
    chosen = [f for f in faults() if any(word in f"{f.name} {f.phase}" for word in words)]
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    running = RunningFleet(folder)
    for part, size in (("clients/client-3", "64m"), ("network/storage", "256m")):
        (folder / part).mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder / part)], check=True)
    rows = [
        "| fault | when | session | what the operator sees, seconds after the fault | models |",
        "|---|---|---|---|---|",
    ]
    try:
        running.start()
        for fault in chosen:
            settle(running)
            outcome = play(running, fault, Path(tempfile.mkdtemp(dir=folder)))
            if outcome.ended is None:
                print(f"{fault.name}, {fault.phase}: was not injected", flush=True)
                continue
            rows.append(outcome.row())
            print(rows[-1], flush=True)
    finally:
        running.stop()
        for part in ("clients/client-3", "network/storage"):
            subprocess.run(["umount", "-l", str(folder / part)], check=False)
    if options.document:
        text = options.document.read_text()
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        options.document.write_text(text[:start] + "\n" + "\n".join(rows) + "\n" + text[end:])
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    threading.excepthook = lambda args: print(f"  in the fault's thread: {args.exc_value!r}", flush=True)
    main()
