"""What must be right in a FEDn server before a session is created there."""

import tarfile

import pytest

from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model import server_state
from fedn_partial.seed_model.package import build_package

RUNNING = {
    "name": "mine",
    "session_id": "abc",
    "status": "Started",
    "session_config": {"rounds": 10, "round_timeout": 60},
    "committed_at": "Wed, 25 Nov 2026 10:00:00 GMT",
}


class Server:
    """Answers as FEDn's REST interface, from the lists that it is made with."""

    def __init__(self, package=None, **lists):
        self.package = package
        self.lists = {"combiners/": [{"name": "combiner"}], **{f"{name}/": rows for name, rows in lists.items()}}

    def get(self, path, params=None, limit=None, order=None, skip=0):
        rows = self.lists.get(path, [])[skip:]
        return {"count": len(rows), "result": rows[:limit] if limit else rows}

    def active_package(self):
        return None if self.package is None else "package"

    def download_package(self, path):
        path.write_bytes(self.package)
        return "package"


def round_of(session: str, updated: str) -> dict:
    return {"round_id": "7", "round_config": {"session_id": session}, "updated_at": updated}


def telemetry(committed: str) -> list:
    return [{"committed_at": committed}]


def test_no_package_and_one_of_others_are_named(tmp_path):
    with pytest.raises(FednPartialError, match="FEDn has no compute package yet; upload it with 'fedn-partial package"):
        server_state.check_package(Server())
    build_package(tmp_path / "ours.tgz")
    server_state.check_package(Server((tmp_path / "ours.tgz").read_bytes()))
    command = "{command: python3 train.py}"
    (tmp_path / "fedn.yaml").write_text(f"entry_points:\n  train: {command}\n  validate: {command}\n")
    (tmp_path / "train.py").write_text("")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        for name in ("fedn.yaml", "train.py"):
            archive.add(tmp_path / name, arcname=name)
    with pytest.raises(FednPartialError, match="FEDn's active compute package is not of fedn-partial"):
        server_state.check_package(Server((tmp_path / "other.tgz").read_bytes()))


def test_more_than_one_combiner_is_refused_by_name():
    server_state.check_combiners(Server())
    with pytest.raises(FednPartialError, match=r"FEDn has 2 combiners \(a, b\), whose models it would average"):
        server_state.check_combiners(Server(combiners=[{"name": "b"}, {"name": "a"}]))
    with pytest.raises(FednPartialError, match="FEDn has no combiner"):
        server_state.check_combiners(Server(combiners=[]))


def test_clients_that_are_missing_are_counted_and_those_there_are_named():
    server = Server(clients=[{"name": "b"}, {"name": "a"}])
    server_state.check_clients(server, 2)
    with pytest.raises(FednPartialError, match="min_clients is 3, but 2 clients are online: a, b"):
        server_state.check_clients(server, 3)


def test_a_running_session_is_named():
    fresh = [round_of("abc", "Wed, 25 Nov 2026 11:00:00 GMT")] * 3
    now = telemetry("Wed, 25 Nov 2026 11:02:00 GMT")
    with pytest.raises(FednPartialError, match=r"session 'mine' \(abc\) is running, in round 3 of 10"):
        server_state.check_idle(Server(sessions=[RUNNING], rounds=fresh, telemetry=now))
    with pytest.raises(FednPartialError, match="in round 1 of 10"):  # nothing is known of the time
        server_state.check_idle(Server(sessions=[RUNNING]))
    server_state.check_idle(Server(sessions=[{**RUNNING, "status": status} for status in ("Created", "Finished")]))


def test_a_session_in_which_nothing_changes_any_more_is_dead(capsys):
    old = [round_of("other", "Wed, 25 Nov 2026 11:00:00 GMT"), round_of("abc", "Wed, 25 Nov 2026 10:30:00 GMT")]
    now = telemetry("Wed, 25 Nov 2026 11:02:00 GMT")
    server_state.check_idle(Server(sessions=[RUNNING], rounds=old, telemetry=now))
    assert (
        "session 'mine' (abc) says 'Started', but nothing has changed in it since 2026-11-25 10:30"
        in capsys.readouterr().out
    )
