"""Vectors that a run had made when it was stopped, so that the next one need not make them again.

The embed stage commits once, at its end; hours of encoding would be lost with the process. So each batch is a file of
its own until then, named by the sha256 of what is in it: one that a crash cut short or a disk spoiled does not count.
A cache: whatever goes wrong with it costs time only.
"""

import contextlib
import hashlib
import shutil
from pathlib import Path

import pyarrow as pa

from warehouse import SettingsError
from warehouse.files.atomic_file import replaced_file


class KeptVectors:
    """The batches of one encoder.

    Args:
        folder: where they are kept; one run at a time works in it.
        encoder_id: the encoder.
        schema: columns of a batch.
    """

    def __init__(self, folder: Path, encoder_id: str, schema: pa.Schema) -> None:
        self._root, self._schema = folder, schema
        self._folder = folder / hashlib.sha256(encoder_id.encode()).hexdigest()[:16]

    def read(self) -> pa.Table:
        """All batches that are whole."""
        tables = [self._schema.empty_table()]
        for path in sorted(self._folder.glob("*.arrow")):
            with contextlib.suppress(OSError):
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == path.stem:
                    tables.append(pa.ipc.open_file(pa.BufferReader(content)).read_all())
        return pa.concat_tables(table for table in tables if table.schema.equals(self._schema))

    def keep(self, batch: pa.Table) -> None:
        """Keep a batch, if there is room."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self._schema) as writer:
            writer.write_table(batch)
        content = sink.getvalue()
        path = self._folder / f"{hashlib.sha256(content).hexdigest()}.arrow"
        with contextlib.suppress(OSError, SettingsError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replaced_file(path, durable=False) as temporary:
                temporary.write_bytes(content)

    def clear(self) -> None:
        """Forget all batches, those of other encoders too."""
        shutil.rmtree(self._root, ignore_errors=True)
