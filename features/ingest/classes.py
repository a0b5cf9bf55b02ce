"""The classes of a project and those of its warehouse, where votes, labels and predictions hold a class's number.

A name that moves to another number would give everything that is stored another meaning without a word, so whatever
opens a project's warehouse asks here first.
"""

from collections.abc import Sequence

import pyarrow as pa

from warehouse import Reader, SettingsError


def check_apart(names: Sequence[str], *, stored: int = 0) -> None:
    """Refuse classes that differ only in case or in blanks around them: `siftline answer` reads without regard to both.

    Args:
        names: classes of the settings.
        stored: so many of the first ones are in the warehouse already; it opens all the same, or nobody could go on.

    Raises:
        SettingsError: two names are alike.
    """
    seen: dict[str, str] = {}
    for class_id, name in enumerate(names):
        like = seen.setdefault(name.strip().casefold(), name)
        if like != name and class_id >= stored:
            raise SettingsError(
                f"The classes {like!r} and {name!r} differ only in case or in blanks around them, so labels would be "
                "split between two that people take for one. Leave one of them out, or give it a name of its own."
            )


def check_classes(reader: Reader, names: Sequence[str], *, multi_label: bool) -> None:
    """Refuse classes under whose numbers the warehouse holds something else; new ones at the end are no matter.

    Args:
        reader: the warehouse; an empty one takes all classes that `check_apart` takes.
        names: classes of the settings; the place of a name is its class_id.
        multi_label: an item may have several classes or none.

    Raises:
        SettingsError: a class was renamed, moved or removed, a new one is like another (`check_apart`), or
            `multi_label` was changed after people answered.
    """
    stored = _stored(reader)
    for class_id, (name, _) in stored.items():
        now = names[class_id : class_id + 1]
        if list(now) != [name]:
            there = repr(now[0]) if now else "missing"
            raise SettingsError(
                f"Class {class_id} is {name!r} in the warehouse and {there} in siftline.toml. Votes and labels are "
                "stored by this number, so classes can only be added at the end. Put the stored names back in their "
                "order, or take people's labels to another warehouse: siftline docs label-studio 'Other classes'"
            )
    check_apart(names, stored=len(stored))
    turned = any(kind != multi_label for _, kind in stored.values())
    if turned and reader.scalar("SELECT count(*) FROM annotations WHERE action = 'labelled'"):
        raise SettingsError(
            f"multi_label under [project] is {str(multi_label).lower()}, and the warehouse holds answers from when it "
            f"was {str(not multi_label).lower()}. An answer with one class does not say whether the others fit too. "
            "Set it back, or name another folder under [warehouse] to begin anew."
        )


def new_classes(reader: Reader, names: Sequence[str], *, multi_label: bool) -> pa.Table:
    """Rows of the table `classes` that the warehouse lacks.

    Raises:
        SettingsError: as `check_classes`.
    """
    check_classes(reader, names, multi_label=multi_label)
    stored = _stored(reader)
    turned = any(kind != multi_label for _, kind in stored.values())
    new = [(i, name) for i, name in enumerate(names) if turned or i not in stored]
    rows = {"class_id": pa.array([i for i, _ in new], pa.int32()), "name": [name for _, name in new]}
    return pa.table({**rows, "multi_label": [multi_label] * len(new)} if multi_label or turned else rows)


def _stored(reader: Reader) -> dict[int, tuple[str, bool]]:
    rows = reader.rows("SELECT class_id, name, coalesce(multi_label, false) FROM classes ORDER BY class_id")
    return {int(class_id): (str(name), bool(kind)) for class_id, name, kind in rows}
