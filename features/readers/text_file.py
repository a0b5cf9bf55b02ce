"""Reading JSONL, CSV and TSV files as a stream: `Lines` guards every size, a reader per format makes the records."""

from collections.abc import Iterator
from contextlib import closing

from features.readers.csv import read_csv
from features.readers.jsonl import read_json_lines
from features.readers.record import Fault, Record
from features.readers.source import SourceConfig, SourceFile
from features.readers.text_stream import Consumed, Lines, StreamBroken


def read_text_file(file: SourceFile, source: SourceConfig, consumed: Consumed) -> Iterator[Record | Fault]:
    """Records and faults of a JSONL, CSV or TSV file in order.

    Args:
        file: the file.
        source: its settings and limits.
        consumed: told how far the file has been read.

    Raises:
        SettingsError: a CSV or TSV file has no column of this name.
        SourceChanged: the file is gone.
    """
    with closing(Lines(file, source, consumed)) as lines:
        try:
            if file.format == "jsonl":
                yield from read_json_lines(lines, source)
            else:
                yield from read_csv(lines, source, file)
        except StreamBroken as broken:
            yield broken.fault
