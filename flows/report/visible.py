"""Texts of the data as people may see them on a page or in a log, whatever they hold.

Control characters, terminal codes and marks that turn the reading direction are shown as what they are.
"""

import unicodedata

_JOINERS = "\u200c\u200d"  # emoji and several scripts need them; they neither hide nor reorder text
_MAX_MARKS = 4  # combining marks on one letter; more would paint over the lines above


def visible(text: str) -> str:
    """The text with every character that is invisible or acts on the display made readable.

    Control characters and format characters such as bidi marks become their code point in angle brackets, lone
    surrogates the replacement character. Line breaks, also those of Windows, and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    marks = 0
    for char in text.replace("\r\n", "\n"):
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if char in "\n\t" or char in _JOINERS:
            out.append(char)
        elif category == "Cs":
            out.append("\ufffd")
        elif category in ("Cc", "Cf", "Zl", "Zp", "Co"):
            out.append(f"⟨U+{ord(char):04X}⟩")
        elif marks <= _MAX_MARKS:
            out.append(char)
    return "".join(out)


def one_line(text: str) -> str:
    """The text on one line, as `visible` shows it: a line end in it begins no line of its own."""
    return visible(" ".join(text.split()))
