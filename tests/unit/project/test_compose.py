"""Checks of client/compose without its images."""

import shutil
import subprocess

import pytest
import yaml
from fedn.common import config
from paths import ROOT

HERE = ROOT / "client/compose"


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((HERE / "compose.yaml").read_text())["services"]


def test_compose_takes_the_file():
    tried = []
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            checked = subprocess.run(
                [*command, "-f", HERE / "compose.yaml", "config", "--quiet"], capture_output=True, text=True
            )
            assert checked.returncode == 0, checked.stderr
            tried.append(command)
    if not tried:
        pytest.skip("no docker compose here")


def test_fedn_reads_the_settings_and_they_agree_with_the_services(services):
    """Hosts, ports and passwords agree with the services."""
    settings = str(HERE / "fedn.yaml")
    store, storage = config.get_statestore_config(settings), config.get_modelstorage_config(settings)["storage_config"]
    mongo = store["mongo_config"]
    assert store["type"] == "MongoDB" and f"--port {mongo['port']}" in services[mongo["host"]]["command"]
    assert services[mongo["host"]]["environment"] == {
        "MONGO_INITDB_ROOT_USERNAME": mongo["username"],
        "MONGO_INITDB_ROOT_PASSWORD": mongo["password"],
    }
    assert storage["storage_endpoint"] == "http://minio:9000"
    assert services["minio"]["environment"] == {
        "MINIO_ROOT_USER": storage["storage_access_key"],
        "MINIO_ROOT_PASSWORD": storage["storage_secret_key"],
    }
    combiner = yaml.safe_load((HERE / "combiner.yaml").read_text())
    assert (combiner["host"], combiner["discover_host"]) == ("combiner", "controller")
    assert services["combiner"]["ports"] == [f"{combiner['port']}:{combiner['port']}"]
    assert services["controller"]["ports"] == [f"{combiner['discover_port']}:{combiner['discover_port']}"]
    assert combiner["network_id"] == config.get_network_config(settings)
    host, port = services["combiner"]["environment"]["HOOK_SERVICE_HOST"].split(":")
    assert host in services and port == "12081"


def test_nothing_but_fedn_is_open_to_the_outside(services):
    assert {name for name, service in services.items() if service.get("ports")} == {"controller", "combiner"}


def test_what_is_mounted_from_here_exists(services):
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (HERE / source).exists(), source


def test_clients_are_confined(services):
    clients = [service for name, service in services.items() if name.startswith("client-")]
    assert len(clients) == 3
    for client in clients:
        assert client["read_only"] and client["user"] == "1000:1000"
        assert set(client["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
        assert next(volume for volume in client["volumes"] if "/data:" in volume).endswith("/device/data:ro")
    assert len({client["volumes"][0] for client in clients}) == 3
