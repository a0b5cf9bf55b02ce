"""Texts that somebody asks the end model about, in a program: any column of them, and no other thing."""

from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from flows.project.prediction import TextPredictor, check_texts
from warehouse import SettingsError
from weak_labels import keywords
from weak_labels.end_model.predictor import Said

TEXTS = ["crash", "thank you"]


@pytest.mark.parametrize(
    "given",
    [
        tuple(TEXTS),
        (text for text in TEXTS),
        np.array(TEXTS),
        pd.Series(TEXTS, index=[7, 7], dtype="category"),
        pl.Series(TEXTS),
        pa.array(TEXTS),
    ],
)
def test_any_column_of_texts_is_taken(given: object) -> None:
    assert check_texts(given) == TEXTS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("crash", r"The texts are one string; give a list: predict\(\[text\]\)"),
        (None, "The texts are None; give a list"),
        ({"crash", "thank you"}, "The texts are a set, whose order is another one each time; give a list"),
        (
            pd.DataFrame({"text": TEXTS}),
            r"The texts are a DataFrame; give one column of it: predict\(frame\['text'\]\)",
        ),
        ({"text": TEXTS}, "The texts are a dict; give one column of it"),
        (["crash", None], "Text 2 of 2 is None, which is no text. Leave it out"),
        (["crash", float("nan")], "Text 2 of 2 is nan, which is no text"),
        (["crash", " "], "Text 2 of 2 is empty"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(given: object, message: str) -> None:
    """A single text was five texts of a letter each."""
    with pytest.raises(SettingsError, match=message):
        check_texts(given)


def test_no_folder_of_a_project_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"The project is None; give the folder that holds siftline\.toml"):
        TextPredictor(cast("Any", None))


def test_what_a_notebook_shows_is_short() -> None:
    said = Said(labels=["bug"] * 10_000, confidence=np.ones(10_000), probs=np.ones((10_000, 2)))
    assert repr(said).startswith(
        "Said(labels=['bug', 'bug', 'bug', 'bug', 'bug', 'bug', ...], confidence=array([1., 1."
    )
    words = keywords("bug", [f"word{n}" for n in range(10_000)], name="words")
    assert repr(words).startswith("<keywords function 'words': '1 of: word0, word1, ")
    assert max(len(repr(said)), len(repr(words))) < 500
