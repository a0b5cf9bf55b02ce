"""Texts to token ids: the model's WordPiece tokenizer with a length limit and checked input."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from engine.errors import InputError, ModelFileError


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one text, [CLS] and [SEP] included; `truncated` when the text had more."""

    ids: list[int]
    truncated: bool


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
            self._tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ModelFileError(f"tokenizer.json cannot be read: {error}.") from error
        # The file carries a padding to 128 tokens and a cut at 128; both would change what is encoded.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = max_tokens
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if size != vocab:
            raise ModelFileError(f"tokenizer.json has {size} tokens, the model has {vocab}. They belong to two models.")
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= vocab:
            raise ModelFileError(
                f"tokenizer.json has a token with the id {largest}, the model's go up to {vocab - 1}. They belong to "
                "two models."
            )
        first, last = self._tokenizer.token_to_id("[CLS]"), self._tokenizer.token_to_id("[SEP]")
        if first is None or last is None:
            raise ModelFileError("tokenizer.json lacks the tokens [CLS] and [SEP].")
        self._first, self._last = int(first), int(last)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text. A text without a single token, such as an empty one, is [CLS] [SEP].

        Args:
            texts: N texts that `check_texts` has let through.
        """
        room = self._max_tokens - 2
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens: list[Tokens] = []
        for encoding in encodings:
            ids: list[int] = encoding.ids
            tokens.append(Tokens([self._first, *ids[:room], self._last], truncated=len(ids) > room))
        return tokens


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list, when all of them can be encoded.

    Raises:
        InputError: the argument is one string, or some texts are no text or hold lone surrogates; `reasons` says which.
    """
    if isinstance(texts, str | bytes):
        raise InputError("The texts are one string; pass a list: encode([text]).")
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
