"""The store's schema: revisions and tables agree, opening is cheap, exclusive, all or nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from tests import servers

from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.migrate import HEAD, revision_of, upgrade
from tidemill.adapters.store.tables import metadata
from tidemill.errors import PermanentError, Unavailable


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    server: str = request.getfixturevalue("postgres_url")
    with servers.database(server) as url:
        yield url


def difference(engine: Engine) -> list[object]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))


def test_the_revisions_make_what_the_tables_say(url: str) -> None:
    """A table was changed without a revision?

    Write it: `python -m tidemill.adapters.store.migrate "what changes"`.
    """
    engine = create_engine(url)
    with engine.begin() as connection:
        upgrade(connection)
    assert difference(engine) == []
    with engine.connect() as connection:
        assert revision_of(connection) == HEAD
    engine.dispose()
    opened = open_store(url)
    assert difference(opened) == []
    opened.dispose()


def test_a_new_store_is_made_at_once_and_keeps_its_rows(url: str) -> None:
    engine = open_store(url)
    assert difference(engine) == []
    with engine.begin() as connection:
        assert revision_of(connection) == HEAD
        connection.execute(text("INSERT INTO rollout_spec VALUES ('a', 1, '{}')"))
    engine.dispose()
    again = open_store(url)
    with again.connect() as connection:
        assert connection.execute(text("SELECT name FROM rollout_spec")).scalar() == "a"
    again.dispose()


def test_a_store_of_a_newer_tidemill_is_refused(url: str) -> None:
    engine = open_store(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(PermanentError, match=f"has revision 9999, this tidemill knows {HEAD}"):
        open_store(url)


def test_processes_that_open_a_new_store_at_once_make_it_once(url: str) -> None:
    code = (
        "import sys; from tidemill.adapters.store.engine import open_store; open_store(sys.argv[1])"
    )
    openers = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(4)]
    assert [opener.wait(60) for opener in openers] == [0, 0, 0, 0]
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
    engine.dispose()


DYING = """
import os, signal, sys
from tidemill.adapters.store import engine, migrate
made = migrate.bring_up_to_date
def dying(connection):
    made(connection)
    os.kill(os.getpid(), signal.SIGKILL)
engine.bring_up_to_date = dying
engine.open_store(sys.argv[1])
"""


def test_kill_9_while_the_schema_is_made_leaves_none_of_it(url: str) -> None:
    died = subprocess.run([sys.executable, "-c", DYING, url], check=False)
    assert died.returncode == -signal.SIGKILL
    engine = create_engine(url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    open_store(url).dispose()


def test_opening_loads_no_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from tidemill.adapters.store.engine import open_store;"
        "open_store(sys.argv[1]); open_store(sys.argv[1]); print('alembic' in sys.modules)"
    )
    argv = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'store.db'}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("this is no database, and long enough to be read as one" * 9)
    with pytest.raises(Unavailable, match="file is not a database"):
        open_store(f"sqlite:///{tmp_path / 'store.db'}")
