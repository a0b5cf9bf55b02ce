"""What a line typed into `siftline answer` means: classes by number or name, or a command.

A whole name of a class, also one that holds a comma, wins over everything, because a label given by mistake is worse
than a command not understood: where a class is named like a command, the command takes a colon in front, and where a
name begins with a digit, as `5 stars`, classes are chosen by name only.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Command = Literal["skip", "back", "more", "quit"]
_COMMANDS: tuple[tuple[str, Command, str], ...] = (
    ("s", "skip", "skip"),
    ("b", "back", "back to the one before"),
    ("m", "more", "all of a long text"),
    ("q", "quit", "quit"),
)
NONE = "none"
_COMMAS = ",，、،"
"""Keyboards of Chinese, Japanese and Arabic type these, and digits of their own."""


class NotUnderstood(Exception):
    """What was typed is neither one answer nor a command."""


class Keys:
    """The keys of a project.

    Args:
        classes: class names in their order on the page.
        multi_label: a task takes any number of classes, else exactly one.
    """

    def __init__(self, classes: Sequence[str], *, multi_label: bool) -> None:
        self._classes = tuple(classes)
        self._multi_label = multi_label
        self._numbered = not any(name.strip()[:1].isdecimal() for name in classes)
        self._commands: dict[str, Command] = {self._word(word): command for word, command, _ in _COMMANDS}
        whole = sorted((name.strip() for name in classes if set(name) & set(_COMMAS)), key=len, reverse=True)
        ways = [rf"{re.escape(name)}(?=\s*(?:[{_COMMAS}]|$))" for name in whole] + [f"[^{_COMMAS}]+"]
        self._part = re.compile(rf"\s*({'|'.join(ways)})", re.IGNORECASE)
        self.none = self._word(NONE)
        self.more = self._word("m")

    def offered(self) -> list[str]:
        """The classes as they are shown, one a line."""
        width = len(str(len(self._classes)))
        return [f"{n:>{width}}  {name}" if self._numbered else name for n, name in enumerate(self._classes, 1)]

    def help(self) -> str:
        """All keys on one line."""
        way = "number or name" if self._numbered else "name"
        if self._multi_label:
            way += f" of a class, several with commas, {self.none} for no class"
        else:
            way += " of the class"
        return ", ".join([way, *(f"{self._word(word)} {does}" for word, _, does in _COMMANDS)])

    def meaning(self, line: str) -> Command | tuple[str, ...]:
        """What a line means: a command, or classes in their order on the page.

        Raises:
            NotUnderstood: it is neither, or may be several classes.
        """
        typed = line.strip()
        if command := self._commands.get(typed.casefold()):
            return command
        if not self._multi_label:
            return (self._class(typed),)
        if typed.casefold() == self.none:
            return ()
        if typed in self._classes:
            return (typed,)
        chosen = {self._class(part.strip()) for part in self._part.findall(typed) if part.strip()}
        if not chosen:
            raise NotUnderstood("Name a class.")
        return tuple(name for name in self._classes if name in chosen)

    def _word(self, word: str) -> str:
        return f":{word}" if any(name.strip().casefold() == word for name in self._classes) else word

    def _class(self, typed: str) -> str:
        if typed in self._classes:
            return typed
        if self._numbered and typed.isdecimal():
            if 1 <= int(typed[:9]) <= len(self._classes):
                return self._classes[int(typed[:9]) - 1]
            raise NotUnderstood(f"There is no class {typed}; they go from 1 to {len(self._classes)}.")
        folded = _folded(typed)
        whole = [name for name in self._classes if _folded(name) == folded]
        found = whole or [name for name in self._classes if _folded(name).startswith(folded)]
        if not folded or not found:
            raise NotUnderstood(f"No class is named {typed!r}." if folded else "Name a class.")
        if len(found) > 1:
            raise NotUnderstood(f"{typed!r} may be {' or '.join(found)}.")
        return found[0]


def _folded(name: str) -> str:
    """A name in any case, and with accents as parts of their letters, which some keyboards type apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())
