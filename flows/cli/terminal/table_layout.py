"""Where the columns of a table go in a terminal: side by side, or in parts below each other where it is too narrow.

A terminal table that shrinks all its columns breaks words of its header and numbers in the middle, which nobody can
read. Here no column is narrower than these, and what has no room goes into a further part, as pandas does it.
"""

from collections.abc import Iterable, Sequence

from rich.cells import cell_len

GAP = 2
"""Blanks that a column has around it."""
_LONGEST_NAME = 24
"""A longer word of a header, or of the first column, which says what a row is about, may break."""
_LONGEST_WORD = 14
"""A longer word of a cell may break, but not a path or an id that has the cell to itself."""
_MOST_LINES = 4
"""A text of more lines than these goes into a part in which it has at least half the room."""

Part = list[tuple[int, int]]
"""Place and width of each column."""


def layout(names: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], room: int) -> list[Part]:
    """The parts of a table; each begins with its first column.

    Args:
        names: header of each column.
        cells: rows of the table, a cell for each column.
        numeric: columns whose cells must not break at all.
        room: width of the terminal.
    """
    widths = [max(1, cell_len(name), _longest(row[i] for row in cells)) for i, name in enumerate(names)]
    least = [
        max(
            1,
            min(_LONGEST_NAME, _longest(names[i].split())),
            _longest(row[i] for row in cells)
            if numeric[i]
            else _unbroken([row[i] for row in cells], room)
            if i
            else min(_LONGEST_NAME, _longest(word for row in cells for word in row[i].split())),
            0 if numeric[i] or not i else min(room // 2, -(-_longest(row[i] for row in cells) // _MOST_LINES)),
        )
        for i in range(len(names))
    ]
    parts, rest = list[Part](), list(range(1, len(names)))
    while not parts or rest:
        taken = [0]
        while rest and (len(taken) == 1 or sum(least[i] + GAP for i in (*taken, rest[0])) <= room):
            taken.append(rest.pop(0))
        level = room
        while level and sum(max(least[i], min(widths[i], level)) + GAP for i in taken) > room:
            level -= 1
        parts.append([(i, max(least[i], min(widths[i], level))) for i in taken])
    return parts


def _unbroken(cells: Sequence[str], room: int) -> int:
    """Room for what should not break in the cells of a column that is not the first."""
    if all(len(cell.split()) <= 1 for cell in cells):
        return min(_longest(cells), room - _LONGEST_NAME - 2 * GAP)
    return min(_LONGEST_WORD, _longest(word for cell in cells for word in cell.split()))


def _longest(words: Iterable[str]) -> int:
    return max(map(cell_len, words), default=0)
