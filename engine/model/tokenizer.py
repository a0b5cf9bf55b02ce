"""Texts to token ids: the model's own tokenizer with a length limit and checked input."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from engine.errors import InputError, ModelFileError

CHARACTERS_A_TOKEN = 8
"""A text is read so far at first; few have longer words, and those are read whole then."""
_AT_BLANKS = frozenset({"BertPreTokenizer", "WhitespaceSplit"})
_BY_CHARACTERS = frozenset({None, "BertNormalizer", "Lowercase"})
_STEPS = {
    "normalizer": frozenset(
        {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Strip", "StripAccents"}
    ),
    "pre_tokenizer": frozenset(
        {"BertPreTokenizer", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "UnicodeScripts"}
        | {"Whitespace", "WhitespaceSplit"}
    ),
}
"""Steps before the tokens whose time goes by a text's length, and which do not multiply it where they are repeated."""
_ONCE = frozenset({"ByteLevel", "Precompiled"})
"""Such as make a text some times longer each time: of RoBERTa and of XLM-R."""
_LONGEST_FORM = 64
"""Bytes that a character may become in a `Precompiled` table; Unicode's own have 33."""
_SPARE = 128
"""A table of tokens may have fewer rows than this behind the last token: some fill it up to a round number."""
LONGEST_WORD = 1000
"""Characters of a word that is cut into pieces, which takes the cube of them; BERT's have 100."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one text, [CLS] and [SEP] included; `truncated` when the text had more.

    `unread` is the share of its tokens with letters that tell the model next to nothing: those of what is not in its
    vocabulary, and letters of a word that stand alone, into which words of a foreign script and random ids fall.
    """

    ids: list[int]
    truncated: bool
    unread: float


class TextTokenizer:
    """Turns texts into token ids. Safe to use from several threads.

    Args:
        content: the model's tokenizer.json.
        vocab: number of token ids that the model knows.
        max_tokens: longest sequence, [CLS] and [SEP] included.

    Raises:
        ModelFileError: the file is not a tokenizer, or not the one of this model.
    """

    def __init__(self, content: bytes, *, vocab: int, max_tokens: int) -> None:
        try:
            read = json.loads(content)
            odd = _unbounded(read)
            if odd is None:
                self._tokenizer = Tokenizer.from_str(content.decode("utf-8"))
                self._may_cut = _parts_at_blanks(read)
        except Exception as error:  # the library raises bare Exception
            raise ModelFileError(f"tokenizer.json cannot be read: {error}.") from error
        if odd is not None:
            raise ModelFileError(
                f"tokenizer.json has {odd}, which may take any time and memory for a text, or give other vectors each "
                "time. Take a model with BERT's own tokenizer."
            )
        # The file carries a padding to 128 tokens and a cut at 128; both would change what is encoded.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = max_tokens
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if not vocab - _SPARE < size <= vocab:
            raise ModelFileError(
                f"tokenizer.json has {size} tokens, the model has {vocab}. They belong to two models, or the model has "
                "rows to spare: transformers' model.resize_token_embeddings(len(tokenizer)) takes them away."
            )
        places = self._tokenizer.get_vocab(with_added_tokens=True)
        largest = max(places.values(), default=0)
        if largest >= vocab:
            raise ModelFileError(
                f"tokenizer.json has a token with the id {largest}, the model's go up to {vocab - 1}. They belong to "
                "two models."
            )
        self._first, self._last = self._frame()
        special = {place for place, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        self._has_letters, self._unread = np.zeros(vocab, np.bool_), np.zeros(vocab, np.bool_)
        for token, place in places.items():
            bare = place not in special and not token.startswith("[")
            self._has_letters[place] = bare and any(map(str.isalpha, token))
            self._unread[place] = token.startswith("##") and len(token) == 3 and token[2].isalpha()
        if (unknown := _unknown(read["model"], self._tokenizer)) is not None:
            self._has_letters[unknown] = self._unread[unknown] = True

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text. A text without a single token, such as an empty one, is [CLS] [SEP].

        Args:
            texts: N texts that `check_texts` has let through.

        Raises:
            ModelFileError: the tokenizer has no token for what it does not know.
        """
        room = self._max_tokens - 2
        beginnings = [self._beginning(text, room) for text in texts]
        found = self._ids(beginnings)
        again = [
            place
            for place, (begin, text) in enumerate(zip(beginnings, texts, strict=True))
            if len(begin) < len(text) and len(found[place]) <= room
        ]
        for place, ids in zip(again, self._ids([texts[place] for place in again]), strict=True):
            found[place] = ids
        return [
            Tokens([self._first, *ids[:room], self._last], truncated=len(ids) > room, unread=self._share(ids[:room]))
            for ids in found
        ]

    def _frame(self) -> tuple[int, int]:
        """The tokens before and behind a text: the file's, or BERT's where it says nothing of that.

        Raises:
            ModelFileError: there are none, or more than one on a side.
        """
        if self._tokenizer.post_processor is None:
            first, last = self._tokenizer.token_to_id("[CLS]"), self._tokenizer.token_to_id("[SEP]")
            if first is None or last is None:
                raise ModelFileError("tokenizer.json lacks the tokens [CLS] and [SEP].")
            return int(first), int(last)
        framed: list[int] = []
        for text in ("a", ""):
            try:
                bare, framed = (self._tokenizer.encode(text, add_special_tokens=more).ids for more in (False, True))
            except Exception as error:  # as above
                raise ModelFileError(f"tokenizer.json cannot be used: {error}.") from error
            if len(framed) != len(bare) + 2 or framed[1:-1] != bare:
                around = [self._tokenizer.id_to_token(number) for number in framed]
                raise ModelFileError(
                    f"tokenizer.json makes of the text {text!r} the tokens {around}; this encoder puts one token, such "
                    "as [CLS], before a text and one, such as [SEP], behind it. Take a model with BERT's own tokenizer."
                )
        return framed[0], framed[1]

    def _share(self, ids: list[int]) -> float:
        places = np.array(ids, np.int64)
        return float(self._unread[places].sum() / max(1, np.count_nonzero(self._has_letters[places])))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        except Exception as error:  # as above
            raise ModelFileError(f"tokenizer.json cannot be used: {error}.") from error

    def _beginning(self, text: str, room: int) -> str:
        """As much of a text as is likely to fill the room, up to a blank: its tokens are the first of the text's."""
        most = CHARACTERS_A_TOKEN * room
        if len(text) <= most or not self._may_cut:
            return text
        blank = max(text.rfind(" ", 0, most), text.rfind("\n", 0, most))
        return text[:blank] if blank > 0 else text


def _unbounded(tokenizer: dict[str, Any]) -> str | None:
    """What may need more than a few times a text's length, or is drawn by lot; None where nothing is so."""
    once: set[str] = set()
    for name, known in _STEPS.items():
        left: list[Any] = [tokenizer.get(name)]
        while left:
            step: dict[str, Any] = left.pop() or {"type": "Sequence"}
            if step["type"] == "Sequence":
                left += [*step.get("normalizers", ()), *step.get("pretokenizers", ())]
            elif step["type"] in _ONCE - once and _is_short(step):
                once.add(step["type"])
            elif step["type"] not in known and not _makes_no_longer(step):
                return f"the {name} {step['type']!r}"
    model = tokenizer.get("model") or {}
    if model.get("dropout"):
        return f"a dropout of {model['dropout']}"
    longest = model.get("max_input_chars_per_word", 0)
    return None if longest <= LONGEST_WORD else f"words of up to {longest} characters"


def _is_short(step: dict[str, Any]) -> bool:
    """Whether a table of characters makes none of them long: a tree of so many bytes, then what each becomes."""
    if step["type"] != "Precompiled":
        return True
    table = base64.b64decode(step["precompiled_charsmap"] or "")
    forms = table[4 + int.from_bytes(table[:4], "little") :]
    return max(map(len, forms.split(b"\0"))) <= _LONGEST_FORM


def _unknown(model: dict[str, Any], tokenizer: Tokenizer) -> int | None:
    """The token of what is not in the vocabulary."""
    name = model.get("unk_token")
    return model.get("unk_id") if name is None else tokenizer.token_to_id(name)


def _makes_no_longer(step: dict[str, Any]) -> bool:
    """Whether a step looks for a plain text, or for blanks as XLM-R does, and puts no longer one in its place."""
    if step["type"] == "Replace" and step["pattern"].get("Regex") == " {2,}":
        return step["content"] in (" ", "\u2581")
    text = step["pattern"].get("String") if step["type"] in ("Replace", "Split") else None
    return text is not None and len(step.get("content", "").encode()) <= len(text.encode())


def _parts_at_blanks(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer makes the same tokens of what stands before a blank, whatever stands behind it."""
    parts = [(tokenizer.get(name) or {}).get("type") for name in ("pre_tokenizer", "normalizer")]
    odd = [
        token
        for token in tokenizer.get("added_tokens") or ()
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word") or len(token["content"].split()) != 1
    ]
    return parts[0] in _AT_BLANKS and parts[1] in _BY_CHARACTERS and not odd


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list, when all of them can be encoded.

    Raises:
        InputError: the argument is one string, no list or a table, or some texts are no text or hold lone surrogates;
            `reasons` says which.
    """
    if isinstance(texts, str | bytes):
        raise InputError("The texts are one string; pass a list: encode([text]).")
    if isinstance(texts, Mapping) or getattr(texts, "ndim", 1) != 1:  # else their keys or columns would be the texts
        raise InputError(f"The texts are a {type(texts).__name__}; pass one column of it: encode(frame['text']).")
    if to_list := getattr(texts, "to_pylist", None):  # a column of Arrow's, whose elements are no str
        texts = to_list()
    if not isinstance(texts, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  as below
        raise InputError(f"The texts are {texts!r}; pass a list: encode([text]).")
    texts = list(texts)  # what can be read only once is as good
    reasons: dict[int, str] = {}
    for index, text in enumerate(texts):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  callers without types exist
            reasons[index] = f"{type(text).__name__} instead of text"
        elif not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                reasons[index] = f"a lone surrogate at character {error.start}, which no Unicode text may hold"
    if reasons:
        shown = "; ".join(f"text {index}: {reason}" for index, reason in list(reasons.items())[:5])
        more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        raise InputError(f"{len(reasons)} of {len(texts)} texts cannot be encoded: {shown}{more}.", reasons)
    return texts
