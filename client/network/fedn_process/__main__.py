"""Start one of FEDn's server processes on a given address, with the corrections of this package."""

from __future__ import annotations

import argparse
import sys

import grpc

from fedn_partial.client.network.fedn_process import combiner, controller, hooks, sql_models


def listen_on(host: str, port: int) -> None:
    """Make FEDn's gRPC server or web server listen on `host` and `port`."""
    grpc_server = grpc.server

    def server(*args, options=(), **kwargs):
        # Without this option two networks could share a port.
        instance = grpc_server(*args, options=[*options, ("grpc.so_reuseport", 0)], **kwargs)
        add_port = instance.add_insecure_port
        instance.add_insecure_port = lambda _address: add_port(f"{host}:{port}")
        return instance

    grpc.server = server

    from fedn.network.api import gunicorn_app

    def run_gunicorn(app, _host, _port, _workers):
        # One worker: FEDn keeps the state of a session in the worker that started it, so that a second worker would
        # start a second session in parallel.
        options = {
            "bind": f"{host}:{port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": 8,
            "graceful_timeout": 2,
            "post_fork": gunicorn_app.post_fork,
        }
        gunicorn_app.GunicornApp(app, options).run()

    gunicorn_app.run_gunicorn = run_gunicorn


def main() -> None:
    """Run ``python -m fedn_partial.client.network.fedn_process ROLE --host HOST --port PORT [FEDn's options]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("controller", "combiner", "hooks"))
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options, fedn_options = parser.parse_known_args()
    if options.role != "hooks":
        sql_models.correct()
    if options.role == "controller":
        sql_models.create_tables()
    {"controller": controller, "combiner": combiner, "hooks": hooks}[options.role].correct()
    listen_on(options.host, options.port)

    from fedn.cli import main as fedn_main

    sys.argv = ["fedn", options.role, "start", *fedn_options]
    fedn_main()


if __name__ == "__main__":
    main()
