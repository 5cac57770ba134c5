"""Setup of a Jetson Nano, as far as it can be tested without a board; docs/JETSON.md lists the other tests."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from paths import ROOT

SETUP = ROOT / "jetson/setup.sh"
WRAPPER = ROOT / "jetson/fedn-partial"
TEXT = SETUP.read_text()


def variable(name):
    """Value of a variable that setup.sh sets in its first lines."""
    return re.search(rf"^{name}=(\S+)", TEXT, re.MULTILINE).group(1)


def unit():
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(ROOT / "jetson/fedn-partial.service")
    return parser


def snapshot(folder):
    """Name, size and time of everything in `folder`."""
    return {(path, path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def dry_run(script=SETUP, path=os.environ["PATH"]):
    return subprocess.run(["sh", script, "--dry-run"], capture_output=True, text=True, env={"PATH": path})


@pytest.fixture
def tools(tmp_path):
    """Return (PATH, fake, calls) of a simulated Nano on which every changing command fails and is recorded."""
    if Path(variable("PROGRAMS")).exists():
        pytest.skip("this machine is set up already")
    folder = tmp_path / "tools"
    folder.mkdir()
    calls = tmp_path / "calls"

    def fake(name, does):
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)

    for name in ("apt-get", "install", "mkdir", "mktemp", "python3", "rm", "systemctl", "useradd"):
        fake(name, f'echo "{name} $*" >> {calls}; exit 97')
    for name, answer in {"uname": "aarch64", "getconf": "glibc 2.27"}.items():
        fake(name, f"echo {answer}")
    fake("id", '[ "$1" = -u ] && echo 0')
    fake("df", "printf 'head\\n/dev/sda 9 9 9999 9%% /\\n'")
    return f"{folder}:{os.environ['PATH']}", fake, calls


def test_a_dry_run_prints_the_plan_and_changes_nothing():
    places = [Path(variable(name)) for name in ("PROGRAMS", "STATE", "COMMAND", "UNIT")]
    before = [place.exists() for place in places], snapshot(ROOT / "jetson")
    done = dry_run()
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^\d\. .*", done.stdout, re.MULTILINE) == [
        "1. this machine",
        "2. memory",
        "3. uv, which installs Python",
        "4. Python 3.11 and fedn-partial, in /opt/fedn-partial/venv",
        "5. the service",
    ]
    assert ([place.exists() for place in places], snapshot(ROOT / "jetson")) == before


def test_a_dry_run_calls_nothing_that_changes_a_nano(tools, tmp_path):
    path, _, calls = tools
    done = dry_run(path=path)
    assert done.returncode == 0 and "would stop" not in done.stdout
    planned = re.findall(r"would run: (\S+)", done.stdout)
    assert planned.index("apt-get") < planned.index("/opt/fedn-partial/bootstrap/bin/uv") < planned.index("useradd")
    assert f"take these {len(planned)} steps" in done.stdout
    assert {line.split()[0] for line in calls.read_text().splitlines()} == {"python3"}  # asked whether it has venv


@pytest.mark.parametrize(
    ("tool", "does", "told"),
    [
        ("uname", "echo x86_64", ["x86_64, not aarch64", "pip install ."]),
        ("getconf", "echo glibc 2.23", ["glibc is 2.23", "JetPack 4.6"]),
        ("id", "echo 1000", ["may not install", "sudo sh"]),
        ("date", "echo 1970", ["clock", "timedatectl set-ntp true"]),
        ("df", "printf 'head\\n/dev/sda 9 9 1234 9%% /\\n'", ["1234 MB free, and 4000", "apt-get clean"]),
    ],
)
def test_a_machine_that_will_not_do_is_refused_before_anything_is_changed(tools, tool, does, told):
    path, fake, calls = tools
    fake(tool, does)
    done = subprocess.run(["sh", SETUP], capture_output=True, text=True, env={"PATH": path})
    assert done.returncode == 1 and not calls.exists()
    assert "remedy: " in done.stderr and all(words in done.stderr for words in told)
    assert told[0] in dry_run(path=path).stdout  # which goes on


def test_a_step_that_fails_ends_the_set_up_with_the_way_out(tools):
    path, _, calls = tools
    done = subprocess.run(["sh", SETUP], capture_output=True, text=True, env={"PATH": path})
    assert done.returncode == 1
    assert "this failed: apt-get install -y python3-venv\nremedy: sudo apt-get update" in done.stderr
    assert calls.read_text().splitlines()[-1] == "apt-get install -y python3-venv"


def test_too_little_memory_and_swap_is_said_with_what_to_do(tools):
    path, fake, _ = tools
    assert "nvzramconfig" not in dry_run(path=path).stdout or int(os.sysconf("SC_PHYS_PAGES")) < 700_000
    fake("awk", "echo 1000")
    said = dry_run(path=path).stdout
    assert "memory and swap are 2000 MB" in said and "sudo systemctl enable --now nvzramconfig" in said


def test_unit_and_script_and_command_agree():
    service = unit()["Service"]
    program = f"{variable('PROGRAMS')}/venv/bin/fedn-partial"
    assert service["ExecStart"] == f"{program} client start --config {variable('STATE')}/client.yaml"
    assert service["WorkingDirectory"] == service["ReadWritePaths"] == variable("STATE")
    assert service["User"] == service["Group"] == variable("ACCOUNT") != "root"
    assert f'exec {program} "$@"' in WRAPPER.read_text()
    for place in (service["Environment"], WRAPPER.read_text(), (ROOT / "jetson/Dockerfile").read_text()):
        assert "OPENBLAS_CORETYPE=ARMV8" in place
    assert service["Restart"] == "always" and unit()["Unit"]["StartLimitIntervalSec"] == "0"


def test_what_is_fetched_first_is_pinned_by_its_content():
    for name in ("pip", "uv"):
        lines = (ROOT / f"jetson/bootstrap-{name}.txt").read_text().splitlines()
        (line,) = [line for line in lines if not line.startswith("#")]
        assert re.fullmatch(rf"{name}==[\d.]+(; python_version < \"3.7\")? --hash=sha256:[0-9a-f]{{64}}", line)


@pytest.mark.parametrize("script", ["setup.sh", "fedn-partial", "qemu_proof.sh"])
def test_scripts_pass_shellcheck(script):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", ROOT / "jetson" / script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_systemd_takes_the_unit(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / "fedn-partial.service"  # with a program that is on this machine
    text = (ROOT / "jetson/fedn-partial.service").read_text()
    copy.write_text(text.replace(f"ExecStart={variable('PROGRAMS')}/venv/bin/fedn-partial", "ExecStart=/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
