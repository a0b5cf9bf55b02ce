"""Whatever is wrong with a file of arrays, it counts as missing."""

from pathlib import Path

import numpy as np
import pytest

from warehouse.files.array_cache import read_arrays, write_arrays


# The sums of an array of this size are compared only behind its shape.
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"(1000, 2), }", b"(1000, 2(, }"),  # one flipped bit
        (b"(1000, 2), }" + 7 * b" ", b"(1000000000000,2),}"),
    ],
)
def test_a_shape_that_is_none_counts_as_missing(before: bytes, after: bytes, tmp_path: Path) -> None:
    file = tmp_path / "arrays.npz"
    write_arrays(file, {"numbers": np.ones((1000, 2))})
    assert read_arrays(file).keys() == {"numbers"}
    content = file.read_bytes()
    assert content.count(before) == 1
    assert len(before) == len(after)
    file.write_bytes(content.replace(before, after))
    assert not read_arrays(file)
