"""What a board tells of itself: the load of its GPU, temperatures, power. Standard library only.

It comes from sysfs, and from NVIDIA's program tegrastats where that knows more. What a board does not tell is None.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

KEYS = ("gpu_percent", "temperature_c", "power_mw")

# Rails through which all of a Jetson module's power comes. Boards without one (AGX Xavier, AGX Orin) have rails side by
# side, some unmeasured: their sum would be a made-up number. So would be a sensor without a label on any other board.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN")
GPU_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")  # per mille, on JetPack 4, and since
POSSIBLE_C = (-50, 150)  # a sensor that is switched off tells -256 on Jetsons

TEGRASTATS_EVERY = 10  # seconds from one line of tegrastats to the next
TEGRASTATS_PATIENCE = 1  # seconds that it may take to write one
_RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) (\d+)(?:mW)?/\d+(?:mW)?(?!\S)")  # name, power now, mean power
_ZONE = re.compile(r"(?<!\S)([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C(?!\S)")
_GPU = re.compile(r"(?<!\S)GR3D(?:_FREQ)? (\d+)%")


@dataclass
class Board:
    """The sensors of a board, found once and read often.

    Attributes
    ----------
    zones : files with temperatures.
    gpu : file with the load of the GPU, or None.
    power : file with the power of the input rail in mW, or two with its voltage in mV and its current in mA, or none.
    tegrastats : path of NVIDIA's program, or None.
    """

    zones: tuple[Path, ...] = ()
    gpu: Path | None = None
    power: tuple[Path, ...] = ()
    tegrastats: str | None = None
    _ask_at: float = field(default=0.0, repr=False)  # when tegrastats is to be asked next, by the monotonic clock

    def read(self, patient: bool = False) -> dict[str, float | None]:
        """Return gpu_percent, temperature_c of the hottest zone, and power_mw of the input rail.

        Parameters
        ----------
        patient : whether there is time, about 0.1 s, to ask tegrastats for what the files do not tell. It is asked
            every TEGRASTATS_EVERY seconds, and no more once it did not know either (a Nano 2GB measures no power). It
            runs for one line: a program that ran along would have to be kept out of the task's figures, and stopped.
        """
        powers = [_number(path) for path in self.power]
        reading = {
            "gpu_percent": _scaled(_number(self.gpu), 10),
            "temperature_c": _hottest(_scaled(_number(path), 1000) for path in self.zones),
            "power_mw": None if None in powers or not powers else powers[0] * (powers[1] / 1000 if powers[1:] else 1),
        }
        missing = [key for key in KEYS if reading[key] is None]
        if patient and missing and self.tegrastats and time.monotonic() >= self._ask_at:
            told = parse_tegrastats(_tegrastats_line(self.tegrastats))
            found = {key: told[key] for key in missing if told[key] is not None}
            self._ask_at = time.monotonic() + TEGRASTATS_EVERY if found else float("inf")
            reading.update(found)
        return reading


def find(root: str = "/", tegrastats: str | None = "tegrastats") -> Board:
    """Return the sensors of this board.

    Parameters
    ----------
    root : folder that has sys/ in it.
    tegrastats : name or path of that program.
    """
    top = Path(root)
    zones = [zone for zone in sorted(top.glob("sys/class/thermal/thermal_zone*")) if _is_real(_text(zone / "type"))]
    return Board(
        zones=tuple(zone / "temp" for zone in zones),
        gpu=next((top / name for name in GPU_LOADS if (top / name).exists()), None),
        power=next((files for rail in INPUT_RAILS if (files := _rails(top).get(rail))), ()),
        tegrastats=shutil.which(tegrastats) if tegrastats else None,
    )


def parse_tegrastats(line: str) -> dict[str, float | None]:
    """Return what `line`, as JetPack 4 to 6 write it, tells of KEYS."""
    load = _GPU.search(line)
    rails = {name: float(power) for name, power in _RAIL.findall(line)}
    return {
        "gpu_percent": float(load[1]) if load else None,
        "temperature_c": _hottest(float(degrees) for name, degrees in _ZONE.findall(line) if _is_real(name)),
        "power_mw": next((rails[name] for name in INPUT_RAILS if name in rails), None),
    }


def _hottest(zones: Iterable[float | None]) -> float | None:
    """Return the highest of the temperatures that can be, or None."""
    low, high = POSSIBLE_C
    return max((degrees for degrees in zones if degrees is not None and low < degrees < high), default=None)


def _is_real(zone: str) -> bool:
    """Whether a zone is measured: that of a Jetson's power chip tells 50 or 100 degrees, always."""
    return not zone.startswith("PMIC")


def _rails(top: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each labelled rail: NVIDIA's driver up to JetPack 4 first, then Linux' own."""
    rails = {}
    for label in sorted(top.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*")):
        rails[_text(label)] = (label.with_name(label.name.replace("rail_name_", "in_power") + "_input"),)
    for label in sorted(top.glob("sys/class/hwmon/hwmon*/in*_label")):
        number = label.name[len("in") : -len("_label")]
        rails[_text(label)] = (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
    return rails


def _tegrastats_line(program: str) -> str:
    try:
        command = [program, "--interval", "100"]
        # It cannot outlive this process by more than its interval: it would then write to nobody, and be ended for it.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, errors="replace") as process:
            too_late = threading.Timer(TEGRASTATS_PATIENCE, process.kill)
            too_late.start()
            try:
                return process.stdout.readline()
            finally:
                too_late.cancel()
                process.kill()
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # also where a sensor is switched off
        return ""


def _number(path: Path | None) -> float | None:
    with contextlib.suppress(ValueError):
        return float(int(_text(path))) if path else None
    return None


def _scaled(value: float | None, parts: int) -> float | None:
    return None if value is None else value / parts
