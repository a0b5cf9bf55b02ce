"""What the encoder's benchmark reads: similarity pairs, texts that no training saw, texts for training steps.

A data folder holds similarity sets below `sts/` (`benchmarks.similarity_pairs`; files named *train* are left alone),
`weak/*/test.json` (WRENCH format), `text/*` ("label text" per line, latin-1) and, for training steps,
`unlabelled/*.tsv.gz`. Only the first is needed. Texts that also stand in the training text, written alike or not, count
as seen and are left out; only those of similarity pairs stay, so that the pairs are the whole set (5 of the 2,910 of
STS-B's dev split are seen).
"""

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.similarity_pairs import SUFFIXES, Pairs, pair_files, read_pairs
from engine.errors import InputError
from engine.model.tokenizer import TextTokenizer, check_texts

ROOT = Path(__file__).parents[1]
VARIABLE = "SIFTLINE_DATA"
MOST_JOINED = 10_000


@dataclass(frozen=True, slots=True)
class Data:
    """Texts by where they come from.

    Attributes:
        pairs: similarity pairs with their gold score, by set.
        texts: texts that the encoder was not trained on, by set, each set without doubles.
        seen: texts of each set that also stand in the training text; left out of `texts`, but for pairs.
        unlabelled: files of training text.
    """

    pairs: dict[str, Pairs]
    texts: dict[str, list[str]]
    seen: dict[str, int]
    unlabelled: tuple[Path, ...]

    def everything(self) -> list[str]:
        """All unseen texts, each once."""
        return list(dict.fromkeys(text for texts in self.texts.values() for text in texts))


def data_folder(given: Path | None) -> Path:
    """The folder that was asked for, else SIFTLINE_DATA, else shared/data beside the repository.

    Raises:
        FileNotFoundError: there is none with similarity pairs.
    """
    beside = ROOT.parent / "shared" / "data"
    folder = given or Path(os.environ.get(VARIABLE) or beside)
    if not (folder / "sts").is_dir():
        raise FileNotFoundError(
            f"{folder} holds no folder sts. Give a data folder with --data DIR or in {VARIABLE}; similarity sets "
            f"({', '.join(SUFFIXES)} with sentence, sentence, score) lie below its folder sts, and, if you like, "
            "other texts in weak/*/test.json and text/*."
        )
    return folder


def read_data(folder: Path, *, pairs: int | None, texts: int, seed: int) -> Data:
    """Read the folder.

    Args:
        folder: the data folder.
        pairs: most similarity pairs of a set; all when None.
        texts: most texts of a set; which ones is random.
        seed: fixes the choice.

    Raises:
        FileNotFoundError: no file of similarity pairs can be used.
        ValueError: one holds other columns, or a score that is no number.
    """
    sets = {name: read_pairs(path)[:pairs] for name, path in pair_files(folder / "sts").items()}
    sets = {name: rows for name, rows in sets.items() if len(rows) > 1}
    if not sets:
        raise FileNotFoundError(
            f"{folder / 'sts'} holds no similarity pairs in files that end in {', '.join(SUFFIXES)}, "
            "those named *train* aside."
        )
    found: dict[str, list[str]] = {}
    for name, rows in sets.items():
        found[name] = [text for first, second, _ in rows for text in (first, second)]
    for path in sorted((folder / "weak").glob("*/test.json")):
        told = [row["data"].get("text") for row in json.loads(path.read_bytes()).values()]
        found[path.parent.name] = [
            text for text in told if isinstance(text, str)
        ]  # some sets have numbers in its place
    for path in sorted(path for path in (folder / "text").glob("*") if path.is_file()):
        lines = path.read_text("latin-1").split("\n")
        found[path.name] = [line.partition(" ")[2] for line in lines if line]
    unlabelled = tuple(sorted((folder / "unlabelled").glob("*.tsv.gz")))
    trained = {letters(text) for path in unlabelled for text in _training_texts(path)} - {""}
    seen: dict[str, int] = {}
    for place, name in enumerate(found):
        kept = [text for text in dict.fromkeys(found[name]) if text.strip() and _encodable(text)]
        new = [text for text in kept if letters(text) not in trained]
        seen[name] = len(kept) - len(new)
        if name not in sets:
            kept = new
        if name not in sets and len(kept) > texts:
            chosen = np.sort(np.random.default_rng([seed, place]).permutation(len(kept))[:texts])
            kept = [kept[number] for number in chosen]
        found[name] = kept
    return Data(sets, {name: texts for name, texts in found.items() if texts}, seen, unlabelled)


def letters(text: str) -> str:
    """What a text says: copies of one collection differ in case, blanks and quotation marks."""
    return "".join(sign for sign in text.lower() if sign.isalnum())


def _training_texts(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n").rsplit("\t", 1)[-1]


def _encodable(text: str) -> bool:
    try:
        check_texts([text])
    except InputError:
        return False
    return True


def mixed_texts(data: Data, count: int, *, seed: int) -> list[str]:
    """Different texts of all kinds in random order: a fifth unseen ones, the rest training text where there is some.

    Args:
        data: where they are from.
        count: how many, if there are as many.
        seed: fixes choice and order.
    """
    generator = np.random.default_rng([seed, count])
    trained: list[str] = []
    for path in data.unlabelled:
        trained += _training_texts(path)
    unseen = data.everything()
    mixed = [unseen[int(number)] for number in generator.permutation(len(unseen))]
    some = [trained[int(number)] for number in generator.permutation(len(trained))[: 2 * count]]
    texts = list(dict.fromkeys([*mixed[: count // 5], *some]))[:count]
    texts = list(dict.fromkeys([*texts, *mixed]))[:count]
    return [texts[int(number)] for number in generator.permutation(len(texts))]


def texts_of_length(texts: list[str], tokenizer: TextTokenizer, tokens: int, count: int, seed: int) -> list[str]:
    """Real texts, joined and cut at words so that each has exactly so many tokens, [CLS] and [SEP] included.

    Args:
        texts: what they are made of.
        tokenizer: counts tokens; its limit is at least `tokens`.
        tokens: of each text.
        count: how many.
        seed: fixes which texts are joined.

    Raises:
        ValueError: these texts hold too few words to be cut exactly.
    """
    generator = np.random.default_rng([seed, tokens])
    made: list[str] = []
    while len(made) < count:
        words: list[str] = []
        left = tokens - 2
        for _ in range(MOST_JOINED):
            more = texts[int(generator.integers(len(texts)))].split()
            # Tokens never reach over a blank, so those of a text are the sum over its words.
            for word, encoded in zip(more, tokenizer.encode(more), strict=True):
                if 0 < len(encoded.ids) - 2 <= left:
                    words.append(word)
                    left -= len(encoded.ids) - 2
            if not left:
                break
        if left:
            raise ValueError(f"No text of exactly {tokens} tokens can be made of these {len(texts)} texts.")
        made.append(" ".join(words))
    assert all(len(encoded.ids) == tokens for encoded in tokenizer.encode(made))
    return made
