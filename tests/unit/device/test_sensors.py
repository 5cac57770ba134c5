"""Sensors of boards, from trees as their kernels show them and from lines of tegrastats."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from fedn_partial.device import sensors

NOTHING = {"gpu_percent": None, "temperature_c": None, "power_mw": None}


def make_tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return str(root)


def thermal(**zones):
    """zone name: millidegrees; underscores stand for the hyphens of the real names."""
    files = {}
    for number, (name, millidegrees) in enumerate(zones.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        files |= {f"{folder}/type": name.replace("_", "-"), f"{folder}/temp": millidegrees}
    return files


NANO_ZONES = thermal(
    AO_therm=42000, CPU_therm=36500, GPU_therm=35000, PLL_therm=34000, PMIC_Die=100000, thermal_fan_est=35750
)
INA = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
HWMON = "sys/class/hwmon/hwmon3"
BOARDS = {
    "Jetson Nano": (
        NANO_ZONES
        | {"sys/devices/gpu.0/load": 137}
        | {f"{INA}/rail_name_0": "POM_5V_IN", f"{INA}/in_power0_input": 2345, f"{INA}/in_voltage0_input": 5080}
        | {f"{INA}/rail_name_1": "POM_5V_GPU", f"{INA}/in_power1_input": 120}
        | {f"{INA}/rail_name_2": "POM_5V_CPU", f"{INA}/in_power2_input": 640},
        {"gpu_percent": 13.7, "temperature_c": 42.0, "power_mw": 2345.0},
    ),
    "Jetson Nano 2GB": (
        NANO_ZONES | {"sys/devices/gpu.0/load": 0},
        {"gpu_percent": 0.0, "temperature_c": 42.0, "power_mw": None},
    ),
    "Orin Nano": (
        thermal(cpu_thermal=48500, gpu_thermal=47250, cv0_thermal=-256000, tj_thermal=49031)
        | {"sys/devices/platform/gpu.0/load": 999, f"{HWMON}/name": "ina3221"}
        | {f"{HWMON}/in1_label": "VDD_IN", f"{HWMON}/in1_input": 5008, f"{HWMON}/curr1_input": 1250}
        | {f"{HWMON}/in2_label": "VDD_CPU_GPU_CV", f"{HWMON}/in2_input": 5000, f"{HWMON}/curr2_input": 300}
        | {f"{HWMON}/in7_label": "sum of shunt voltages", f"{HWMON}/in7_input": 9},
        {"gpu_percent": 99.9, "temperature_c": 49.031, "power_mw": 6260.0},
    ),
    "AGX Orin, which has no input rail": (
        {f"{HWMON}/in1_label": "VDD_GPU_SOC", f"{HWMON}/in1_input": 19000, f"{HWMON}/curr1_input": 200}
        | {f"{HWMON}/in2_label": "VDD_CPU_CV", f"{HWMON}/in2_input": 19000, f"{HWMON}/curr2_input": 100},
        NOTHING,
    ),
    "Raspberry Pi 4": (
        thermal(cpu_thermal=51121) | {f"{HWMON}/name": "rpi_volt", f"{HWMON}/in0_lcrit_alarm": 0},
        {"gpu_percent": None, "temperature_c": 51.121, "power_mw": None},
    ),
    "laptop, whose Wi-Fi card is hottest": (
        thermal(acpitz=31000, iwlwifi_1=71000, nvme=66000, BAT0=75000, INT3400_Thermal=90000, x86_pkg_temp=52000),
        {"gpu_percent": None, "temperature_c": 52.0, "power_mw": None},
    ),
    "a Wi-Fi card alone": (thermal(ath10k_phy0=71000), NOTHING),
    "Rockchip": (
        thermal(bigcore0_thermal=61000, littlecore_thermal=55000, wifi=90000),
        NOTHING | {"temperature_c": 61.0},
    ),
    "impossible": (
        thermal(cpu_thermal=999000) | {"sys/devices/gpu.0/load": 12345},
        NOTHING,
    ),
    "PC": ({"sys/class/net/lo/mtu": 65536}, NOTHING),
    "broken files": (
        thermal(cpu_thermal="", x_thermal="hot")
        | {"sys/devices/gpu.0/load": "n/a", f"{INA}/rail_name_0": "POM_5V_IN", f"{INA}/in_power0_input": ""},
        NOTHING,
    ),
    "half a rail": ({f"{HWMON}/in1_label": "VDD_IN", f"{HWMON}/in1_input": 5008}, NOTHING),
}


@pytest.mark.parametrize(("files", "reading"), BOARDS.values(), ids=BOARDS)
def test_what_a_board_tells(tmp_path, files, reading):
    assert sensors.find(make_tree(tmp_path, files), tegrastats=None).read(patient=True) == pytest.approx(reading)


def test_every_reading_is_a_new_one(tmp_path):
    files, _ = BOARDS["Jetson Nano"]
    board = sensors.find(make_tree(tmp_path, files), tegrastats=None)
    assert board.read()["power_mw"] == 2345
    make_tree(tmp_path, {f"{INA}/in_power0_input": 5100, "sys/class/thermal/thermal_zone1/temp": 61000})
    assert board.read() == {"gpu_percent": 13.7, "temperature_c": 61.0, "power_mw": 5100.0}
    (tmp_path / "sys/devices/gpu.0/load").unlink()
    assert board.read()["gpu_percent"] is None


JETPACK_4 = (
    "RAM 1234/3964MB (lfb 2x4MB) SWAP 0/990MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [12%@1479,off,5%@1479,3%@1479] "
    "EMC_FREQ 0% GR3D_FREQ 7% PLL@25C CPU@27.5C PMIC@50C GPU@26.5C AO@33.5C thermal@27C "
    "POM_5V_IN 1234/1200 POM_5V_GPU 0/0 POM_5V_CPU 123/120\n"
)
JETPACK_5 = (
    "11-21-2026 09:30:00 RAM 2900/7620MB (lfb 5x4MB) SWAP 0/3810MB (cached 0MB) CPU [5%@1510,0%@729,off,off,off,off] "
    "EMC_FREQ 2%@2133 GR3D_FREQ 61%@[624,611] VIC_FREQ 0%@115 APE 200 CV0@-256C cpu@45.5C tboard@37C soc2@44.281C "
    "diode@40.5C soc0@43.5C CV1@-256C gpu@43.906C tj@45.906C soc1@43.25C VDD_IN 4800mW/4750mW "
    "VDD_CPU_GPU_CV 960mW/900mW VDD_SOC 1440mW/1440mW\n"
)
JETPACK_7_THOR = (  # logged on an AGX Thor with JetPack 7.2: no load of the GPU
    "07-02-2026 13:45:44 RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) CPU [2%@972,1%@972,0%@972] "
    "cpu@60.406C tj@63.281C soc012@58.468C gpu@62.906C soc345@63.281C VDD_GPU 37528mW/37528mW/37528mW "
    "VDD_CPU_SOC_MSS 18961mW/18961mW/18961mW VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW\n"
)
JETPACK_7_ORIN = (  # the beginning as logged on an AGX Orin with JetPack 7.2
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 0%@[1300,1300] NVENC0 off NVDEC0 off APE 174 cpu@52.968C/52.968C gpu@49.5C/50.1C\n"
)
LINES = {
    "JetPack 7, Thor": (JETPACK_7_THOR, (None, 63.281, 87426.0)),
    "JetPack 7, Orin": (JETPACK_7_ORIN, (0.0, 52.968, None)),
    "JetPack 7, clocks without a load": ("GR3D_FREQ @[1000,1000,1000] cpu@40C", (None, 40.0, None)),
    "JetPack 4": (JETPACK_4, (7.0, 33.5, 1234.0)),
    "JetPack 4, Nano 2GB": (JETPACK_4.partition(" POM")[0], (7.0, 33.5, None)),
    "JetPack 4, load with frequency": ("GR3D_FREQ 32%@921 APE 25 CPU@38C", (32.0, 38.0, None)),
    "JetPack 5": (JETPACK_5, (61.0, 45.906, 4800.0)),
    "rails side by side": ("VDD_GPU_SOC 3200mW/3200mW VDD_CPU_CV 800mW/800mW", (None, None, None)),
    "cut off": (JETPACK_4[: JETPACK_4.index("5C AO")], (7.0, 27.5, None)),
    "empty": ("", (None, None, None)),
    "no words of it": ("tegrastats: permission denied\x00 VDD_IN mW/mW cpu@C GR3D_FREQ %", (None, None, None)),
    "a Wi-Fi card": ("wifi@90C cpu@40C", (None, 40.0, None)),
    "impossible": ("cpu@-256C gpu@1000C VDD_IN -5/3 GR3D_FREQ 700%", (None, None, None)),
}


@pytest.mark.parametrize(("line", "values"), LINES.values(), ids=LINES)
def test_what_a_line_of_tegrastats_tells(line, values):
    assert sensors.parse_tegrastats(line) == dict(zip(sensors.KEYS, values, strict=True))


@pytest.fixture
def program(tmp_path):
    """Makes a tegrastats that writes its process id to `started` and then does as it is told."""

    def make(script):
        path = tmp_path / "tegrastats"
        path.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/started\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def started(tmp_path):
    path = tmp_path / "started"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def test_tegrastats_tells_what_the_files_do_not(tmp_path, program):
    files = {"sys/devices/gpu.0/load": 500}
    before = psutil.Process().children()
    board = sensors.find(make_tree(tmp_path, files), program(f"echo '{JETPACK_4.strip()}'; exec sleep 60"))
    assert board.read() == {**NOTHING, "gpu_percent": 50.0} and not started(tmp_path), "there was no time for it"
    assert board.read(patient=True) == {"gpu_percent": 50.0, "temperature_c": 33.5, "power_mw": 1234.0}
    (pid,) = started(tmp_path)
    assert not psutil.pid_exists(pid) and psutil.Process().children() == before
    assert board.read(patient=True)["power_mw"] is None, "one line in ten seconds is enough"
    board._next_run = time.monotonic()
    assert board.read(patient=True)["power_mw"] == 1234.0 and len(started(tmp_path)) == 2


def test_tegrastats_is_left_alone_where_it_is_not_needed_or_does_not_know(tmp_path, program):
    told = program("echo 'GR3D_FREQ 7% CPU@50C'")
    nano = sensors.find(make_tree(tmp_path / "nano", BOARDS["Jetson Nano"][0]), told)
    assert nano.read(patient=True)["power_mw"] == 2345 and not started(tmp_path)
    small = sensors.find(make_tree(tmp_path / "small", BOARDS["Jetson Nano 2GB"][0]), told)
    for _ in range(3):
        assert small.read(patient=True) == BOARDS["Jetson Nano 2GB"][1]
    assert len(started(tmp_path)) == 1 and small._next_run == float("inf")


@pytest.mark.parametrize("script", ["exec sleep 60", "printf 'GR3D_FREQ 7'; exec sleep 60", "exit 1", "kill -9 $$"])
def test_a_tegrastats_that_says_nothing_is_ended(tmp_path, program, monkeypatch, script):
    monkeypatch.setattr(sensors, "TEGRASTATS_TIMEOUT", 0.2)
    board = sensors.find(str(tmp_path), program(script))
    before = time.monotonic()
    assert board.read(patient=True) == NOTHING
    assert time.monotonic() - before < 5
    assert not psutil.pid_exists(started(tmp_path)[0])


def test_a_tegrastats_that_cannot_be_run_is_as_none(tmp_path, program):
    path = program("exit")
    board = sensors.find(str(tmp_path), path)
    os.chmod(path, 0o644)
    assert board.read(patient=True) == NOTHING
    assert sensors.find(str(tmp_path), path).tegrastats is None


def test_tegrastats_ends_when_the_task_is_killed_while_it_is_asked(tmp_path, program):
    path = program("sleep 0.5; while true; do echo x; sleep 0.1; done")
    code = "from fedn_partial.device import sensors; sensors.TEGRASTATS_TIMEOUT = 60; sensors._tegrastats_line({!r})"
    with subprocess.Popen([sys.executable, "-c", code.format(path)]) as task:
        assert wait_until(lambda: started(tmp_path))
        task.kill()
    (pid,) = started(tmp_path)
    assert wait_until(lambda: not psutil.pid_exists(pid))


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(("value", "degrees"), [(45_000, 45.0), (45, 45.0), (-5000, -5.0), (None, None)])
def test_a_zone_in_whole_degrees_is_taken_as_such(value, degrees):
    assert sensors._celsius(value) == degrees
