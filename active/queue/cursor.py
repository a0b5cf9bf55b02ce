"""How far the last collect got, so that the next one reads only what changed since: a cache beside the warehouse.

The place in the service is believed only for the very answers that the warehouse holds (their last commit is part of
the key), the same service and the same classes. Where it is lost, torn, older than a day or of another warehouse, the
next collect reads everything, which is always right and only slower.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from warehouse import Reader
from warehouse.commits.stage import hash_token, last_token
from warehouse.files.atomic_file import replaced_file

FULL_EVERY_S = 24 * 3600.0


class Cursor:
    """The cursor of one project.

    Args:
        path: file that keeps it.
        full_every_s: seconds after which everything is read once more, in case the server's clock went wrong.
    """

    def __init__(self, path: Path, *, full_every_s: float = FULL_EVERY_S) -> None:
        self.path = path
        self.full_every_s = full_every_s
        self._full_at = 0.0
        self._items = ""

    def read(self, reader: Reader, service: str, classes: Sequence[str]) -> str:
        """Where to go on; empty to read everything.

        Args:
            reader: of the warehouse as the collect finds it.
            service: the service in words.
            classes: class names of the project.
        """
        self._full_at, self._items = time.time(), ""
        try:
            kept = json.loads(self.path.read_text("utf-8"))
            key, cursor, full_at, items = (kept[name] for name in ("key", "cursor", "full_at", "items"))
            fresh = 0 <= time.time() - float(full_at) < self.full_every_s
        except (OSError, ValueError, TypeError, KeyError):
            return ""
        if not fresh or key != _key(reader, service, classes) or items not in ("", last_token(reader, "items")):
            return ""
        self._full_at, self._items = float(full_at), str(items)
        return str(cursor)

    def write(self, reader: Reader, service: str, classes: Sequence[str], cursor: str, *, unknown_items: bool) -> None:
        """Keep where a collect got to.

        Args:
            reader: of the warehouse after the commit of the answers.
            service: the service in words.
            classes: class names of the project.
            cursor: from the service; empty where it has none.
            unknown_items: answers were left out whose items the warehouse lacks: read everything once it has new ones.
        """
        items = last_token(reader, "items") if unknown_items or self._items else ""
        kept = {
            "key": _key(reader, service, classes),
            "cursor": cursor,
            "full_at": self._full_at or time.time(),
            "items": items,
        }
        if not cursor:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replaced_file(self.path, durable=False) as temporary:
            temporary.write_text(json.dumps(kept), "utf-8")


def _key(reader: Reader, service: str, classes: Sequence[str]) -> str:
    return hash_token({"service": service, "classes": list(classes), "answers": last_token(reader, "annotations")})
