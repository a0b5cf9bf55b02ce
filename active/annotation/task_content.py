"""What a task shows of its item: the text, or chosen metadata in its place, and an image from a configured place.

Only keys that the settings name leave the warehouse. An image's address is always the configured prefix and the
record's own path behind it, escaped: a record cannot send the annotator's browser anywhere else.
"""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from warehouse import SettingsError

MOST_TEXTS = 4
"""Texts that a labeling page shows side by side at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Which parts of an item annotators see.

    Attributes:
        show: metadata keys shown side by side in place of the text; two make a pair. Empty for the text.
        image: metadata key with the path of the item's image; empty for none.
        image_prefix: address that every such path is put behind, as in `https://images.example.org/`.

    Raises:
        SettingsError: too many keys, or an image without a prefix that can stand before it.
    """

    show: tuple[str, ...] = ()
    image: str = ""
    image_prefix: str = ""

    def __post_init__(self) -> None:
        if len(self.show) > MOST_TEXTS:
            raise SettingsError(f"[annotate] show names {len(self.show)} keys; a page takes {MOST_TEXTS} at most")
        if bool(self.image) != bool(self.image_prefix):
            raise SettingsError("[annotate] image and image_prefix belong together: set both or neither")
        if self.image_prefix:
            try:
                parts = urlsplit(self.image_prefix)
                plain = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
            except ValueError:  # half an IPv6 address
                plain = False
            if not plain:  # not repeated: it may hold a password
                raise SettingsError(
                    "[annotate] image_prefix must look like https://images.example.org/, without a log-in: it is in "
                    "every task"
                )
            if self.image_prefix[-1] not in "/=":
                raise SettingsError(f"[annotate] image_prefix is {self.image_prefix!r}; it must end in / or =")

    @property
    def keys(self) -> tuple[str, ...]:
        """Metadata keys that annotators see; empty where they see the text alone."""
        return (*self.show, *filter(None, [self.image]))

    def texts(self, text: str, metadata: str) -> tuple[str, ...]:
        """The texts of a task, one where no key is named; empty where the item lacks a key.

        Args:
            text: the item's content.
            metadata: the item's metadata as JSON.
        """
        values = _values(metadata) if self.show else {}
        texts = [_plain(values.get(key)) for key in self.show] or [text]
        # Label Studio shows the line end of Windows as two.
        return tuple(part.replace("\r\n", "\n") for part in texts)

    def image_of(self, metadata: str) -> str | None:
        """Address of the item's image: None where none is shown, empty where this item has none that may be."""
        if not self.image:
            return None
        path = _plain(_values(metadata).get(self.image))
        outside = path.startswith("/") or any(part in (".", "..") for part in re.split(r"[/\\]", path))
        if not path or outside or re.search(r"[\\\x00-\x1f\x7f]", path) or "://" in path:
            return ""
        return self.image_prefix + quote(path, safe="/", errors="replace")


def _values(metadata: str) -> dict[str, Any]:
    values = json.loads(metadata or "{}")
    return values if isinstance(values, dict) else {}


def _plain(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
