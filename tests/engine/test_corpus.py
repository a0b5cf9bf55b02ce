"""Training text: every line of a file is read once, and batches are of few lengths in an order that a seed fixes."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from engine.errors import OptionError
from engine.model.tokenizer import TextTokenizer
from engine.training import corpus as corpus_module
from engine.training.corpus import GROUPS, JOINED_LENGTHS, MIN_BATCH, Corpus, batches, read_corpus, with_joined
from tests.engine.texts import make_texts
from tests.engine.tiny import BASE, tiny_corpus, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(tiny_tokenizer(), vocab=BASE.vocab, max_tokens=12)


def ids(corpus: Corpus) -> list[list[int]]:
    return [corpus.text(number).tolist() for number in range(len(corpus))]


LINES = ["oil wheat", "profit", "dividend shares quarter bank", "naïve € 東京"]


def test_a_text_file_is_one_text_per_line(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\n\noil wheat\r\nprofit\n\ndividend shares quarter bank\nnaïve € 東京".encode())
    corpus = read_corpus([path], tokenizer)
    assert ids(corpus) == [tokens.ids for tokens in tokenizer.encode(LINES)]
    assert corpus.lengths.tolist() == [4, 3, 6, 5]
    assert len(corpus) == 4


def test_a_tab_in_a_text_file_is_part_of_the_text(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("oil\twheat\n", "utf-8")
    assert ids(read_corpus([path], tokenizer)) == [tokenizer.encode(["oil wheat"])[0].ids]


@pytest.mark.parametrize("packed", [False, True])
def test_of_a_table_the_last_column_is_read(tmp_path: Path, tokenizer: TextTokenizer, packed: bool) -> None:
    content = "".join(f"{number}\tsource\t{line}\n" for number, line in enumerate(LINES)) + "4\tsource\t\n"
    path = tmp_path / ("texts.tsv.gz" if packed else "texts.tsv")
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    assert ids(read_corpus([path], tokenizer)) == [tokens.ids for tokens in tokenizer.encode(LINES)]


def test_several_files_follow_each_other_up_to_the_limit(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    (tmp_path / "a.txt").write_text("\n".join(LINES[:2]), "utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(LINES[2:]).encode()))
    paths = [tmp_path / "a.txt", tmp_path / "b.txt.gz"]
    expected = [tokens.ids for tokens in tokenizer.encode(LINES)]
    for limit in (1, 2, 3, 4, None, 50):
        assert ids(read_corpus(paths, tokenizer, limit=limit)) == expected[:limit]


def test_no_line_is_lost_where_one_portion_ends(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    count = 2 * corpus_module.READ_TEXTS + 10
    words = [f"word{number % 40}" for number in range(count)]
    (tmp_path / "texts.txt").write_text("\n".join(words), "utf-8")
    corpus = read_corpus([tmp_path / "texts.txt"], tokenizer)
    assert len(corpus) == count
    first = tokenizer.encode(words[:40])
    assert corpus.ids.reshape(count, 3)[:, 1].tolist() == [first[number % 40].ids[1] for number in range(count)]
    assert len(read_corpus([tmp_path / "texts.txt"], tokenizer, limit=count - 5)) == count - 5


def test_long_lines_are_cut(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    (tmp_path / "texts.txt").write_text("oil " * 1000, "utf-8")
    assert read_corpus([tmp_path / "texts.txt"], tokenizer).lengths.tolist() == [12]


@pytest.mark.parametrize("content", ["", "\n\n\r\n"])
@pytest.mark.parametrize("name", ["texts.txt", "texts.tsv", "texts.txt.gz"])
def test_a_file_without_text_is_refused(tmp_path: Path, tokenizer: TextTokenizer, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    with pytest.raises(OptionError, match=f"no text in .*{name}"):
        read_corpus([path], tokenizer)


def test_no_file_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(OptionError, match="no text in no file"):
        read_corpus([], tokenizer)


PACKED = gzip.compress("".join(f"{text}\n" for text in make_texts(2000, longest=20, seed=1)).encode())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.txt", "naïve\n".encode("latin-1")),
        ("no.txt.gz", b"no gzip at all"),
        ("short.txt.gz", PACKED[: len(PACKED) // 2]),
        ("block.txt.gz", PACKED[:10] + b"\xff" + PACKED[11:]),
        ("damaged.txt.gz", PACKED[: len(PACKED) // 2] + b"\xff" * 50 + PACKED[len(PACKED) // 2 + 50 :]),
        ("sum.txt.gz", PACKED[:-8] + b"\0" * 8),
        ("missing.txt", None),
        ("folder.txt", "folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, tokenizer: TextTokenizer, name: str, content: bytes | str | None
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content == "folder":
        (tmp_path / name).mkdir()
    with pytest.raises(OptionError, match=f"{name} cannot be read"):
        read_corpus([tmp_path / name], tokenizer)


def sentences(seed: int = 3) -> Corpus:
    """Texts that begin with 1 and end with 2, as all do after tokenizing."""
    corpus = tiny_corpus(400, seed=seed, lengths=(4, 7, 11, 30))
    values = corpus.ids.copy()
    values[(values == 1) | (values == 2)] = 3
    values[corpus.offsets[:-1]], values[corpus.offsets[1:] - 1] = 1, 2
    return Corpus(values, corpus.offsets)


@pytest.mark.parametrize("longest", [32, 100, 256])
def test_joined_texts_stand_behind_the_others(longest: int) -> None:
    corpus = sentences()
    joined = with_joined(corpus, 0.5, longest=longest, seed=0)
    assert ids(joined)[: len(corpus)] == ids(corpus)
    added = ids(joined)[len(corpus) :]
    allowed = {length for length in JOINED_LENGTHS if length <= longest}
    assert {len(text) for text in added} <= allowed
    assert longest == 32 or len({len(text) for text in added}) > 1
    tokens = sum(len(text) for text in added)
    assert 0.5 * len(corpus.ids) - longest <= tokens <= 0.5 * len(corpus.ids) + longest
    for text in added:  # one beginning, one end, and nothing of the kind between
        assert (text[0], text[-1]) == (1, 2)
        assert not {1, 2} & set(text[1:-1])


def test_joining_is_fixed_by_its_seed() -> None:
    first, again, other = (with_joined(sentences(), 0.5, longest=64, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.ids, again.ids)
    assert np.array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.ids, other.ids)


@pytest.mark.parametrize(("frac", "longest"), [(0.0, 256), (0.5, 31)])
def test_nothing_is_joined_where_nothing_is_asked_for_or_fits(frac: float, longest: int) -> None:
    joined = with_joined(sentences(), frac, longest=longest, seed=0)
    assert ids(joined) == ids(sentences())


def test_batches_are_of_few_lengths_and_use_each_member_at_most_once() -> None:
    corpus = tiny_corpus(5000, seed=4, lengths=range(3, 40))
    members = np.random.default_rng(0).permutation(5000)[:4300]
    found = batches(corpus, members, tokens=800, seed=0, epoch=0)
    kinds: list[int] = []
    for texts in found:
        lengths = corpus.lengths[texts]
        assert (np.diff(lengths) >= 0).all()
        assert len(texts) >= MIN_BATCH
        assert lengths.sum() <= 800
        kinds.append(len(set(lengths.tolist())))
    assert max(kinds) <= 2 * GROUPS
    assert np.median(kinds) >= GROUPS - 1
    used = np.concatenate(found)
    assert len(set(used.tolist())) == len(used) > len(members) - MIN_BATCH
    assert set(used.tolist()) <= set(members.tolist())
    # Nearly full, but for the last.
    assert np.median([corpus.lengths[texts].sum() for texts in found]) > 700


def test_what_is_too_little_for_a_batch_is_left_out() -> None:
    corpus = tiny_corpus(MIN_BATCH * 3 - 1, seed=4, lengths=(50,))
    found = batches(corpus, np.arange(len(corpus)), tokens=64, seed=0, epoch=0)
    assert [len(texts) for texts in found] == [MIN_BATCH, MIN_BATCH]


def test_long_texts_still_make_batches_of_several() -> None:
    corpus = tiny_corpus(40, seed=4, lengths=(50,))
    found = batches(corpus, np.arange(40), tokens=64, seed=0, epoch=0)
    assert [len(texts) for texts in found] == [MIN_BATCH] * 10


def test_the_order_is_fixed_by_seed_and_epoch() -> None:
    corpus, members = tiny_corpus(300, seed=5), np.arange(300)
    np.random.default_rng(1).shuffle(members)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [texts.tolist() for texts in batches(corpus, members, tokens=60, seed=seed, epoch=epoch)]

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    first = [corpus.lengths[texts].mean() for texts in order(0, 0)]
    assert first != sorted(first)
