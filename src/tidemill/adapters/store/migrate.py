"""The schema's revisions: which one this code wants, and how a store gets there.

`python -m tidemill.adapters.store.migrate "what changes"` writes the next revision from the
difference between the revisions so far and `tables`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, create_engine, inspect, select, table
from sqlalchemy import column as column_of

from tidemill.adapters.store.tables import metadata

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["HEAD", "bring_up_to_date", "revision_of", "upgrade"]

FOLDER = Path(__file__).parent / "migrations"
HEAD = max((path.stem[:4] for path in (FOLDER / "versions").glob("[0-9]*.py")), default="0000")
"""The newest revision."""

VERSION = table("alembic_version", column_of("version_num"))


def revision_of(connection: Connection) -> str:
    """Return the revision of a store's schema; empty when it has none."""
    if not inspect(connection).has_table(VERSION.name):
        return ""
    return connection.execute(select(VERSION.c.version_num)).scalar() or ""


def bring_up_to_date(connection: Connection) -> None:
    """Create or upgrade the schema, inside the caller's transaction.

    A new store gets its tables at once, which a test keeps equal to what the revisions make; so
    Alembic, half a second of import, is loaded for an upgrade alone.
    """
    found = revision_of(connection)
    if not found:
        metadata.create_all(connection)
        connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"
        )
        connection.execute(VERSION.insert().values(version_num=HEAD))
    elif found < HEAD:
        upgrade(connection)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the revisions that the store lacks."""
    from alembic import command

    command.upgrade(_config(connection), revision)


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    return config


def main(message: str) -> None:
    """Write the next revision."""
    from alembic import command

    with create_engine("sqlite://").begin() as connection:
        upgrade(connection)
        config = _config(connection)
        command.revision(config, message, autogenerate=True, rev_id=f"{int(HEAD) + 1:04}")


if __name__ == "__main__":
    main(sys.argv[1])
