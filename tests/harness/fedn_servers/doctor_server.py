"""A server with the answers of FEDn 0.33's controller, for the checks of 'fedn-partial doctor'."""

import contextlib
import email.utils
import functools
import http.server
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from fedn_partial.client.doctor import server_checks
from fedn_partial.client.fedn_api.api import Connection
from fedn_partial.data.shard import Shard, write_shard
from fedn_partial.seed_model.package import build_package
from fedn_partial.settings.client_file import ClientFile


class Controller(http.server.BaseHTTPRequestHandler):
    """Answers of FEDn 0.33's controller; the attributes of `server` are set in ``serve``."""

    def do_GET(self):
        self.server.seen.append((self.command, self.path))
        role = self.server.roles.get(self.headers.get("Authorization"))
        path = self.path.partition("/api/v1/")[2]
        if path == "packages/download" and self.server.package:
            self.reply_with_package()
        elif self.command == "HEAD":
            self.reply(404, {})
        elif self.server.roles and role not in (self.server.signal[path], "both"):
            self.reply(401, {"message": "Invalid token" if "Authorization" in self.headers else "Missing token"})
        else:
            self.reply(*self.server.answers[path])

    def reply_with_package(self):
        name, content = self.server.package
        self.send_response(200)
        self.send_header("Content-Disposition", f"attachment; filename={name}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_POST = do_PUT = do_GET

    def reply(self, status, answer):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode() if isinstance(answer, dict) else answer)

    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(time.time() + self.server.ahead, usegmt=True)

    def log_message(self, *_):
        pass


@functools.cache
def own_package():
    with tempfile.TemporaryDirectory() as folder:
        build_package(Path(folder) / "p.tgz")
        return (Path(folder) / "p.tgz").read_bytes()


@contextlib.contextmanager
def serve(context=None):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Controller) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
        server.seen, server.ahead, server.roles = [], 0, {}
        server.package = ("p.tgz", own_package())
        server.signal = {"packages/checksum": "client", "combiners/": "admin"}
        server.answers = {
            "packages/checksum": (200, {"checksum": "abc", "message": "Checksum created."}),
            "combiners/": (200, {"count": 1, "result": [combiner("combiner", server.server_port)]}),
        }
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def combiner(name, port, **changes):
    return {"name": name, "address": "127.0.0.1", "port": port, "fqdn": None, "ip": "", **changes}


def check_server(url, raw=None, **options):
    return {
        check.name: check
        for check in server_checks.examine(Connection(api_url=url, **options), ClientFile(**raw or {}))
    }


ROLES = {"Bearer good": "client", "Bearer operator": "admin", "Bearer anything": "both"}


def write_test_shard(folder):
    x, y = np.zeros((6, 8, 8, 1), np.uint8), np.zeros(6, np.int32)
    write_shard(folder, Shard(x, y, x[:2], y[:2], ("zero", "one")), "test")
