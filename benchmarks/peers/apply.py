"""One of Snorkel's appliers on the functions of the apply benchmark.

    python -m benchmarks.peers.apply pandas|dask PARTITIONS < SPEC

SPEC is JSON: `functions`, each (name, vote, pattern); `texts`; and `sizes`, how many of the texts each run gets. The
answer on standard output is JSON: seconds of each run, the last votes as (text, name of the function, vote), versions.
"""

import importlib.metadata
import json
import re
import sys
import time
from typing import Any

import pandas as pd
from snorkel.labeling import LabelingFunction, PandasLFApplier


def _function(name: str, vote: int, pattern: str) -> Any:
    compiled = re.compile(pattern, re.ASCII if name.startswith("regex") else re.IGNORECASE | re.DOTALL)
    return LabelingFunction(name, lambda row: vote if compiled.search(row.text) else -1)


def _votes(peer: str, functions: list[Any], frame: pd.DataFrame, partitions: int) -> Any:
    if peer == "pandas":
        return PandasLFApplier(functions).apply(frame, progress_bar=False)
    import dask
    import dask.dataframe
    from snorkel.labeling.apply.dask import DaskLFApplier

    dask.config.set({"dataframe.convert-string": False})
    parts = dask.dataframe.from_pandas(frame, npartitions=partitions)
    return DaskLFApplier(functions).apply(parts, scheduler="processes")


def main() -> None:
    """Measure every size; Dask's processes import this file again."""
    peer, partitions = sys.argv[1], int(sys.argv[2])
    spec = json.load(sys.stdin)
    functions = [_function(*parts) for parts in spec["functions"]]
    seconds: list[float] = []
    votes_NL: Any = None
    for rows in spec["sizes"]:
        frame = pd.DataFrame({"text": spec["texts"][:rows]})
        began = time.perf_counter()
        votes_NL = _votes(peer, functions, frame, partitions)
        seconds.append(time.perf_counter() - began)
    places = zip(*(votes_NL >= 0).nonzero(), strict=True)
    votes = [[int(i), functions[j].name, int(votes_NL[i, j])] for i, j in places]
    versions = {name: importlib.metadata.version(name) for name in ("snorkel", "pandas", "dask")}
    print(json.dumps({"seconds": seconds, "votes": votes, "versions": versions}))


if __name__ == "__main__":
    main()
