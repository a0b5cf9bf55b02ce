"""Files of records and their settings, for the tests of ingesting."""

import json
from pathlib import Path
from typing import Any

from features.ingest.stage import IngestConfig
from features.readers.source import SourceConfig
from warehouse import Lake

CLASSES = ("spam", "ham")


def write(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")


def config(root: Path, **source: Any) -> IngestConfig:
    settings: dict[str, Any] = {"name": "s", "path": "a.jsonl", "id": "id", **source}
    return IngestConfig(root=root, classes=CLASSES, sources=(SourceConfig(**settings),))


def items(lake: Lake, columns: str = "item_id, content") -> list[tuple[Any, ...]]:
    with lake.read() as reader:
        return reader.rows(f"SELECT {columns} FROM items ORDER BY item_id")


def counts(read: int, stored: int, quarantined: int, duplicate: int, missing: int = 0) -> dict[str, int]:
    told = {"read": read, "stored": stored, "quarantined": quarantined, "duplicate": duplicate}
    return {**told, "missing": missing} if missing else told
