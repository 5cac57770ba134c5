"""Corrections of FEDn's SQL models, so that they work with SQLite.

FEDn 0.33's data do not fit its own SQL models: NULL in columns that forbid it, strings longer than 255 characters, and
integers, booleans and dates as text.
"""

from __future__ import annotations

import json
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator


def _lenient(kind, convert):
    """Return a column type like `kind` that first applies `convert` to its values."""

    class Lenient(TypeDecorator):
        impl = kind
        cache_ok = True

        def process_bind_param(self, value, dialect):
            # FEDn's processes pass settings as text, None included.
            return None if value is None or value == "None" else convert(value)

    return Lenient()


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def _boolean(value) -> bool:
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def _date(value) -> datetime:
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value


# The first match counts: SQLAlchemy's Enum is a String, its Boolean is no Integer.
CONVERSIONS = (
    (sa.Boolean, sa.Boolean, _boolean),
    (sa.Integer, sa.Integer, int),
    (sa.Float, sa.Float, float),
    (sa.DateTime, sa.DateTime, _date),
    (sa.String, sa.Text, _text),
)


def correct() -> None:
    """Patch FEDn's SQL columns to accept FEDn's data."""
    from fedn.network.storage.statestore.stores.round_store import SQLRoundStore
    from fedn.network.storage.statestore.stores.sql.shared import MyAbstractBase

    for table in MyAbstractBase.metadata.tables.values():
        for column in table.columns:
            column.nullable = not column.primary_key
            for kind, stored, convert in CONVERSIONS:
                if isinstance(column.type, kind):
                    column.type = _lenient(stored, convert)
                    break

    # FEDn compares the numbers as text, where "9" is larger than "10".
    SQLRoundStore.get_latest_round_id = lambda store: max((int(r.round_id) for r in store.list()), default=0)

    @sa.event.listens_for(sa.Engine, "connect")
    def _(connection, _record):
        connection.execute("PRAGMA journal_mode=WAL")  # controller and combiner write concurrently
        connection.execute("PRAGMA busy_timeout=30000")


def create_tables() -> None:
    """Create the database's tables."""
    from fedn.common.config import get_statestore_config
    from fedn.network.storage.statestore.stores.sql.shared import MyAbstractBase

    engine = sa.create_engine(f"sqlite:///{get_statestore_config()['sqlite_config']['dbname']}")
    MyAbstractBase.metadata.create_all(engine, checkfirst=True)
    engine.dispose()
