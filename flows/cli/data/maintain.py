"""`siftline maintain` and `siftline verify`: upkeep of the warehouse and the check of its files, beside runs."""

from pathlib import Path

from flows.cli.terminal.console import out
from flows.report.text import counted
from flows.settings.settings_file import warehouse_of
from warehouse import Lake
from warehouse.maintenance.compaction import maintain
from warehouse.storage.checksums import verify


def maintain_project(root: Path, expire_older_than_days: float | None, grace_h: float) -> None:
    """Maintain a project's warehouse and say what was done."""
    with Lake(warehouse_of(root), create=False) as lake:
        done = maintain(lake, expire_older_than_days=expire_older_than_days, grace_h=grace_h)
    out.print(f"{counted(done.files_merged, 'file')} merged into {done.files_made}, {done.files_rewritten} rewritten")
    out.print(f"{counted(done.rows_flushed, 'row')} of small commits moved into files")
    if expire_older_than_days is not None:
        out.print(f"{counted(done.rows_superseded, 'row')} of superseded models deleted")
    expired = counted(len(done.snapshots_expired), "snapshot")
    out.print(f"{expired} expired, {counted(done.files_removed, 'file')} removed")
    if done.catalog_bytes is not None:
        before, after = (size / 1024 for size in done.catalog_bytes)
        words = "" if done.vacuumed else " (not vacuumed: a reader is at work; it is done at the next call)"
        out.print(f"catalogue {before:,.0f} KiB, now {after:,.0f} KiB{words}")


def verify_project(root: Path) -> None:
    """Check all files of a project's warehouse and say what was found.

    Raises:
        WarehouseError: a file is damaged.
    """
    found = verify(warehouse_of(root))
    found.raise_if_damaged()
    words = f" ({found.unnoted} without a checksum: only size)" if found.unnoted else ""
    verb = "is as it was" if found.files == 1 else "are as they were"
    out.print(f"{counted(found.files, 'file')} of {_size(found.bytes)} {verb} written{words}")


def _size(bytes: int) -> str:
    return f"{bytes / 1024**2:,.1f} MiB" if bytes >= 1024**2 else f"{bytes / 1024:,.0f} KiB"
