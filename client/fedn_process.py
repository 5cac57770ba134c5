"""Starts one of FEDn's own server processes (controller, combiner or hooks) so that it runs on SQLite.

FEDn 0.33 ships SQL models that its own data do not fit: columns that may not be NULL receive NULL, strings are
cut at 255 characters, whole numbers and booleans arrive as text, and dates too. So before FEDn's main runs, the
columns are told to take what they are given. FEDn also listens on every network interface, and its hooks process
runs any code that it is sent; here each process listens where it is told.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime

import grpc
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator


def _lenient(kind, convert):
    """Return a column type like `kind` that first converts what it is given."""

    class Lenient(TypeDecorator):
        impl = kind
        cache_ok = True

        def process_bind_param(self, value, dialect):
            # FEDn's processes hand settings on as text, None too.
            return None if value is None or value == "None" else convert(value)

    return Lenient()


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def _boolean(value) -> bool:
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def _date(value) -> datetime:
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value


# In this order: SQLAlchemy's Enum is a String, its Boolean no Integer.
CONVERSIONS = (
    (sa.Boolean, sa.Boolean, _boolean),
    (sa.Integer, sa.Integer, int),
    (sa.Float, sa.Float, float),
    (sa.DateTime, sa.DateTime, _date),
    (sa.String, sa.Text, _text),
)


def mend_sql_models() -> None:
    """Make FEDn's SQL columns take what FEDn puts into them."""
    from fedn.network.storage.statestore.stores.round_store import SQLRoundStore
    from fedn.network.storage.statestore.stores.sql.shared import MyAbstractBase

    for table in MyAbstractBase.metadata.tables.values():
        for column in table.columns:
            column.nullable = not column.primary_key
            for kind, stored, convert in CONVERSIONS:
                if isinstance(column.type, kind):
                    column.type = _lenient(stored, convert)
                    break

    # FEDn asks for the highest number as text, to which "9" is more than "10".
    SQLRoundStore.get_latest_round_id = lambda store: max((int(r.round_id) for r in store.list()), default=0)

    @sa.event.listens_for(sa.Engine, "connect")
    def _(connection, _record):
        connection.execute("PRAGMA journal_mode=WAL")  # the controller's workers and the combiner write at once
        connection.execute("PRAGMA busy_timeout=30000")


def create_tables() -> None:
    """Create the database's tables once, before the controller's workers would all do it at the same time."""
    from fedn.common.config import get_statestore_config
    from fedn.network.storage.statestore.stores.sql.shared import MyAbstractBase

    engine = sa.create_engine(f"sqlite:///{get_statestore_config()['sqlite_config']['dbname']}")
    MyAbstractBase.metadata.create_all(engine, checkfirst=True)
    engine.dispose()


def listen_on(host: str, port: int) -> None:
    """Make FEDn's gRPC server or web server listen on `host` and `port`."""
    grpc_server = grpc.server

    def server(*args, options=(), **kwargs):
        # A second process on the same port would otherwise share it, and mix two networks.
        made = grpc_server(*args, options=[*options, ("grpc.so_reuseport", 0)], **kwargs)
        add_port = made.add_insecure_port
        made.add_insecure_port = lambda _address: add_port(f"{host}:{port}")
        return made

    grpc.server = server

    from fedn.network.api import gunicorn_app

    def run_gunicorn(app, _host, _port, _workers):
        # Each worker holds the whole of FEDn in memory, and a session runs in one of them.
        options = {"bind": f"{host}:{port}", "workers": 2, "graceful_timeout": 2, "post_fork": gunicorn_app.post_fork}
        gunicorn_app.GunicornApp(app, options).run()

    gunicorn_app.run_gunicorn = run_gunicorn


def main() -> None:
    """Run ``python -m fedn_partial.client.fedn_process ROLE --host HOST --port PORT [FEDn's options]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("controller", "combiner", "hooks"))
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options, fedn_options = parser.parse_known_args()
    if options.role != "hooks":
        mend_sql_models()
    if options.role == "controller":
        create_tables()
    listen_on(options.host, options.port)

    from fedn.cli import main as fedn_main

    sys.argv = ["fedn", options.role, "start", *fedn_options]
    fedn_main()


if __name__ == "__main__":
    main()
