"""Figures as the report prints them: short, and never better than they are."""

import pytest

from flows.report.text import excerpts, percent, score
from flows.report.visible import visible


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, "–"),
        (0.0, "0%"),
        (1e-18, "0%"),
        (0.00003, "<0.01%"),
        (0.0005, "0.05%"),
        (0.034, "3.4%"),
        (0.12, "12%"),
        (0.99, "99%"),
        (0.9982, "99.8%"),
        (0.99999, "99.9%"),
        (1.0, "100%"),
        (1.02, "102%"),
    ],
)
def test_a_share_as_percentage(share: float | None, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, "–"),
        (0.0, "0.000"),
        (0.9994, "0.999"),
        (0.9995, "0.9995"),
        (0.99983, "0.9998"),
        (1 - 1e-16, "1.000"),
        (1.0, "1.000"),
    ],
)
def test_a_score_is_one_only_where_nothing_is_missing(share: float | None, shown: str) -> None:
    assert score(share) == shown


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["earn", "acquisitions"], ["earn", "acquisitions"]),
        (["Requests for a refund by customers", "short"], ["Requests for a refund b…", "short"]),
        (
            ["Requests for a refund by customers", "Requests for a refund by resellers"],
            ["Requests…customers", "Requests…resellers"],
        ),
        (
            [
                "Requests for a refund by customers",
                "Requests for a refund by resellers here",
                "Requests for a refund b, too",
            ],
            ["Requests…by customers", "Requests…by resellers h…", "Requests…b, too"],
        ),
        (
            [
                "Requests for a refund, old customers abroad",
                "Requests for a refund, old customers at home",
                "Requests for a pony",
            ],
            ["Requests…abroad", "Requests…at home", "Requests for a pony"],
        ),
        (["a  " + "b" * 30, "a " + "b" * 30], ["a bbbbbbbbbbbbbbbbbbbbb…"] * 2),
    ],
)
def test_names_that_begin_alike_are_told_apart(names: list[str], shown: list[str]) -> None:
    assert list(excerpts(dict(enumerate(names)), 24).values()) == shown


def test_a_line_end_of_windows_is_a_line_end() -> None:
    assert visible("Dear all,\r\n\r\nit\rcrashes") == "Dear all,\n\nit⟨U+000D⟩crashes"
