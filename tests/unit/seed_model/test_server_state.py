"""What must be right in a FEDn server before a session is created there."""

import dataclasses
import tarfile
from concurrent.futures import ThreadPoolExecutor

import fedn.network.grpc.fedn_pb2 as messages
import fedn.network.grpc.fedn_pb2_grpc as rpc
import grpc
import pytest
import requests

from fedn_partial.client.fedn_api.api import ApiError, Connection, TokenError
from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError
from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model import server_state
from fedn_partial.seed_model.package import build_package
from fedn_partial.settings.case import Case

CASE = Case(name="x", model={"name": "lstm_har"}, selection={"selector": "all"})
RUNNING = {
    "name": "mine",
    "session_id": "abc",
    "status": "Started",
    "session_config": {"rounds": 10, "round_timeout": 60},
    "committed_at": "Wed, 25 Nov 2026 10:00:00 GMT",
}


class Server:
    """Answers as FEDn's REST interface, from the lists that it is made with."""

    def __init__(self, package=None, package_name="fedn-partial", token_of="nobody", **lists):
        self.connection = Connection("http://fedn:8092")
        self.package, self.package_name, self.token_of = package, package_name, token_of
        only = {"name": "combiner", "combiner_id": "1"}
        self.lists = {"combiners/": [only], **{f"{name}/": rows for name, rows in lists.items()}}
        self.pages = 0

    def get(self, path, params=None, limit=None, order=None, skip=0):
        if path == "packages/active":
            return {"name": self.package_name}
        if path == "telemetry/" and path not in self.lists:
            raise ApiError("GET telemetry/ failed with 404")
        self.pages += path == "rounds/"
        rows = self.lists.get(path, [])[skip:]
        return {"count": len(rows), "result": rows[:limit] if limit else rows}

    def response(self, path):
        assert path == "packages/active"
        response = requests.Response()
        response.status_code = 404 if self.package is None else 200
        return response

    def download_package(self, path):
        if self.token_of == "operator":
            raise TokenError("http://fedn:8092 does not accept the token")
        path.write_bytes(self.package)
        return "package"


def at(time: str) -> str:
    return f"Wed, 25 Nov 2026 {time}:00 GMT"


def round_of(session: str, changed: str) -> dict:
    config = {"session_id": session}
    return {"round_id": "7", "round_config": config, "committed_at": at(changed), "updated_at": at(changed)}


def telemetry(committed: str) -> list:
    return [{"committed_at": at(committed)}]


def test_no_package_and_one_of_others_are_named(tmp_path):
    with pytest.raises(FednPartialError, match="FEDn has no compute package yet; upload one with 'fedn-partial"):
        server_state.check_package(Server(), CASE)
    build_package(tmp_path / "ours.tgz")
    server_state.check_package(Server((tmp_path / "ours.tgz").read_bytes(), "uploaded with FEDn's own client"), CASE)
    command = "{command: python3 train.py}"
    (tmp_path / "fedn.yaml").write_text(f"entry_points:\n  train: {command}\n  validate: {command}\n")
    (tmp_path / "train.py").write_text("")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        for name in ("fedn.yaml", "train.py"):
            archive.add(tmp_path / name, arcname=name)
    with pytest.raises(FednPartialError, match="FEDn's active compute package 'other' is not of fedn-partial"):
        server_state.check_package(Server((tmp_path / "other.tgz").read_bytes(), "other"), CASE)


def test_a_package_must_have_the_cases_custom_modules(tmp_path):
    def check(*, shipped: str, used: str):
        for folder, text in (("shipped", shipped), ("used", used)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "my_selectors.py").write_text(text)
        build_package(tmp_path / "ours.tgz", modules.read_folder(tmp_path / "shipped") if shipped else None)
        modules.use(tmp_path / "used")
        case = dataclasses.replace(CASE, selection={"selector": "my_selectors:Mine"})
        try:
            server_state.check_package(Server((tmp_path / "ours.tgz").read_bytes()), case)
        finally:
            modules.use(None)

    check(shipped="x = 1\n", used="x = 1\n")
    with pytest.raises(FednPartialError) as error:
        check(shipped="x = 1\n", used="x = 2\n")
    source = tmp_path / "used" / "my_selectors.py"
    assert str(error.value) == (
        f"FEDn's active compute package has a my_selectors.py that differs from {source}; rebuild and upload it: "
        f"fedn-partial package build --with {tmp_path / 'used'}; fedn-partial package upload"
    )
    with pytest.raises(
        FednPartialError, match=r"FEDn's active compute package has no my_selectors\.py; rebuild and upload"
    ):
        check(shipped="", used="x = 1\n")


def test_a_package_must_have_the_modules_that_the_cases_modules_import(tmp_path):
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "my_selectors.py").write_text("import my_helpers\n")
    (tmp_path / "shipped" / "my_helpers.py").write_text("def help():\n    from my_constants import SHARE\n")
    (tmp_path / "shipped" / "my_constants.py").write_text("SHARE = 1\n")
    build_package(tmp_path / "ours.tgz", modules.read_folder(tmp_path / "shipped"))
    case = dataclasses.replace(CASE, selection={"selector": "my_selectors:Mine"})
    server = Server((tmp_path / "ours.tgz").read_bytes())
    modules.use(tmp_path / "shipped")
    try:
        (tmp_path / "shipped" / "my_reader.py").write_text("")  # not imported by the case's modules
        server_state.check_package(server, case)
        (tmp_path / "shipped" / "my_constants.py").write_text("SHARE = 2\n")
        with pytest.raises(
            FednPartialError, match=r"has a my_constants\.py that differs from .*my_constants\.py; rebuild"
        ):
            server_state.check_package(server, case)
        (tmp_path / "shipped" / "my_helpers.py").write_text("def help(:\n")
        with pytest.raises(UserCodeError, match=r"my_helpers\.py, line 1: SyntaxError"):
            server_state.check_package(server, case)
    finally:
        modules.use(None)


def test_a_package_of_another_version_is_refused(tmp_path):
    build_package(tmp_path / "ours.tgz")
    (tmp_path / "other").mkdir()
    with tarfile.open(tmp_path / "ours.tgz") as archive:
        archive.extractall(tmp_path / "other")
    changed = tmp_path / "other" / "fedn_partial" / "settings" / "case.py"
    changed.write_text(changed.read_text() + "\n")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        archive.add(tmp_path / "other", arcname=".")
    with pytest.raises(FednPartialError) as error:
        server_state.check_package(Server((tmp_path / "other.tgz").read_bytes()), CASE)
    assert str(error.value) == (
        "FEDn's active compute package is of another version of fedn-partial (settings/case.py differs); rebuild and "
        "upload it: fedn-partial package build; fedn-partial package upload"
    )


def test_an_operators_token_which_fedn_gives_no_package_to_is_enough():
    """FEDn 0.33 hands the file out to role client only, and all that the operator needs to role admin only."""
    server_state.check_package(Server(b"", token_of="operator"), CASE)
    with pytest.raises(FednPartialError, match="FEDn's active compute package 'other' is not of fedn-partial"):
        server_state.check_package(Server(b"", "other", token_of="operator"), CASE)


def test_more_than_one_combiner_is_refused_by_name():
    server_state.check_combiners(Server())
    both = [{"name": "b", "combiner_id": "2"}, {"name": "a", "combiner_id": "1"}]
    with pytest.raises(FednPartialError) as error:
        server_state.check_combiners(Server(combiners=both))
    assert str(error.value).startswith("FEDn has 2 combiners (a, id 1; b, id 2) and would average their models")
    assert "including ended ones, with DELETE http://fedn:8092/api/v1/combiners/ID" in str(error.value)
    with pytest.raises(FednPartialError, match="FEDn has no combiner"):
        server_state.check_combiners(Server(combiners=[]))


def test_clients_that_are_missing_are_counted_and_those_there_are_named():
    server = Server(clients=[{"name": "b"}, {"name": "a"}])
    server_state.check_clients(server, 2)
    with pytest.raises(FednPartialError, match=r"min_clients is 3, but 2 clients are online: a, b\. Start others"):
        server_state.check_clients(server, 3)
    with pytest.raises(FednPartialError, match=r"min_clients is 1, but 0 clients are online\. Start others"):
        server_state.check_clients(Server(), 1)
    many = Server(clients=[{"name": f"c{number:03}"} for number in range(300)])
    with pytest.raises(FednPartialError, match=r"c018, c019, and 280 more\. Start"):
        server_state.check_clients(many, 301)


def test_a_running_session_is_named():
    fresh = [round_of("abc", "11:00")] * 3
    now = telemetry("11:02")
    with pytest.raises(FednPartialError) as error:
        server_state.check_idle(Server(sessions=[RUNNING], rounds=fresh, telemetry=now))
    assert str(error.value) == (
        "session 'mine' (abc) is running, in round 3 of 10. Wait for its end, or end it with "
        'PATCH http://fedn:8092/api/v1/sessions/abc and {"status": "Terminated"}'
    )
    with pytest.raises(FednPartialError, match="in round 0 of 10"):  # nothing is known of the time
        server_state.check_idle(Server(sessions=[RUNNING]))
    server_state.check_idle(Server(sessions=[{**RUNNING, "status": status} for status in ("Created", "Finished")]))


COMBINERS = [{"name": "combiner", "combiner_id": "1"}, {"name": "other", "combiner_id": "2"}]


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ({"combiners": COMBINERS}, "FEDn has 2 combiners"),
        ({"clients": []}, "but 0 clients are online"),
        ({"sessions": [RUNNING]}, r"session 'mine' \(abc\) is running"),
    ],
    ids=["combiners", "clients", "session"],
)
def test_a_session_starts_only_where_every_check_passes(lists, reason):
    ready = {"clients": [{"name": "a"}]}
    with pytest.raises(FednPartialError, match=reason):
        server_state.check_server(Server(token_of="operator", package=b"", **{**ready, **lists}), CASE, [])


def test_a_session_in_which_nothing_changes_any_more_is_dead(capsys):
    rounds = [round_of("other", "11:00"), round_of("abc", "10:30"), *[round_of("before", "09:00")] * 50]
    server = Server(sessions=[RUNNING], rounds=rounds, telemetry=telemetry("11:02"))
    server_state.check_idle(server)
    said = "session 'mine' (abc) is 'Started', but has not changed for 32 min, in round 1 of 10: ignored as dead"
    assert said in capsys.readouterr().out
    assert server.pages == 1  # rounds from before the session are not asked for
    beside = {**RUNNING, "name": "yours", "session_id": "def"}  # one that is alive, behind the dead one
    server.lists["sessions/"].append(beside)
    rounds.insert(0, round_of("def", "11:01"))
    with pytest.raises(FednPartialError, match=r"session 'yours' .* is running, in round 1 of 10"):
        server_state.check_idle(server)


class Combiner(rpc.ControlServicer):
    def __init__(self):
        self.functions = []

    def SetServerFunctions(self, control, context):
        self.functions += [parameter.value for parameter in control.parameter]
        return messages.ControlResponse(message="Success")


@pytest.fixture
def combiner():
    """FEDn's gRPC service, with what it was given; and where it is."""
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = Combiner()
    rpc.add_ControlServicer_to_server(servicer, server)
    servicer.place = {"name": "combiner", "address": "127.0.0.1", "port": server.add_insecure_port("127.0.0.1:0")}
    server.start()
    yield servicer
    server.stop(None)


def test_fedns_own_server_functions_are_given_back(combiner):
    gone = {"name": "gone", "address": "127.0.0.1", "port": 1}
    said = []
    server_state.release(Server(combiners=[gone, combiner.place]), said.append)
    (text,) = combiner.functions
    namespace = {}
    exec(f"from fedn.network.combiner.hooks.serverfunctionsbase import *\n{text}", namespace)
    assert namespace["ServerFunctions"].aggregate and "fedn_partial" not in text
    assert said == [
        "combiner 'gone' keeps this session's server functions until the next session (127.0.0.1:1: UNAVAILABLE)"
    ]


def test_functions_of_a_session_that_has_begun_meanwhile_stay(combiner):
    server_state.release(Server(combiners=[combiner.place], sessions=[RUNNING]))
    assert not combiner.functions
