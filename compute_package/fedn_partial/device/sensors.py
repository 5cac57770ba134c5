"""What a board tells of itself: the load of its GPU, temperatures, power. Standard library only.

It comes from sysfs, and from NVIDIA's program tegrastats where that knows more. What a board does not tell is None.

The lines of JetPack 7 are known from logs of AGX Thor and AGX Orin (JetPack 7.2) in other projects' issues, not from a
board of our own.
"""

from __future__ import annotations

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
# AGX Thor measures VIN, which feeds its carrier board as well.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
GPU_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")  # per mille, on JetPack 4, and since
POSSIBLE = {  # a sensor that is switched off tells -256 degrees on Jetsons
    "gpu_percent": (0, 100),
    "temperature_c": (-50, 150),
    "power_mw": (0, 1e6),
}
# The zones of chips and boards, by the words in their names. Others are those of Wi-Fi cards, disks, batteries and
# chargers, which get hotter for reasons of their own, or no measurements at all: a Jetson's PMIC-Die tells 50 or 100
# degrees, always, and INT3400 on PCs 20.
_CHIP = re.compile(
    r"(?<![a-z])([mbt]?cpu|gpu|soc|npu|tj|ao|pll|cv|aux|t?board|t?diode|pkg|package|(big|little)?core|cluster|center"
    r"|acpitz)(?![a-z])|(?<![a-z])[cg]puss",
    re.IGNORECASE,
)

TEGRASTATS_EVERY = 10  # seconds from one line of tegrastats to the next
TEGRASTATS_PATIENCE = 1  # seconds that it may take to write one
# Name, power now, mean power, and since JetPack 7 the highest; name, degrees now, and since JetPack 7.2 once more.
_RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) ([0-9]{1,9})(?:mW)?(?:/[0-9]+(?:mW)?){1,2}(?!\S)")
_ZONE = re.compile(r"(?<!\S)([A-Za-z][\w-]*)@(-?[0-9]{1,9}(?:\.[0-9]+)?)C(?:/-?[0-9]+(?:\.[0-9]+)?C)?(?!\S)")
_GPU = re.compile(r"(?<!\S)GR3D(?:_FREQ)? ([0-9]{1,9})%")  # AGX Thor does not tell it
_INTEGER = re.compile(r"-?[0-9]{1,12}")


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
        power = None if None in powers or not powers else powers[0] * (powers[1] / 1000 if powers[1:] else 1)
        reading = _reading(_scaled(_number(self.gpu), 10), [_celsius(_number(path)) for path in self.zones], power)
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
    zones = [zone for zone in sorted(top.glob("sys/class/thermal/thermal_zone*")) if _CHIP.search(_text(zone / "type"))]
    return Board(
        zones=tuple(zone / "temp" for zone in zones),
        gpu=next((top / name for name in GPU_LOADS if (top / name).exists()), None),
        power=next((files for rail in INPUT_RAILS if (files := _rails(top).get(rail))), ()),
        tegrastats=shutil.which(tegrastats) if tegrastats else None,
    )


def parse_tegrastats(line: str) -> dict[str, float | None]:
    """Return what `line`, as JetPack 4 to 7 write it, tells of KEYS."""
    load = _GPU.search(line)
    rails = {name: float(power) for name, power in _RAIL.findall(line)}
    return _reading(
        float(load[1]) if load else None,
        [float(degrees) for name, degrees in _ZONE.findall(line) if _CHIP.search(name)],
        next((rails[name] for name in INPUT_RAILS if name in rails), None),
    )


def _celsius(value: float | None) -> float | None:
    """Return degrees from a thermal zone's millidegrees, or degrees with old kernels."""
    return value if value is None or abs(value) < 200 else value / 1000


def _reading(gpu: float | None, zones: Iterable[float | None], power: float | None) -> dict[str, float | None]:
    """Return KEYS with their values, the highest of the temperatures; None where a value cannot be."""

    def possible(key: str, values: Iterable[float | None]) -> float | None:
        low, high = POSSIBLE[key]
        return max((value for value in values if value is not None and low <= value <= high), default=None)

    return dict(zip(KEYS, map(possible, KEYS, ([gpu], zones, [power])), strict=True))


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
        return path.read_text(errors="replace").replace("\0", "").strip()
    except (OSError, ValueError):  # also where a sensor is switched off
        return ""


def _number(path: Path | None) -> float | None:
    text = _text(path) if path else ""
    return float(text) if _INTEGER.fullmatch(text) else None


def _scaled(value: float | None, parts: int) -> float | None:
    return None if value is None else value / parts
