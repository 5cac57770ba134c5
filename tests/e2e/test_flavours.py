"""A flavour for real: clients in containers on FEDn. Wants Docker, and an image as client/Dockerfile makes it."""

import json
import os
import time

import docker
import pytest
from click.testing import CliRunner
from docker.errors import DockerException

from fedn_partial.client.commands.cli import main
from fedn_partial.client.profiling import containers
from fedn_partial.client.profiling.flavours import Flavour
from fedn_partial.client.profiling.profile import Setup, prepare_client, random_shard, run_profile
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import load_case

IMAGE = os.environ.get("FEDN_PARTIAL_IMAGE", "fedn-partial")
SMALL = Flavour("small", cpus=1, memory_mib=512)
CASE = """
name: profiled
model: {name: %s}
selection: {selector: random, layers: 1}
"""


@pytest.fixture(scope="module")
def engine():
    try:
        found = docker.from_env()
        found.images.get(IMAGE)
    except DockerException as error:
        pytest.skip(f"no Docker with an image {IMAGE!r} here: {error}")
    return found


@pytest.fixture
def client(engine, tmp_path):
    """A client in a container, without a FEDn server."""
    (tmp_path / "case.yaml").write_text(CASE % "lstm_har")
    prepare_client(tmp_path / "home", random_shard(load_case(tmp_path / "case.yaml"), 4), "http://127.0.0.1:9")
    started = containers.ClientContainer(engine, IMAGE, SMALL, tmp_path / "home")
    started.start()
    yield started
    started.stop()


def test_a_client_is_confined(client):
    inside = client._container.exec_run
    assert inside("id -u").output.strip() != b"0"
    assert inside("touch /x").exit_code and inside("touch /device/data/x").exit_code
    assert inside("touch /device/x").exit_code == 0
    count = "import os; print(len(os.sched_getaffinity(0)))"
    assert inside(["python3", "-c", count]).output.strip() == b"1"
    told = "from fedn_partial.device import cgroup; print(cgroup.machine_memory(), cgroup.find().cpu_limit())"
    assert inside(["python3", "-c", told]).output.split() == [str(512 * 2**20).encode(), b"1.0"]


def test_a_client_is_seen_to_end_and_leaves_its_log(client):
    deadline = time.monotonic() + 30
    while "no FEDn controller" not in client.log() and "no answer" not in client.log():
        assert time.monotonic() < deadline, client.log()
        time.sleep(0.2)
    client.check()
    client._container.kill()
    client._container.wait()
    with pytest.raises(FednPartialError, match=r"the client has ended; its last log line: .*\w+"):
        client.check()
    client.stop()
    assert "trying again" in (client.home / "client.log").read_text()
    with pytest.raises(FednPartialError, match="the client has ended"):
        client.check()


def test_kills_for_memory_are_counted(client):
    assert client.memory_kills() == 0
    assert client._container.exec_run(["python3", "-c", "x = bytearray(2**30)"]).exit_code == 137
    assert client.memory_kills() == 1


def test_containers_of_a_killed_profile_are_removed(engine):
    of_nobody = engine.containers.create(IMAGE, labels={containers.LABEL: "1 1.0"})
    own = engine.containers.create(IMAGE, labels={containers.LABEL: containers.owner()})
    containers.connect(IMAGE)
    left = [container.id for container in engine.containers.list(all=True)]
    own.remove()
    assert own.id in left and of_nobody.id not in left


def test_an_image_of_another_version_is_refused(engine, monkeypatch):
    monkeypatch.setattr(containers.source, "digest", lambda: "other")
    with pytest.raises(FednPartialError, match="contains another version of fedn-partial; rebuild it: docker build"):
        containers.connect(IMAGE)
    with pytest.raises(
        FednPartialError, match="has no image 'nobody/nothing'; build it in the project's folder: docker build"
    ):
        containers.connect("nobody/nothing")


def test_the_paper_s_smallest_machine_trains_all_layers(engine, tmp_path):
    """Table 4: on ssc.xsmall (1 VCPU, 1 GB) the paper's client trained 4 layers of VGG16, and died of 7."""
    (tmp_path / "case.yaml").write_text(CASE % "vgg16")
    arguments = [
        "--flavours",
        "ssc.xsmall",
        "--layers",
        "4,14",
        "--rounds",
        "1",
        "--examples",
        "64",
        "--json",
        "--image",
    ]
    command = ["profile", str(tmp_path / "case.yaml"), *arguments, IMAGE, "--runs", str(tmp_path / "runs")]
    answer = CliRunner(mix_stderr=False).invoke(main, command)
    assert answer.exit_code == 0, answer.stderr
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [event["event"] for event in events] == ["round", "cell", "round", "cell", "end"]
    (folder,) = (tmp_path / "runs").iterdir()
    told = json.loads((folder / "profile.json").read_text())
    assert (told["kind"], told["examples"], told["refused"]) == ("profile", 64, {})
    assert told["cells"] == [
        {key: value for key, value in event.items() if key != "event"} for event in events if event["event"] == "cell"
    ]
    for cell, layers in zip(told["cells"], (4, 14), strict=True):
        assert (cell["layers"], cell["killed"], cell["limited"]) == (layers, None, None)
        rows = [json.loads(line) for line in (folder / cell["run"] / "rounds.jsonl").read_text().splitlines()]
        assert [len(row["layers"]) for row in rows] == [layers] and rows[0]["num_examples"] == 64
        assert cell["seconds"] == rows[0]["train_seconds"] > 0
        assert 200 < cell["ram_mb"] < 1024 * 1.048576 and 0 < cell["ram_percent"] < 100
        assert cell["ram_mb"] / cell["ram_percent"] == pytest.approx(10.737, rel=0.01)  # a hundredth of 1 GiB
        assert 10 < cell["cpu_percent"] < 120
    assert told["cells"][0]["ram_mb"] < told["cells"][1]["ram_mb"]


def test_a_client_that_is_killed_ends_its_cell_and_no_other(engine, tmp_path):
    """FEDn goes on waiting for a lost client for as long as a round may take: here an hour."""
    (tmp_path / "case.yaml").write_text(CASE % "lstm_har" + "session: {rounds: 1, round_timeout: 3600}\n")
    case = load_case(tmp_path / "case.yaml")
    flavours = [Flavour("tiny", cpus=1, memory_mib=64), SMALL]
    shard = random_shard(case, 32)
    path = run_profile(case, Setup(engine, IMAGE, flavours, {}, [2], shard), tmp_path, lambda event: None)
    told = json.loads((path / "profile.json").read_text())
    assert told["asked"] == [["tiny", 2], ["small", 2]]
    killed, good = told["cells"]
    assert killed["killed"].startswith("killed in round 1 of 1: ") and killed["seconds"] is None
    assert good["killed"] is None and good["limited"] is None and good["seconds"] > 0
    assert not engine.containers.list(filters={"label": containers.LABEL})
