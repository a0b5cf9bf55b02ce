"""Which items the rows of a file of labels are about: those of their texts, and without these those of their ids.

Where a row has a text, its id only says which of the items with that text is meant: ids that another tool made say
nothing here.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from features.readers.label_file import GivenLabel
from warehouse.errors import DataError
from warehouse.queries.reader import Reader


class LabelledItems:
    """Items by id and by text.

    Args:
        items: id and content hash of each item that a row may be about.
    """

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self.ids: set[str] = set()
        self._same_text: dict[str, list[str]] = defaultdict(list)
        for item_id, content_hash in items:
            self.ids.add(item_id)
            self._same_text[content_hash].append(item_id)

    def about(self, row: GivenLabel) -> list[str]:
        """Ids of the items that a row is about: those of its text, or of these the one of its id."""
        ids = (row.item_id, row.unmarked[0])
        if not row.content_hash:
            return [item_id for item_id in ids if item_id in self.ids][:1]
        same = self._same_text.get(row.content_hash) or self._same_text.get(row.unmarked[1], [])
        return [item_id for item_id in ids if item_id in same][:1] or same

    def check_ids(self, path: Path, rows: Iterable[GivenLabel]) -> None:
        """Refuse ids beside a column that is not read and has, in most rows, the text of another item than the id says.

        Rows are counted whose id or cell is an item's, and equal texts once: a word of each row may be a text too.

        Raises:
            DataError: there is such a column.
        """
        counted: Counter[str] = Counter()
        others: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            ids = {row.item_id, row.unmarked[0]}
            for name, content_hash in row.unread.items():
                same = self._same_text.get(content_hash, [])
                counted[name] += bool(same) or not ids.isdisjoint(self.ids)
                if same and ids.isdisjoint(same):
                    others[name].add(content_hash)
        if column := next((name for name, texts in others.items() if 2 * len(texts) > counted[name]), ""):
            raise DataError(
                f"{path} has texts of this project's items in its column '{column}', which is not read, and the ids "
                "beside them are of other items, or of none: they may be numbers of another tool. Call that column "
                "'text', or take it out where the ids are right."
            )


def labelled_items(reader: Reader, rows: Iterable[GivenLabel]) -> LabelledItems:
    """Those of the warehouse's items that the rows, or their cells that are not read, may be about."""
    ids: set[str] = set()
    hashes: set[str] = set()
    for row in rows:
        if row.content_hash:
            hashes |= {row.content_hash, row.unmarked[1]}
        else:
            ids |= {row.item_id, row.unmarked[0]}
        hashes.update(row.unread.values())
    found = reader.rows(
        "SELECT item_id, content_hash FROM items WHERE item_id IN (SELECT unnest(?::VARCHAR[])) "
        "OR content_hash IN (SELECT unnest(?::VARCHAR[])) ORDER BY item_id",
        [sorted(ids), sorted(hashes)],
    )
    return LabelledItems((str(item_id), str(content_hash)) for item_id, content_hash in found)


def no_item_in_words(path: Path, rows: list[GivenLabel], reader: Reader) -> str:
    """Why not one of these rows is about an item, and how to see it."""
    first, many = rows[0].about, f"{len(rows):,} rows"
    if row := next((row for row in rows if row.begin.strip()), None):
        begin = " ".join(row.begin.split())
        like = reader.rows(
            "SELECT item_id FROM items WHERE starts_with(trim(regexp_replace(content, '[\\s\\p{Z}]+', ' ', 'g')), ?) "
            "ORDER BY item_id LIMIT 1",
            [begin],
        )
        named = f"that of id '{row.item_id}', '{begin}'" if row.item_id else f"'{begin}'"
        but = f" Item '{like[0][0]}' begins so too, but for white space or what follows." if like else ""
        return (
            f"Not one of the {many} in {path} has the text of an item of this project, to the letter; the first is "
            f'{named}.{but} `siftline sql "select content from items"` shows the texts, `siftline status` whether '
            "records were read. Where the file has your ids and the texts differ, leave the column of texts out."
        )
    item = reader.scalar("SELECT min(item_id) FROM items")
    unlike = f", where they are like '{item}'" if item is not None else ""
    return (
        f"Not one of the ids of the {many} in {path} is an item of this project, such as '{first}'{unlike}. "
        '`siftline sql "select item_id from items"` shows the ids, `siftline status` whether records were read.'
    )
