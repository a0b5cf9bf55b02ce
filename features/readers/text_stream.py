"""Lines of a text file, plain or gzip, as a stream with every size guarded: memory stays near the longest record."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from features.readers.record import BadRecord, Fault, fault
from features.readers.source import SourceConfig, SourceFile

BLOCK_BYTES = 1 << 18
GZIP_RATIO = 200
GZIP_RATIO_FLOOR_BYTES = 64 << 20
"""A gzip file may unpack to this much whatever its ratio; beyond it, to 200 times its size. Text reaches 5 to 20."""

UTF8_BOM = b"\xef\xbb\xbf"
OTHER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32; convert it: iconv -f UTF-32 -t UTF-8",
    b"\xff\xfe": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\x00\x00\xfe\xff": "UTF-32; convert it: iconv -f UTF-32 -t UTF-8",
    b"\x1f\x8b": "packed with gzip; end its name in .gz",
    b"\x28\xb5\x2f\xfd": "packed with Zstandard; unpack it, or pack it with gzip",
    b"BZh91AY&SY": "packed with bzip2; unpack it, or pack it with gzip",
    b"\xfd7zXZ\x00": "packed with xz; unpack it, or pack it with gzip",
    b"PK\x03\x04": "a ZIP file or an Excel workbook; unpack it, or save the sheet as CSV UTF-8",
    b"PAR1\x15": "Parquet; end its name in .parquet",
}
"""How files begin that are no UTF-8, and what they are."""
CR_HINT = "a carriage return stands in it; lines end with LF or CR LF (convert: tr '\\r' '\\n')"

Consumed = Callable[[int], None]
"""Called with the raw bytes of the file that have been read so far."""


class Line(NamedTuple):
    """One line without its line feed. `fault` is set, and `raw` empty, when it was too long to keep."""

    number: int
    raw: bytes
    ended: bool
    fault: Fault | None = None


class StreamBroken(Exception):
    """The stream cannot be read further; carries the fault that says where and why."""

    def __init__(self, found: Fault) -> None:
        super().__init__(found.detail)
        self.fault = found


class Lines:
    """Lines of a text file, counted from 1.

    Args:
        file: the file to read.
        source: its limits.
        consumed: told how far the file has been read.

    Raises:
        SourceChanged: the file is gone.
        StreamBroken: while iterating, when gzip is damaged or unpacks to too much.
    """

    def __init__(self, file: SourceFile, source: SourceConfig, consumed: Consumed) -> None:
        self._source = source
        self._consumed = consumed
        self._file = file.open()
        # read1 hands out what gzip could unpack before it meets damage; read would lose it.
        self._unpacked = gzip.GzipFile(fileobj=self._file, mode="rb") if file.gzip else None
        self._more = self._unpacked.read1 if self._unpacked else self._file.read
        size = os.fstat(self._file.fileno()).st_size
        self._allowed = min(source.max_total_bytes, max(GZIP_RATIO_FLOOR_BYTES, GZIP_RATIO * size))
        self._total = 0
        self._number = 1
        self._begun = _Begun()
        self._cut = self._lines()

    def close(self) -> None:
        """Close the file."""
        if self._unpacked:
            self._unpacked.close()
        self._file.close()

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        return next(self._cut)

    def _lines(self) -> Iterator[Line]:
        block = _without_mark(self._read())
        while block:
            end, *more = block.split(b"\n")
            self._begun.add(end)
            if more:
                yield self._line_begun(ended=True)
                *whole, begin = more
                for raw in whole:
                    yield self._line(raw, ended=True)
                self._begun.add(begin)
            if self._begun.size > self._source.max_record_bytes:
                self._begun.drop()
            block = self._read()
        if self._begun.size:
            yield self._line_begun(ended=False)

    def _line_begun(self, *, ended: bool) -> Line:
        begun, self._begun = self._begun, _Begun()
        if begun.size > self._source.max_record_bytes:
            return self._too_long(begun.sha256(), begun.size, ended=ended)
        return self._line(begun.raw(), ended=ended)

    def _line(self, raw: bytes, *, ended: bool) -> Line:
        if len(raw) > self._source.max_record_bytes:
            return self._too_long(hashlib.sha256(raw).hexdigest(), len(raw), ended=ended)
        number, self._number = self._number, self._number + 1
        return Line(number, raw, ended)

    def _too_long(self, raw_hash: str, size: int, *, ended: bool) -> Line:
        number, self._number = self._number, self._number + 1
        detail = f"the line has {size} bytes, the limit max_record_bytes is {self._source.max_record_bytes}"
        return Line(number, b"", ended, Fault(number, "record_too_long", detail, raw_hash, size))

    def _read(self) -> bytes:
        try:
            block = self._more(BLOCK_BYTES)
        except EOFError as error:
            detail = "the gzip file ends in the middle; records before this line were read"
            raise self._broken("truncated_gzip", detail) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            hint = "" if self._total else "; if the file is not packed, take .gz off its name"
            raise self._broken("damaged_gzip", f"gzip: {error}{hint}") from error
        self._total += len(block)
        if self._unpacked and self._total > self._allowed:
            raise self._broken(
                "gzip_bomb",
                f"the file unpacks to more than {self._allowed} bytes (max_total_bytes is "
                f"{self._source.max_total_bytes}, beyond {GZIP_RATIO_FLOOR_BYTES} at most {GZIP_RATIO} times the "
                "size of the file); records before this line were read",
            )
        self._consumed(self._file.tell())
        return block

    def _broken(self, reason: str, detail: str) -> StreamBroken:
        position = self._number if self._total else 0
        return StreamBroken(Fault(position, reason, detail, self._begun.sha256(), self._begun.size))


class _Begun:
    """A line whose end was not read yet: its parts, or only their hash where it is too long to keep."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []
        self._digest = hashlib.sha256()
        self._kept = True

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self._kept:
            self._parts.append(part)  # joined once: a line may come byte by byte from the members of a gzip file
        else:
            self._digest.update(part)

    def drop(self) -> None:
        """Keep only the hash."""
        if self._kept:
            self._kept = False
            self._digest.update(self.raw())
            self._parts.clear()

    def raw(self) -> bytes:
        return b"".join(self._parts)

    def sha256(self) -> str:
        self.drop()
        return self._digest.hexdigest()


def _without_mark(begin: bytes) -> bytes:
    """The first block of a file without the mark of UTF-8."""
    if not begin:
        raise StreamBroken(fault(0, "empty_file", "the file is empty", b""))
    for mark, kind in OTHER_MARKS.items():
        if begin.startswith(mark):
            raise StreamBroken(fault(0, "not_utf8_file", f"the file is {kind}", begin))
    return begin.removeprefix(UTF8_BOM)


def decode(raw: bytes) -> str:
    """Text of a line or of several.

    Raises:
        BadRecord: it is not UTF-8, or holds a NUL.
    """
    if b"\0" in raw:
        raise BadRecord("nul_byte", f"NUL at byte {raw.index(0) + 1}; where NULs are many, the file may be UTF-16")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1} (0x{raw[error.start]:02x})"
        way = "is the file UTF-8? From Windows-1252: iconv -f WINDOWS-1252 -t UTF-8"
        detail = f"{where}: {error.reason}; {way}"
        raise BadRecord("invalid_utf8", detail) from error
