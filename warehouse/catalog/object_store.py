"""The place of a catalogue's data files: their folder, or a store that speaks S3, and that it is no other warehouse's.

The keys of a store come from the environment only and go into a DuckDB secret, which DuckDB shows redacted.
"""

import os
from dataclasses import replace
from pathlib import Path

import duckdb

from warehouse.catalog.location import Location
from warehouse.errors import ServerAway, SettingsError, WarehouseError
from warehouse.session.extensions import open_duckdb
from warehouse.session.server_errors import server_fault
from warehouse.text import quote

METADATA = "__ducklake_metadata_lake"
"""Where DuckDB shows the catalogue's own tables of a warehouse that is attached as `lake`."""
FILES = f"""
    SELECT s.path || t.path || f.path, f.file_size_bytes FROM (
        SELECT table_id, path, file_size_bytes, begin_snapshot, end_snapshot FROM {METADATA}.ducklake_data_file
        UNION ALL
        SELECT table_id, path, file_size_bytes, begin_snapshot, end_snapshot FROM {METADATA}.ducklake_delete_file
    ) f
    JOIN (SELECT DISTINCT table_id, schema_id, path FROM {METADATA}.ducklake_table) t ON t.table_id = f.table_id
    JOIN (SELECT DISTINCT schema_id, path FROM {METADATA}.ducklake_schema) s ON s.schema_id = t.schema_id
"""
"""The data files that kept snapshots need: name below the data's place, and bytes."""

_MADE_AT = f"SELECT value FROM {METADATA}.ducklake_metadata WHERE key = 'data_path' AND scope IS NULL"


def has_files(location: Location) -> bool:
    """Whether there are data files in the warehouse's folder of this machine."""
    return not location.on_s3 and any(Path(location.data_path).rglob("*.parquet"))


def holds_data(cursor: duckdb.DuckDBPyConnection, location: Location) -> bool:
    """Whether there are Parquet files where the warehouse's are to be; `cursor` is on it."""
    if not location.on_s3:
        return has_files(location)
    found = cursor.execute("SELECT file FROM glob(?) LIMIT 1", [location.data_path + "**/*.parquet"])
    return found.fetchone() is not None


def held_above(location: Location) -> str | None:
    """The place that this one is inside of and in which there are a warehouse's files, where the keys may list that.

    Upkeep there looks through all that is below it, finds the files here, and refuses to go on once they are a day old.
    """
    if not location.on_s3:
        return None
    bucket, *folders = location.data_path.removeprefix("s3://").rstrip("/").split("/")
    connection = open_duckdb(location.extensions)
    try:
        create_secret(connection, replace(location, data=f"s3://{bucket}"))  # a secret is for what is below its place
        for depth in range(len(folders)):
            above = "/".join(["s3:/", bucket, *folders[:depth], ""])
            found = connection.execute("SELECT file FROM glob(?) LIMIT 1", [f"{above}main/*/ducklake-*.parquet"])
            if found.fetchone():
                return above
    except duckdb.Error:
        return None  # keys for this place alone are as they should be
    finally:
        connection.close()
    return None


def check_store(location: Location) -> None:
    """Ask the store of the data files whether it may be listed with the keys of this environment; writes nothing.

    Raises:
        SettingsError: the keys or the store's address are not set.
        StoreAway, StoreRefused: as they say.
    """
    connection = open_duckdb(location.extensions)
    try:
        create_secret(connection, location)
        holds_data(connection, location)
    except duckdb.Error as error:
        raise server_fault(str(error)) or error from None
    finally:
        connection.close()


def refuse_files_elsewhere(connection: duckdb.DuckDBPyConnection, location: Location) -> None:
    """A catalogue's files are in one place, and settings may name another."""
    _refuse_moved(connection, location)
    if location.dsn is None or location.on_s3:
        return
    folder = Path(location.data_path)
    names = [str(name) for name, _ in connection.execute(FILES).fetchall()]
    if names and not any((folder / name).exists() for name in names):
        raise WarehouseError(
            f"The catalogue in {location.words} has {len(names):,} data files, and none of them is in {folder}: they "
            "are in another folder, here or on another machine, whose settings name this catalogue. What one of both "
            "writes the other could not read. For several machines set [warehouse] data to a place on S3 that all "
            "reach; a copy of a project wants a database of its own under [warehouse] catalog; files that were moved "
            "or lost belong back into this folder."
        )


def _refuse_moved(connection: duckdb.DuckDBPyConnection, location: Location) -> None:
    """Refuse a place to which, or from which on S3, no file of this catalogue was moved.

    Upkeep would remove all that lies there and the catalogue does not name: the files of another project. The place is
    looked at only where it is another than at first.
    """
    if location.dsn is None and not location.on_s3 and Path(location.data_path).is_dir():
        return  # a folder of one machine may be moved, and its catalogue with it
    row = connection.execute(_MADE_AT).fetchone()
    made_at = location.data_path if row is None else str(row[0])
    if made_at == location.data_path or not (location.on_s3 or made_at.startswith("s3://")):
        return
    names = {str(name) for name, _ in connection.execute(FILES).fetchall()}
    newest = max(names, default="", key=lambda name: name.rpartition("/")[2])  # the names go by time
    stored: set[str] = set()
    try:
        for pattern in (f"{newest[:-1]}[t]", "**/*.parquet"):  # one file costs one request, all a request per 1,000
            found = connection.execute("SELECT file FROM glob(?)", [location.data_path + pattern]).fetchall()
            stored = {str(file).removeprefix(location.data_path) for (file,) in found}
            if names & stored:
                return
    except duckdb.Error as error:
        if isinstance(fault := server_fault(str(error)), ServerAway):
            raise fault from None
        return  # a key that may not list the store, with which upkeep removes nothing; what else is wrong reading says
    if names or stored:
        catalogue = f"the catalogue in {location.words}"
        there = f"none of the {len(names):,} data files of {catalogue} is there"
        if not names:
            there = f"there are data files, while {catalogue} has none yet"
        raise WarehouseError(
            f"[warehouse] data names {location.data_path}, and {there}; it was made with {made_at}. What is written "
            "there others could not read, and upkeep would remove what another project has there. Put the former place "
            "back, or copy the files to the new one first. Another project wants a catalogue of its own: in "
            "PostgreSQL, a database."
        )


def create_secret(connection: duckdb.DuckDBPyConnection, location: Location) -> None:
    """Give a connection the keys of the store that the environment names.

    Raises:
        SettingsError: there are none, or the store's address is none.
    """
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        raise SettingsError(
            f"[warehouse] data is {location.data}, but AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set. "
            "Set them in the environment."
        )
    statement = secret_statement(location, key, secret, os.environ.get("AWS_SESSION_TOKEN", ""))
    # The extension copies the keys from the environment into settings, where duckdb_settings() would show them.
    for setting in ("s3_access_key_id", "s3_secret_access_key", "s3_session_token"):
        connection.execute(f"SET GLOBAL {setting} = ''")
    connection.execute(statement)


def secret_statement(location: Location, key: str, secret: str, token: str) -> str:
    """The `CREATE SECRET` statement for data on S3 in the store that the environment names; an empty token is none.

    Raises:
        SettingsError: AWS_ENDPOINT_URL is no address of a store.
    """
    options = [f"KEY_ID {quote(key)}", f"SECRET {quote(secret)}", f"SCOPE {quote(location.data_path)}"]
    if token:
        options.append(f"SESSION_TOKEN {quote(token)}")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    options.append(f"REGION {quote(region)}")
    if endpoint := os.environ.get("AWS_ENDPOINT_URL", "").strip():
        scheme, _, host = endpoint.partition("://")
        if scheme.lower() not in ("http", "https") or not host.strip("/") or any(sign in host for sign in "@?#"):
            raise SettingsError(  # without it: it may hold a log-in
                "AWS_ENDPOINT_URL must look like http://host:9000 or https://host, without a log-in. The keys go into "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        options += [f"ENDPOINT {quote(host.rstrip('/'))}", "URL_STYLE 'path'"]
        options.append(f"USE_SSL {str(scheme.lower() == 'https').lower()}")
    return f"CREATE SECRET siftline (TYPE s3, PROVIDER config, {', '.join(options)})"
