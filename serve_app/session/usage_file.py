"""Used minutes in an SQLite file, so that they outlive the registry. Calls block: run them in a thread."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from serve_app.session.usage import UsageState

logger = logging.getLogger("serve_app.registry")

TABLES = """
CREATE TABLE IF NOT EXISTS used (
    key_id TEXT NOT NULL, month TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (key_id, month)
);
CREATE TABLE IF NOT EXISTS running (session_id TEXT PRIMARY KEY, charged_until REAL NOT NULL);
"""


class UsageFile:
    """One file; every save is one transaction, so a crash leaves what the last one wrote.

    Past months stay in the table `used`, for whoever writes invoices.

    Args:
        path: its folder is made when it is missing.
        patience_s: how long to wait for another program that has the file locked.
    """

    def __init__(self, path: Path, patience_s: float = 5.0) -> None:
        self._path = path
        self._patience_s = patience_s

    def load(self) -> UsageState:
        """Return what is kept; a file that is no database is put aside, and counting begins anew.

        Raises:
            OSError: the folder or file cannot be used.
            sqlite3.Error: the database cannot be read.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._load()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = self._path.with_name(self._path.name + ".damaged")
            logger.error(  # noqa: TRY400 - the class says it all
                "%s: expected an SQLite file, found another (%s); it is now %s and minutes begin at zero",
                self._path,
                type(error).__name__,
                aside.name,
            )
            self._path.replace(aside)
            return self._load()

    def save(self, state: UsageState) -> None:
        """Keep a state: its totals replace those of the same keys and months.

        Raises:
            sqlite3.Error: it could not be written; the file is as it was.
        """
        with self._database() as database:
            database.executemany(
                "INSERT INTO used VALUES (?, ?, ?) "
                "ON CONFLICT (key_id, month) DO UPDATE SET seconds = excluded.seconds",
                [(key_id, month, seconds) for (key_id, month), seconds in state.totals.items()],
            )
            database.execute("DELETE FROM running")
            database.executemany("INSERT INTO running VALUES (?, ?)", list(state.charged_until.items()))

    def _load(self) -> UsageState:
        with self._database() as database:
            used = database.execute("SELECT key_id, month, seconds FROM used").fetchall()
            running = database.execute("SELECT session_id, charged_until FROM running").fetchall()
        return UsageState({(key_id, month): seconds for key_id, month, seconds in used}, dict(running))

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=self._patience_s)) as database, database:
            database.executescript(TABLES)
            yield database
