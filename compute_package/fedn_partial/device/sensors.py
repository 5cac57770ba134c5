"""Sensors of a board: GPU load, temperature, power. Standard library only.

Values are read from sysfs, and from NVIDIA's program tegrastats if sysfs lacks them. Missing values are None.

The tegrastats format of JetPack 7 is taken from public logs of AGX Thor and AGX Orin (JetPack 7.2), not tested on a
board.
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

# Input rails that carry a Jetson module's whole power. Boards without one (AGX Xavier, AGX Orin) have parallel rails,
# some unmeasured, whose sum would be wrong, as would an unlabelled sensor of another board. VIN of AGX Thor includes
# its carrier board.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
GPU_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")  # per mille; JetPack 4, and later
VALID = {  # a Jetson sensor that is switched off reports -256 degrees
    "gpu_percent": (0, 100),
    "temperature_c": (-50, 150),
    "power_mw": (0, 1e6),
}
# Names of thermal zones of chips and boards. Others belong to Wi-Fi cards, disks, batteries and chargers, or are
# placeholders: a Jetson's PMIC-Die is fixed at 50 or 100 degrees C, INT3400 on PCs at 20.
_CHIP = re.compile(
    r"(?<![a-z])([mbt]?cpu|gpu|soc|npu|tj|ao|pll|cv|aux|t?board|t?diode|pkg|package|(big|little)?core|cluster|center"
    r"|acpitz)(?![a-z])|(?<![a-z])[cg]puss",
    re.IGNORECASE,
)

TEGRASTATS_INTERVAL = 10  # seconds between two runs of tegrastats
TEGRASTATS_TIMEOUT = 1  # seconds of one run
# Name, current power, mean power, and since JetPack 7 peak power; name, temperature, repeated since JetPack 7.2.
_RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) ([0-9]{1,9})(?:mW)?(?:/[0-9]+(?:mW)?){1,2}(?!\S)")
_ZONE = re.compile(r"(?<!\S)([A-Za-z][\w-]*)@(-?[0-9]{1,9}(?:\.[0-9]+)?)C(?:/-?[0-9]+(?:\.[0-9]+)?C)?(?!\S)")
_GPU = re.compile(r"(?<!\S)GR3D(?:_FREQ)? ([0-9]{1,9})%")  # not reported by AGX Thor
_INTEGER = re.compile(r"-?[0-9]{1,12}")


@dataclass
class Board:
    """The sensors of a board.

    Attributes
    ----------
    zones : files with temperatures.
    gpu : file with the load of the GPU, or None.
    power : file with the power of the input rail in mW, or files with its voltage in mV and current in mA, or none.
    tegrastats : path of NVIDIA's program, or None.
    """

    zones: tuple[Path, ...] = ()
    gpu: Path | None = None
    power: tuple[Path, ...] = ()
    tegrastats: str | None = None
    _next_run: float = field(default=0.0, repr=False)  # of tegrastats, by the monotonic clock

    def read(self, patient: bool = False) -> dict[str, float | None]:
        """Return gpu_percent, temperature_c of the hottest zone, and power_mw of the input rail.

        Parameters
        ----------
        patient : run tegrastats, for about 0.1 s, if values are missing. It runs every TEGRASTATS_INTERVAL seconds,
            until it lacks them as well (a Nano 2GB measures no power), and for one line only, so that it neither
            distorts the measurements nor needs to be stopped.
        """
        powers = [_number(path) for path in self.power]
        power = None if None in powers or not powers else powers[0] * (powers[1] / 1000 if powers[1:] else 1)
        reading = _reading(_scaled(_number(self.gpu), 10), [_celsius(_number(path)) for path in self.zones], power)
        missing = [key for key in KEYS if reading[key] is None]
        if patient and missing and self.tegrastats and time.monotonic() >= self._next_run:
            stats = parse_tegrastats(_tegrastats_line(self.tegrastats))
            added = {key: stats[key] for key in missing if stats[key] is not None}
            self._next_run = time.monotonic() + TEGRASTATS_INTERVAL if added else float("inf")
            reading.update(added)
        return reading


def find(root: str = "/", tegrastats: str | None = "tegrastats") -> Board:
    """Return the sensors of this board.

    Parameters
    ----------
    root : folder that contains sys/.
    tegrastats : name or path of the program.
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
    """Return the values of KEYS in a line of tegrastats (JetPack 4 to 7)."""
    load = _GPU.search(line)
    rails = {name: float(power) for name, power in _RAIL.findall(line)}
    return _reading(
        float(load[1]) if load else None,
        [float(degrees) for name, degrees in _ZONE.findall(line) if _CHIP.search(name)],
        next((rails[name] for name in INPUT_RAILS if name in rails), None),
    )


def _celsius(value: float | None) -> float | None:
    """Return degrees from a thermal zone's value: millidegrees, or degrees with old kernels."""
    return value if value is None or abs(value) < 200 else value / 1000


def _reading(gpu: float | None, zones: Iterable[float | None], power: float | None) -> dict[str, float | None]:
    """Return KEYS with their values, the highest temperature, and None for invalid values."""

    def valid(key: str, values: Iterable[float | None]) -> float | None:
        low, high = VALID[key]
        return max((value for value in values if value is not None and low <= value <= high), default=None)

    return dict(zip(KEYS, map(valid, KEYS, ([gpu], zones, [power])), strict=True))


def _rails(top: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each labelled rail: of NVIDIA's driver up to JetPack 4, then of Linux' own."""
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
        # If this process ends, tegrastats ends within an interval by SIGPIPE.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, errors="replace") as process:
            timeout = threading.Timer(TEGRASTATS_TIMEOUT, process.kill)
            timeout.start()
            try:
                return process.stdout.readline()
            finally:
                timeout.cancel()
                process.kill()
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\0", "").strip()
    except (OSError, ValueError):  # also if a sensor is switched off
        return ""


def _number(path: Path | None) -> float | None:
    text = _text(path) if path else ""
    return float(text) if _INTEGER.fullmatch(text) else None


def _scaled(value: float | None, parts: int) -> float | None:
    return None if value is None else value / parts
