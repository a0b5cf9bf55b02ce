"""A page says which figures of the routed encoder are not of the file that ships, and which claims hold where."""

import json
from copy import deepcopy
from typing import Any

from benchmarks import int8_page, serving_report
from benchmarks.claims import table
from benchmarks.int8 import beside_others
from benchmarks.routed_file import EARLIER, routed_file
from tests.projects import ROOT


def _read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "benchmarks" / f"{name}.json").read_text("utf-8"))


def _int8(file: dict[str, str]) -> dict[str, Any]:
    figures = deepcopy(_read("int8"))
    for part in figures.values():
        for one in int8_page.every(part):
            one["environment"] |= file
    return figures


def test_figures_of_8_bits_say_so() -> None:
    for file, told in ((routed_file(), False), ({"routed": "0" * 64}, True)):
        figures = _int8(file)
        assert (EARLIER in int8_page.page(figures)) is told
        assert (EARLIER in table(_read("engine"), figures, _read("serving"))) is told


def test_figures_of_another_processor_stay_beside_new_ones() -> None:
    part = _int8(routed_file())["kernels"]
    part.pop("other", None)
    new, former = (
        {
            **part,
            "kernel": kernel,
            "ms": {tokens: {f"{kernel} dense": 2.0, f"{kernel} routed": 1.5} for tokens in part["ms"]},
            "environment": part["environment"] | file,
        }
        for kernel, file in (("avx512_vnni", {}), ("amx_int8", {"routed": "0" * 64}))
    )
    both = beside_others(new, former)
    assert both == {**new, "other": former}
    assert beside_others({**new, "rounds": 1}, both) == {**new, "rounds": 1, "other": former}
    assert beside_others(former, both) == {**former, "other": new}
    assert beside_others(new, None) == new
    page = int8_page.page({"kernels": both})
    assert page.count("by instruction set") == 2
    assert page.count(EARLIER) == 1
    assert f"(int8 with AMX: {EARLIER})" in table(_read("engine"), {"kernels": both}, _read("serving"))


def test_figures_of_the_server_say_so_where_routed_is_measured() -> None:
    figures = _read("serving")
    parts = {kind: run["parts"] for kind, run in figures["runs"].items()} | figures["offline"]
    routed = [part for kind, run in parts.items() if kind != "dense-fp32" for part in run.values()]
    for file, count in ((routed_file(), 0), ({"routed": "0" * 64}, len(routed))):
        for run in parts.values():
            for part in run.values():
                part["measured"] |= file
        assert serving_report.page(figures).count(EARLIER) == count


def test_the_claim_of_latency_names_the_lengths_at_which_it_holds() -> None:
    figures = _int8({})
    for tokens, row in figures["kernels"]["ms"].items():
        row["avx2 dense"], row["avx2 routed"] = 10.0, 9.0 if tokens == "64" else 1.0
    assert "int8 with AVX2 at 16, 128, 256 tokens" in table(_read("engine"), figures, _read("serving"))
