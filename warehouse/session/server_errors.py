"""A catalogue's or a store's server that does not answer: told by type, because it comes back without anybody's help.

What only a person can mend is said over the same connection: by the catalogue a wrong password or a database that is
not there, by the store wrong keys or a bucket that is not there. The second has a type too: it is no sign of damage.
"""

import contextlib
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from warehouse.errors import (
    CatalogAway,
    FolderAway,
    ServerAway,
    StoreAway,
    StoreRefused,
    WarehouseError,
    without_secrets,
)

_AWAY = (
    "Unable to connect to Postgres",
    "connection to server",
    "no connection to the server",
    "server closed the connection",
    "terminating connection",
    "connection has been closed",
    "could not receive data from server",
    "could not send data to server",
)
_LOG_IN = (
    "Set PGPASSWORD, or where it is unset ~/.pgpass, to the password that the server has now, and start again what "
    "goes on with another PGPASSWORD."
)
_FOR_A_PERSON = {
    "authentication failed": _LOG_IN,
    "no password supplied": _LOG_IN,
    "pg_hba.conf": "Let the server's pg_hba.conf admit this user from this machine.",
    "does not exist": "Make it, or mend [warehouse] catalog.",
    "permission denied": "Grant this user the right to connect.",
    "invalid connection option": "Mend [warehouse] catalog.",
}

_STORE_AWAY = re.compile(
    r"(Could not connect to server|Could not resolve host ?name|Timeout was reached|Failed sending data to the peer|"
    r"Failure when receiving data from the peer|SSL connect error|Server returned nothing[^']*) error for HTTP"
)
_STORE_SAYS = re.compile(r"\(HTTP (?:code )?(\d{3})\b|HTTP (\d{3}) (?:for HTTP|response when)")
_BUSY = re.compile("408|429|5..")
_CODE = re.compile(r"^(\w+): ", re.MULTILINE)
_KEYS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that AWS_ENDPOINT_URL names their store."
_SESSION = (
    "The session token has run out, or belongs to other keys: set AWS_SESSION_TOKEN and both keys anew, and start "
    "again what goes on with the old ones."
)
_WAYS_OUT = {
    "ExpiredToken": _SESSION,
    "InvalidToken": _SESSION,
    "NoSuchBucket": "Make the bucket, or mend [warehouse] data, or AWS_ENDPOINT_URL where it is in another store.",
    "AccessDenied": "Ask for keys that may list, read, write and delete there; to read, the first two do.",
    "RequestTimeTooSkewed": "Set the clock of this machine.",
}
_REGION = "Set AWS_REGION to the bucket's region, and AWS_ENDPOINT_URL where the store is not Amazon's."

# In the middle of a commit DuckDB and SQLite make the folder anew, and an empty catalogue in it.
_NO_CATALOG = re.compile(
    r'Unable to open database "(.+)": unable to open database file|Table with name ducklake_snapshot does not exist'
)

# A transaction that is open asks the catalogue no more where it is, and then looks for the data.
_NO_DATA = re.compile(r'Cannot open file "(.+)/main/[a-z_]+/ducklake-[^/"]+\.parquet": No such file')


def close(connection: duckdb.DuckDBPyConnection) -> None:
    """Close a connection that may be in a transaction.

    DuckDB rolls it back while it destroys the connection, and where the catalogue's server is gone that throws where
    nothing may, which ends the process (duckdb 1.5.5). A rollback of ours throws an error that can be caught.
    """
    with contextlib.suppress(duckdb.Error):  # also where no transaction was open
        connection.execute("ROLLBACK")
    connection.close()


@contextmanager
def closing(connection: duckdb.DuckDBPyConnection) -> Generator[duckdb.DuckDBPyConnection]:
    """`close` a connection after a block."""
    try:
        yield connection
    finally:
        close(connection)


def server_fault(text: str) -> ServerAway | WarehouseError | None:
    """The error to raise when an error of DuckDB's is a server's, or the folder is away; None when it is neither.

    Args:
        text: DuckDB's message.
    """
    text = without_secrets(text)
    if fault := _store_fault(text):
        return fault
    if (file := _NO_CATALOG.search(text)) and not (file[1] and Path(file[1]).parent.is_dir()):
        return folder_away(Path(file[1]).parent if file[1] else None)
    if (file := _NO_DATA.search(text)) and not Path(file[1]).is_dir():
        return folder_away(Path(file[1]).parent)
    if not any(sign in text for sign in _AWAY):
        return None
    # DuckDB goes on with its own query and where in it; alerts show the first line only.
    said = " ".join(text.partition("\nLINE ")[0].split()).rstrip(".?")
    if way := next((way for sign, way in _FOR_A_PERSON.items() if sign in text), None):
        return WarehouseError(f"The catalogue's server refuses: {said}. What was committed is kept. {way}")
    return CatalogAway(
        f"The catalogue's server does not answer: {said}. What was committed is kept; when the server is back, run "
        "again."
    )


def _store_fault(text: str) -> StoreAway | StoreRefused | None:
    text = text.partition("\n\nLINE ")[0]  # DuckDB goes on with its own query
    if text.startswith("Conversion Error"):  # and tells what an item says
        return None
    answer = _STORE_SAYS.search(text)
    status = next(filter(None, answer.groups())) if answer else ""
    code = found[1] if answer and (found := _CODE.search(text, answer.end())) else ""
    said = text.partition("\n")[0] + (f": {code}" if code else "")
    if _STORE_AWAY.search(text) or _BUSY.fullmatch(status):
        plain = " If it speaks HTTP alone, AWS_ENDPOINT_URL begins with http://." if "SSL connect" in text else ""
        return StoreAway(
            f"The store of the data files does not answer: {said}. What was committed is kept; when the store is back, "
            f"run again.{plain}"
        )
    if status not in ("301", "307", "400", "401", "403") and code != "NoSuchBucket":
        return None  # above all a file that is not there
    way = _WAYS_OUT.get(code) or (_KEYS if status in ("401", "403") else _REGION)
    return StoreRefused(
        f"The store of the data files refuses: {said}. That is no sign of damage, and what was committed is kept. {way}"
    )


def folder_away(folder: Path | None) -> FolderAway:
    """The error to raise where the folder of an open warehouse, which may be known, is not there any more."""
    return FolderAway(
        f"The warehouse's folder{f' {folder}' if folder else ''} is not there any more: it was moved or removed while "
        "it was in use, or its disk is away. What was committed is in it: run again where it is now."
    )
