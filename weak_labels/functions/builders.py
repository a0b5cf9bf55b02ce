"""Labeling functions without Python loops: `keywords`, `regex`, `nearest`, and `vectorized` for one's own columns.

Patterns run in RE2 through pyarrow, whose time grows with the length of the text and never with the pattern's
backtracking, so none of them can hang.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse import SettingsError
from warehouse.numeric import pc
from weak_labels.functions import arguments
from weak_labels.functions.call import NotAVote
from weak_labels.functions.types import ABSTAIN, ItemBatch, LabelingFunction, Votes
from weak_labels.functions.version import fingerprint

Mask = npt.NDArray[np.bool_]

# What separates words: anything but these blocks of letters and digits. RE2's own \b takes every letter outside ASCII
# for a sign, and \p{L}, which knows them all, takes 1.4 ms to compile in each of thousands of calls (this: 0.03 ms).
_SIGN = (
    r"[^0-9A-Za-z_"
    r"\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{37D}\x{37F}-\x{386}\x{388}-\x{559}\x{560}-\x{588}\x{58A}-\x{60B}"
    r"\x{620}-\x{669}\x{66E}-\x{6D3}\x{6D5}-\x{963}\x{966}-\x{1FFF}\x{2C00}-\x{2DFF}"
    r"\x{3040}-\x{30FA}\x{30FC}-\x{31FF}\x{321F}-\x{FD3D}\x{FD50}-\x{FDFB}\x{FE20}-\x{FE2F}\x{FE70}-\x{FEFC}"
    r"\x{FF10}-\x{FF19}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10000}-\x{1EFFF}\x{20000}-\x{3FFFF}]"
)
# The signs inside these blocks that stand beside words of Hebrew and Ethiopic; asked for such words only.
_SIGN_OF_THEIRS = rf"(?:{_SIGN}|[\x{{5BE}}\x{{5C0}}\x{{5C3}}\x{{5C6}}\x{{5F3}}\x{{5F4}}\x{{1360}}-\x{{1368}}])"
_WITH_SIGNS = re.compile("[\u0590-\u05ff\u1200-\u139f\u2d80-\u2ddf\uab00-\uab2f]")
# What stands without a space beside words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese; emoji and their signs.
_RUNS_ON = re.compile(
    "[\u0e01-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u20e3\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff]"
)
_SPACES = r"[\s\x{B}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]+"
"""White space as Python knows it; RE2's own \\s is that of ASCII, and texts from web pages have no-break spaces."""
_DOTTED = "i\u0307"
"""What Python's lower() makes of the Turkish İ."""
_EMOJI_SIGN = "\ufe0f"
"""Asks for the coloured form of a sign such as ❤; some keyboards leave it out."""
_APOSTROPHE = r"[\x{27}\x{2019}\x{2BC}]"
"""Phones and word processors write ’ where people type '."""
_CAPITALS = {"ß": "SS", "ı": "I"}
"""Capitals that RE2 does not take for those of a small letter. They are matched as capitals only: ss is not ß."""


def keywords(
    label: str, words: Collection[str], *, min_hits: int = 1, name: str | None = None, description: str = ""
) -> LabelingFunction:
    """Vote for a class where words or phrases occur, whole and in any case.

    In scripts that put no space between words (Chinese, kana, Thai, Lao, Tibetan, Burmese, Khmer) they may stand
    anywhere, so a short one occurs inside longer words too. So may emoji.

    Args:
        label: class to vote for.
        words: words or phrases; a space in a phrase stands for any white space.
        min_hits: how many different ones of them must occur.
        name: name of the function; the variable's when left out.
        description: what it says about the items; the words when left out.

    Raises:
        SettingsError: no words, an empty one, no list of texts, or `min_hits` outside 1 to the number of words.
    """
    arguments.text(label, "A class that a keywords function votes for")  # else the words, which follow, look wrong
    where = f"keywords('{label}', ...)"
    by_form: dict[str, str] = {}  # "é" of one character and of two is one word, as "don't" and "don’t" are
    for word in arguments.texts(words, "words", f"{where}: "):
        word = " ".join(word.split()).lower()
        by_form.setdefault(_straight(unicodedata.normalize("NFC", word)), word)
    words = tuple(by_form.values())
    if not words or not all(words):
        raise SettingsError(f"{where}: the list of words is empty or holds an empty word.")
    arguments.whole(min_hits, f"{where}: min_hits")
    if not 1 <= min_hits <= len(words):
        raise SettingsError(
            f"{where}: min_hits is {min_hits}, but there are {len(words)} words. Give 1 to {len(words)}."
        )
    apart = min_hits == 1 or _stand_apart(words)
    enough = _whole_words(words, times=min_hits if apart else 1)
    each_of_them = [_whole_words([word]) for word in words]
    _check_pattern(enough, where)

    def rule(batch: ItemBatch) -> Votes:
        hit = _matches(batch.text_array, enough)
        if min_hits > 1:
            # The words may be there; how many different ones is asked of these few texts only.
            rows = np.flatnonzero(hit)
            hit[rows] = _different(batch.text_array.take(pa.array(rows)), each_of_them) >= min_hits
        return _vote_where(hit, batch.class_id(label))

    return LabelingFunction(
        name=name or "",
        kind="keywords",
        version=fingerprint("keywords", label, words, min_hits, *(() if apart else ("overlap",)), *_scripts(words)),
        rule=rule,
        description=description or f"{min_hits} of: {', '.join(words)}",
        labels=(label,),
        screen=_whole_words(words),
    )


def regex(label: str, pattern: str, *, name: str | None = None, description: str = "") -> LabelingFunction:
    """Vote for a class where a regular expression matches somewhere in the text.

    Args:
        label: class to vote for.
        pattern: in RE2 syntax, taken as it is; begin it with `(?i)` to ignore case.
        name: name of the function; the variable's when left out.
        description: what it says about the items; the pattern when left out.

    Raises:
        SettingsError: RE2 does not understand the pattern, or it is no text.

    Source: https://github.com/google/re2/wiki/Syntax
    """
    where = f"regex('{label}', ...)"
    _check_pattern(arguments.text(pattern, f"{where}: the pattern"), where)
    # What \Q quotes has no end before \E, so it would swallow the patterns behind it.
    screen = "" if r"\Q" in pattern else pattern

    def rule(batch: ItemBatch) -> Votes:
        return _vote_where(_matches(batch.text_array, pattern), batch.class_id(label))

    return LabelingFunction(
        name=name or "",
        kind="regex",
        version=fingerprint("regex", label, pattern, *(() if screen else ("alone",))),
        rule=rule,
        description=description or pattern,
        labels=(label,),
        screen=screen,
    )


def nearest(
    exemplars: Mapping[str, Collection[str]], *, radius: float, name: str | None = None, description: str = ""
) -> LabelingFunction:
    """Vote for the class of the nearest exemplar text, where it is near enough.

    Args:
        exemplars: class name -> texts that are typical of it; they are embedded like the items.
        radius: largest cosine distance (1 - cosine) at which it votes, above 0 and at most 2.
        name: name of the function; the variable's when left out.
        description: what it says about the items.

    Raises:
        SettingsError: no exemplars, an empty one, no lists of texts by class, or a radius outside its range.
    """
    given = arguments.by_name(exemplars, "nearest(...): exemplars", '{"bug": ["it crashes"]}')
    listed = {
        label: arguments.texts(members, f"exemplars of {label!r}", "nearest(...): ") for label, members in given.items()
    }
    labels = [label for label, texts in listed.items() for _ in texts]
    texts = [text for texts in listed.values() for text in texts]
    if not texts or not all(text.strip() for text in texts):
        raise SettingsError("nearest(...): there are no exemplars, or one of them is empty.")
    arguments.number(radius, "nearest(...): radius")
    if not 0 < radius <= 2:
        raise SettingsError(f"nearest(...): radius is {radius}; it must be above 0 and at most 2 (cosine distance).")

    def rule(batch: ItemBatch) -> Votes:
        if batch.encode is None:
            raise SettingsError("nearest: this batch has no encoder. Give it the one that made its vectors: encode=...")
        # float64, so that the rounding of another batch size does not decide a vote.
        likeness = batch.vectors.astype(np.float64) @ batch.encode(texts).astype(np.float64).T  # [N, exemplars]
        best = likeness.argmax(axis=1)
        near = 1 - likeness[np.arange(len(batch)), best] <= radius
        class_ids = np.array([batch.class_id(label) for label in labels], np.int32)
        return np.where(near, class_ids[best], np.int32(ABSTAIN)).astype(np.int32)

    return LabelingFunction(
        name=name or "",
        kind="nearest",
        version=fingerprint("nearest", labels, texts, radius),
        rule=rule,
        description=description or f"nearest of {len(texts)} exemplars within cosine distance {radius:g}",
        labels=tuple(dict.fromkeys(labels)),
        uses_vectors=True,
        exemplars=tuple(texts),
    )


def vectorized(
    label: str | None = None, *, vectors: bool = False, name: str | None = None
) -> Callable[[Callable[[ItemBatch], Any]], LabelingFunction]:
    """Make a labeling function of one's own code that works on whole columns.

    The code takes an `ItemBatch` of N items and says something about each of them from that item alone: items come
    in batches of any size. With a label it returns N truth values, and votes for the class where they are true.
    Without, it returns N votes: class names, class numbers, or `ABSTAIN`.

    Args:
        label: class to vote for.
        vectors: the code reads `batch.vectors`.
        name: name of the function; the decorated function's when left out.

    Raises:
        SettingsError: the parentheses are missing, as in `@vectorized` alone.
    """
    if callable(label):
        raise SettingsError('Write @vectorized("class") or @vectorized(), with parentheses.')

    def decorate(code: Callable[[ItemBatch], Any]) -> LabelingFunction:
        def rule(batch: ItemBatch) -> Any:
            given = code(batch)
            return given if label is None else _vote_where(_as_mask(given), batch.class_id(label))

        made_of = ("vectorized", label, code)
        return LabelingFunction(
            name=name or getattr(code, "__name__", ""),  # a functools.partial has none
            kind="vectorized",
            version=fingerprint(*made_of, as_loaded=True),
            made_of=made_of,
            rule=rule,
            description=(code.__doc__ or "").strip(),
            labels=() if label is None else (label,),
            uses_vectors=vectors,
        )

    return decorate


def _vote_where(mask: Mask, class_id: int) -> Votes:
    return np.where(mask, np.int32(class_id), np.int32(ABSTAIN))


def _as_mask(given: Any) -> Mask:
    mask = np.asarray(given.to_pylist() if isinstance(given, pa.Array | pa.ChunkedArray) else given)
    if mask.dtype != np.bool_:
        raise NotAVote(
            "not_a_vote",
            f"returned {mask.dtype} values where truth values are expected; return a list of True and False, or leave "
            "the class out of @vectorized() to return votes",
        )
    return mask


def _matches(texts: pa.Array, pattern: str) -> Mask:
    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False).astype(np.bool_)


def _different(texts: pa.Array, patterns: Sequence[str]) -> npt.NDArray[np.int32]:
    """How many of the patterns match each text [N]."""
    counts = np.zeros(len(texts), np.int32)
    for pattern in patterns:
        counts += _matches(texts, pattern)
    return counts


def _whole_words(words: Sequence[str], times: int = 1) -> str:
    """A pattern for so many occurrences of whole words; two may share the sign between them."""
    sign = _SIGN_OF_THEIRS if any(map(_WITH_SIGNS.search, words)) else _SIGN
    before, behind = f"(?:^|{sign})", f"(?:$|{sign})"
    if any(map(_runs_on, words)):
        sides = [("" if _RUNS_ON.match(w[0]) else before, "" if _RUNS_ON.match(w[-1]) else behind) for w in words]
        return "(?is)(?:" + "|".join(a + _pattern(w) + b for w, (a, b) in zip(words, sides, strict=True)) + ")"
    pattern = "|".join(map(_pattern, words))
    between = rf"{sign}(?:.*?{sign})?"
    more = f"(?:{between}(?:{pattern})){{{times - 1}}}" if times > 1 else ""
    return f"(?is){before}(?:{pattern}){more}{behind}"


def _pattern(word: str) -> str:
    patterns = [_SPACES.join(_escape(part) for part in form.split()) for form in _forms(_straight(word))]
    pattern = patterns[0] if len(patterns) == 1 else f"(?:{'|'.join(patterns)})"
    pattern = pattern.replace(_escape(_DOTTED), r"(?:i\x{307}?|\x{130})")
    pattern = pattern.replace(_escape(_EMOJI_SIGN), r"\x{fe0f}?").replace(_escape("'"), _APOSTROPHE)
    return "".join(f"(?:{c}|(?-i:{_CAPITALS[c]}))" if c in _CAPITALS else c for c in pattern)


def _straight(word: str) -> str:
    """A word with its apostrophes as keyboards have them."""
    return re.sub("[’ʼ]", "'", word)


def _forms(word: str) -> list[str]:
    """A word as it is, with its accents as parts of their letters, and with them apart: texts have either."""
    return list(dict.fromkeys([word, *(unicodedata.normalize(form, word) for form in ("NFC", "NFD"))]))


def _runs_on(word: str) -> bool:
    return bool(_RUNS_ON.match(word[0]) or _RUNS_ON.match(word[-1]))


def _scripts(words: Sequence[str]) -> list[str]:
    """What the pattern does for the scripts and spaces of some words, for the version; it changes where votes may."""
    found = {
        "signs": any(map(_WITH_SIGNS.search, words)),
        "runs on": any(map(_runs_on, words)),
        "dotted": any(_DOTTED in word for word in words),
        "capitals": any(letter in word for word in words for letter in _CAPITALS),
        "forms": any(len(_forms(word)) > 1 for word in words),
        "apostrophes": any("'" in _straight(word) for word in words),
        "spaces": any(" " in word for word in words),
        "signs 2": not all(_RUNS_ON.match(word[0]) and _RUNS_ON.match(word[-1]) for word in words),
    }
    return [name for name, there in found.items() if there]


def _stand_apart(words: Sequence[str]) -> bool:
    """Whether no two of the words can share a part of the text, as "new york" and "york city" can."""
    if any(map(_runs_on, words)):
        return False
    parts = [word.casefold().split() for word in words]
    if not all(part.replace("_", "a").isalnum() for word in parts for part in word):
        return False
    return not any(
        first[shift : shift + len(second)] == second[: len(first) - shift]
        for first, second in permutations(parts, 2)
        for shift in range(len(first))
    )


def _escape(text: str) -> str:
    # Python escapes a space and a few more signs in a way that RE2 refuses for letters only; \x{...} suits both.
    return "".join(c if c.isalnum() or c == "_" else f"\\x{{{ord(c):x}}}" for c in text)


def _check_pattern(pattern: str, where: str) -> None:
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        reason = re.sub(r"^Invalid regular expression: ", "", str(error))
        raise SettingsError(
            f"{where}: RE2 refuses the pattern {pattern!r}: {reason}. It knows no lookaround and no backreferences; "
            "see https://github.com/google/re2/wiki/Syntax"
        ) from error
