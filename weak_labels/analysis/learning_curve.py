"""At which numbers of gold labels rivals are measured: a project that learns for months has more of them than a curve
needs, and each is a dozen models that are fitted anew with every record that comes in."""

from collections.abc import Sequence

MOST_SIZES = 24


def curve_sizes(learned: Sequence[int], most: int = MOST_SIZES) -> list[int]:
    """Of the numbers of gold labels that end models learned from, those that a curve shows.

    With up to `most` it is all of them, else 0, the largest, and the first one in each of so many steps of equal width.
    The width is a power of two, so a size that was left out never comes back, and the others keep their figures.

    Args:
        learned: numbers of gold labels, each once.
        most: so many, 0 and the largest not counted.
    """
    sizes = sorted(learned)
    shown, width = sizes[:-1], 1
    while len(shown) - shown.count(0) > most:
        width *= 2
        first: dict[int, int] = {}
        for size in shown:
            first.setdefault(-(-size // width), size)  # 0 is alone in its step
        shown = list(first.values())
    return [*shown, *sizes[-1:]]
