"""The training set as files, with a manifest that says exactly what a model was trained on.

The manifest names the snapshot, the query, the models and functions behind the labels, counts and checksums. The same
snapshot and query give the same bytes, on any later day, until the snapshot is expired on purpose.
"""

import errno
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa

from warehouse.catalog.location import Location
from warehouse.catalog.snapshots import At
from warehouse.commits.transaction import siftline_version
from warehouse.errors import SettingsError
from warehouse.export.formats import rows_of, write_csv, write_json, write_parquet
from warehouse.files.atomic_file import sha256_of, sync
from warehouse.files.permissions import private_files
from warehouse.files.scratch import collect, scratch_folder
from warehouse.queries.open import check_condition, connect, connect_for_people
from warehouse.queries.reader import Reader
from warehouse.schema.answer_views import NO_CLASS
from warehouse.session.interrupt import stopped_with_us, stream
from warehouse.session.server_errors import server_fault
from warehouse.storage.checksums import verify

Format = Literal["parquet", "jsonl", "csv", "datasets"]
MANIFEST = "manifest.json"
SCRATCH = ".siftline-export-"
EARLIER = ".earlier"
BATCH_ROWS = 1000
"""Rows at a time: Arrow's strings end at 2 GiB, which 50,000 texts of 43 kB have together."""
_COLUMNS = "item_id, content, split, label, label_source, confidence, simulated, probs"
_WHOSE = """
Where `label_source` is `predicted`, the label is the end model's and nobody's answer. Such labels in `test` and
`validation` tell nothing of how right a model is.
"""
_SPLITS = {"valid": "validation"}
"""Names of splits that the Hugging Face library knows by another word."""


def export_training_set(
    path: Path | Location, output: Path, *, format: Format, at: At = None, where: str | None = None, force: bool = False
) -> dict[str, Any]:
    """Write the training set of one snapshot into a folder of its owner's only, whole or not at all.

    Args:
        path: folder of the warehouse, or its `Location`.
        output: folder to make.
        format: parquet, jsonl or csv: one file; datasets: what Hugging Face `load_dataset` reads.
        at: snapshot number or time; the newest when left out.
        where: SQL condition on the columns of `training_set`; all rows when left out.
        force: replace an earlier export at this place.

    Returns:
        The manifest, as written to `manifest.json`.

    Raises:
        SettingsError: the place is taken or cannot be written, or the condition is wrong.
        SnapshotNotFound: the snapshot is not kept.
        WarehouseError: a file it needs is damaged.
        ServerAway: the catalogue's server, or the store, went away.
    """
    output = output.absolute()
    collect(output.parent, SCRATCH, rescue=_give_back)
    _check_place(output, force=force)
    with connect(path, at=at) as reader:
        number = reader.snapshot()
        several = _several(reader)
    verify(path, at=number).raise_if_damaged()
    columns = f"{_COLUMNS}, labels" if several else _COLUMNS
    query = (
        f"SELECT {columns} FROM training_set"
        + (f" WHERE ({where}\n)" if where is not None else "")
        + " ORDER BY item_id"
    )
    connection = connect_for_people(path, at=number)
    try:
        if where is not None:
            check_condition(connection, where)
        # Beside the place, so that the rename at the end stays on one file system.
        with (
            stopped_with_us(connection),
            private_files(),
            scratch_folder(output.parent, SCRATCH, _give_back) as folder,
        ):
            files = folder / output.name
            files.mkdir()
            counts = _Counts(_classes(connection), several=several)
            _write(connection, query, files, format, counts, several=several)
            manifest = {
                "what": "training_set",
                "snapshot": number,
                **_provenance(connection, number),
                "query": query,
                "format": format,
                "rebuild": _command(number, format, where),
                "counts": counts.summary(),
                "files": [_file(files, found) for found in sorted(files.rglob("*")) if found.is_file()],
                "written_with": {
                    "siftline": siftline_version(),
                    "duckdb": duckdb.__version__,
                    "pyarrow": pa.__version__,
                },
            }
            (files / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
            for path in (*files.rglob("*"), files):
                sync(path)
            _check_place(output, force=force)  # again, since another export may have come there meanwhile
            _swap(files, output, folder / f"{output.name}{EARLIER}")
    except duckdb.Error as error:
        if fault := server_fault(str(error)):
            raise fault from error
        raise SettingsError(
            f"The training set cannot be read: {error}\nA condition is SQL on the columns {_COLUMNS} and labels, "
            "such as --where \"split = 'train' and confidence > 0.9\"."
        ) from error
    except OSError as error:
        if fault := server_fault(str(error)):  # Arrow's, of what DuckDB says in the middle of a stream
            raise fault from error
        raise SettingsError(
            f"{output} cannot be written: {error.strerror or error}. Mend the folder's permissions, make room, or "
            "name another place."
        ) from error
    finally:
        connection.close()
    return manifest


def _several(reader: Reader) -> bool:
    """Whether items may have several classes; snapshots from before schema 5 cannot say it."""
    known = {str(name) for name, *_ in reader.rows("DESCRIBE classes")}
    return "multi_label" in known and bool(reader.scalar("SELECT bool_or(multi_label) FROM classes"))


def _classes(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [str(n) for (n,) in connection.execute("SELECT name FROM classes ORDER BY class_id").fetchall()]


class _Counts:
    """Rows by split, class and source, counted as they pass; a row of several classes counts in each of them."""

    def __init__(self, classes: list[str], *, several: bool) -> None:
        self._classes = classes
        self._several = several
        self.by: dict[str, Counter[str]] = {name: Counter() for name in ("split", "label", "label_source")}
        self.simulated = 0
        self.rows = 0

    def watch(self, stream: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The same stream, counted."""
        return pa.RecordBatchReader.from_batches(stream.schema, self._counted(stream))

    def _counted(self, stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in stream:
            self.rows += batch.num_rows
            self.simulated += int(batch.column("simulated").cast(pa.int64()).sum().as_py() or 0)
            for name, counter in self.by.items():
                if name == "label" and self._several:
                    sets = batch.column("labels").to_pylist()
                    counter.update(self._named(value) for found in sets for value in found or [NO_CLASS])
                    continue
                for entry in batch.column(name).value_counts().to_pylist():
                    counter[self._named(entry["values"])] += entry["counts"]
            yield batch

    def _named(self, value: object) -> str:
        """A class by its name: files for `load_dataset` hold its number."""
        return self._classes[value] if isinstance(value, int) else str(value)

    def summary(self) -> dict[str, Any]:
        """All counts as JSON."""
        by = {f"by_{name}": dict(sorted(counter.items())) for name, counter in self.by.items()}
        return {"rows": self.rows, **by, "simulated": self.simulated}


def _check_place(output: Path, *, force: bool) -> None:
    if not output.parent.is_dir():
        raise SettingsError(f"The folder {output.parent} does not exist; make it first, or name another place.")
    if not output.exists():
        return
    if not force:
        raise SettingsError(f"{output} exists already; nothing was written. Name another folder, or give --force.")
    if not (output / MANIFEST).is_file():
        raise SettingsError(f"{output} is no earlier export (it has no {MANIFEST}), so --force leaves it alone.")


def _swap(files: Path, output: Path, earlier: Path) -> None:
    """Put a folder in its place; one that is there moves to `earlier`, and back where the new one cannot come.

    Raises:
        SettingsError: another export does so at the same moment, and its folder stays.
    """
    try:
        with suppress(FileNotFoundError):  # none is there, or another export has just moved it
            os.replace(output, earlier)
        os.replace(files, output)
    except BaseException as error:  # also Ctrl-C: the folder that `earlier` is in will be removed
        if earlier.exists() and not output.exists():
            os.replace(earlier, output)
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise SettingsError(
                f"Another export was written to {output} at the same moment. That one is there, and this one was not "
                "written: run it again, or name another place."
            ) from error
        raise
    sync(output.parent)


def _give_back(left: Path) -> None:
    """Put back the earlier export that a killed process had moved away and not yet replaced."""
    for earlier in left.glob(f"*{EARLIER}"):
        place = left.parent / earlier.name.removesuffix(EARLIER)
        if not place.exists():
            os.replace(earlier, place)


def _write(
    connection: duckdb.DuckDBPyConnection, query: str, folder: Path, format: Format, counts: _Counts, *, several: bool
) -> None:
    if format == "datasets":
        _write_datasets(connection, query, folder, counts, several=several)
        return
    rows = counts.watch(stream(connection, connection.execute(query), rows=BATCH_ROWS))
    if format == "parquet":
        write_parquet(folder / "training_set.parquet", rows)
        return
    write = write_csv if format == "csv" else write_json
    with (folder / f"training_set.{format}").open("w", encoding="utf-8", newline="") as target:
        write(target, rows.schema.names, rows_of(rows))


def _write_datasets(
    connection: duckdb.DuckDBPyConnection, query: str, folder: Path, counts: _Counts, *, several: bool
) -> None:
    """Parquet per split with class ids as labels, and the card whose head tells the library names and types.

    Where items may have several classes, `labels` holds their ids and `label` all of them in words.
    """
    (folder / "data").mkdir()
    classes = _classes(connection)
    splits = [str(s) for (s,) in connection.execute(f"SELECT DISTINCT split FROM ({query}) ORDER BY 1").fetchall()]
    if not splits:
        raise SettingsError(
            "No item meets the condition, and a data set for load_dataset needs rows. Widen --where, or choose "
            "another --format."
        )
    for split in splits:
        numbered = (
            "SELECT t.* REPLACE (c.class_id::BIGINT AS label), t.label AS label_name "
            f"FROM ({query}) t LEFT JOIN classes c ON c.name = t.label WHERE t.split = ? ORDER BY t.item_id"
        )
        if several:
            numbered = (
                "SELECT t.* REPLACE (list_transform(t.labels, lambda name: list_position(k.names, name) - 1)::BIGINT[] "
                f"AS labels) FROM ({query}) t CROSS JOIN (SELECT list(name ORDER BY class_id) AS names FROM classes) k "
                "WHERE t.split = ? ORDER BY t.item_id"
            )
        rows = counts.watch(stream(connection, connection.execute(numbered, [split]), rows=BATCH_ROWS))
        write_parquet(folder / "data" / f"{_SPLITS.get(split, split)}-00000-of-00001.parquet", rows)
    (folder / "README.md").write_text(_card(classes, splits, several=several), "utf-8")


def _card(classes: list[str], splits: list[str], *, several: bool) -> str:
    names = "\n".join(f"          '{n}': {json.dumps(name, ensure_ascii=False)}" for n, name in enumerate(classes))
    plain = {"item_id": "string", "content": "string", "split": "string"}
    rest = {"label_source": "string", "confidence": "float32", "simulated": "bool"}
    features = [f"  - name: {name}\n    dtype: {kind}" for name, kind in plain.items()]
    one = f"  - name: label\n    dtype:\n      class_label:\n        names:\n{names}"
    features.append("  - name: label\n    dtype: string" if several else one)
    features += [f"  - name: {name}\n    dtype: {kind}" for name, kind in rest.items()]
    features.append("  - name: probs\n    list: float32")
    many = f"  - name: labels\n    list:\n      class_label:\n        names:\n{names}"
    features.append(many if several else "  - name: label_name\n    dtype: string")
    files = "\n".join(f"  - split: {_SPLITS.get(s, s)}\n    path: data/{_SPLITS.get(s, s)}-*.parquet" for s in splits)
    head = f"configs:\n- config_name: default\n  data_files:\n{files}\ndataset_info:\n  features:\n"
    return (
        f"---\n{head}"
        + "\n".join(features)
        + f"\n---\n\nMade by `siftline export training-set`; see {MANIFEST}.\n{_WHOSE}"
    )


def _provenance(connection: duckdb.DuckDBPyConnection, number: int) -> Mapping[str, Any]:
    """What the labels of this snapshot came from, as the warehouse recorded it."""

    def pairs(sql: str) -> dict[str, Any]:
        return dict(connection.execute(sql).fetchall())

    found = connection.execute("SELECT snapshot_time FROM lake.snapshots() WHERE snapshot_id = ?", [number]).fetchone()
    return {
        "snapshot_time": found[0].isoformat() if found else None,
        "classes": _classes(connection),
        "code": {
            "siftline": pairs(
                "SELECT stage, siftline_version FROM runs "
                "QUALIFY row_number() OVER (PARTITION BY stage ORDER BY committed_at DESC) = 1 ORDER BY stage"
            ),
            "models": pairs(
                "SELECT stage, model_id FROM models "
                "QUALIFY row_number() OVER (PARTITION BY stage ORDER BY sequence DESC) = 1 ORDER BY stage"
            ),
            "encoders": sorted(pairs("SELECT DISTINCT encoder_id, 0 FROM vectors")),
            "functions": pairs("SELECT lf_name, max(lf_version) FROM lf_votes GROUP BY lf_name ORDER BY lf_name"),
        },
    }


def _file(root: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    return {"path": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _command(number: int, format: Format, where: str | None) -> str:
    condition = "" if where is None else f" --where {_shell_word(where)}"
    return f"siftline export training-set --at {number} --format {format}{condition} --output FOLDER"


def _shell_word(text: str) -> str:
    """One word for a shell; a condition with SQL's quotes, and nothing that a shell obeys, as people type it."""
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else shlex.quote(text)
