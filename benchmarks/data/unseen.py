"""What the encoder's benchmarks read: similarity pairs, texts that no training saw, training text.

A data folder holds similarity sets below `sts/` (`benchmarks.data.pairs`), `weak/*/test.json` (WRENCH format), `text/*`
("label text" per line, latin-1) and, for training steps, `unlabelled/*.tsv.gz`. Only the first is needed. Texts that
also stand in the training text, written alike or not, count as seen and are left out; only similarity pairs stay whole.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data.files import data_folder, label_lines, tab_lines
from benchmarks.data.pairs import SUFFIXES, Pairs, pair_files, read_pairs
from engine.errors import InputError
from engine.model.tokenizer import TextTokenizer, check_texts

MOST_JOINED = 10_000


@dataclass(frozen=True, slots=True)
class Data:
    """Texts by where they come from.

    Attributes:
        pairs: similarity pairs with their gold score, by set.
        texts: texts that the encoder was not trained on, by set, each set without doubles.
        seen: number of texts of each set that also stand in the training text.
        unlabelled: files of training text.
    """

    pairs: dict[str, Pairs]
    texts: dict[str, list[str]]
    seen: dict[str, int]
    unlabelled: tuple[Path, ...]

    def everything(self) -> list[str]:
        """All unseen texts, each once."""
        return list(dict.fromkeys(text for texts in self.texts.values() for text in texts))


def read_data(given: Path | None, *, pairs: int | None, texts: int, seed: int = 0) -> Data:
    """Read the data folder: at most so many pairs of a similarity set, and a random choice of texts of any other set.

    Raises:
        FileNotFoundError: there is no data folder, or no file of similarity pairs in it.
        ValueError: a file of pairs has other columns, or a score that is no number.
    """
    folder = data_folder(given, "sts")
    sets = {name: read_pairs(path)[:pairs] for name, path in pair_files(folder / "sts").items()}
    sets = {name: rows for name, rows in sets.items() if len(rows) > 1}
    if not sets:
        raise FileNotFoundError(f"{folder / 'sts'} has no similarity pairs in files ending in {', '.join(SUFFIXES)}.")
    found = {name: [text for first, second, _ in rows for text in (first, second)] for name, rows in sets.items()}
    for path in sorted((folder / "weak").glob("*/test.json")):
        rows = (row["data"].get("text") for row in json.loads(path.read_bytes()).values())
        found[path.parent.name] = [text for text in rows if isinstance(text, str)]  # some sets have numbers
    for path in sorted(path for path in (folder / "text").glob("*") if path.is_file()):
        found[path.name] = [text for text, _, _ in label_lines(path)]
    unlabelled = tuple(sorted((folder / "unlabelled").glob("*.tsv.gz")))
    trained = {letters(text) for path in unlabelled for _, text in tab_lines(path)} - {""}
    seen: dict[str, int] = {}
    for place, name in enumerate(found):
        kept = [text for text in dict.fromkeys(found[name]) if text.strip() and _encodable(text)]
        new = [text for text in kept if letters(text) not in trained]
        seen[name] = len(kept) - len(new)
        if name not in sets:
            order = np.random.default_rng([seed, place]).permutation(len(new))[:texts]
            kept = new if len(new) <= texts else [new[number] for number in np.sort(order)]
        found[name] = kept
    return Data(sets, {name: texts for name, texts in found.items() if texts}, seen, unlabelled)


def letters(text: str) -> str:
    """What a text says: copies of one collection differ in case, blanks and quotation marks."""
    return "".join(sign for sign in text.lower() if sign.isalnum())


def _encodable(text: str) -> bool:
    try:
        check_texts([text])
    except InputError:
        return False
    return True


def mixed_texts(data: Data, count: int, *, seed: int) -> list[str]:
    """Different texts of all kinds in random order: a fifth unseen ones, the rest training text where there is some."""
    generator = np.random.default_rng([seed, count])
    trained = [text for path in data.unlabelled for _, text in tab_lines(path)]
    unseen = data.everything()
    mixed = [unseen[int(number)] for number in generator.permutation(len(unseen))]
    some = [trained[int(number)] for number in generator.permutation(len(trained))[: 2 * count]]
    texts = list(dict.fromkeys([*mixed[: count // 5], *some]))[:count]
    texts = list(dict.fromkeys([*texts, *mixed]))[:count]
    return [texts[int(number)] for number in generator.permutation(len(texts))]


def texts_of_length(texts: list[str], tokenizer: TextTokenizer, tokens: int, count: int, seed: int) -> list[str]:
    """Real texts, joined and cut at words so that each has exactly so many tokens, [CLS] and [SEP] included.

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
    return made
