"""The two request schemas and their answers: OpenAI's embeddings and text-embeddings-inference's embed.

Requests are checked by hand, field by field: pydantic would copy every text once more and says less.
"""

import base64
from dataclasses import dataclass
from typing import Any, cast

import orjson

from engine.model.tokenizer import Tokens
from engine.runtime.request import Answer
from engine.serving.statuses import Refusal


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for. Attributes: texts; base64 instead of numbers; routes and token counts as well."""

    texts: list[str]
    base64: bool = False
    trace: bool = False


def read_json(body: bytes) -> dict[str, Any]:
    """The body as an object; clients send null for a field that they leave out. Raises: Refusal 400."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"The body is not JSON, which is read in UTF-8 and not packed: {error}.") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"The body is a JSON {type(value).__name__}; send an object.")
    return {name: given for name, given in cast("dict[str, Any]", value).items() if given is not None}


def read_openai(values: dict[str, Any], *, names: tuple[str, ...], dimension: int, max_inputs: int) -> Wanted:
    """A request of `POST /v1/embeddings`.

    Args:
        values: the body.
        names: of the model served.
        dimension: D.
        max_inputs: most texts.

    Raises:
        Refusal: 400, 404 or 413.
    """
    model = values.get("model", names[0])
    if model not in names:
        raise Refusal(404, f"There is no model {_shown(model)} here; served is {' or '.join(map(repr, names))}.")
    wants = values.get("encoding_format", "float")
    if wants not in ("float", "base64"):
        raise Refusal(400, f"encoding_format is {_shown(wants)}; it can be 'float' or 'base64'.")
    _check_dimensions(values, dimension)
    texts = _texts(values, "input", max_inputs)
    return Wanted(texts, base64=wants == "base64", trace=_flag(values, "trace", default=False))


def read_tei(values: dict[str, Any], *, dimension: int, max_inputs: int) -> Wanted:
    """A request of `POST /embed`; arguments as in `read_openai`. Raises: Refusal 400 or 413."""
    if not _flag(values, "normalize", default=True):
        raise Refusal(400, "normalize is false; vectors of this server are always of length 1.")
    if not _flag(values, "truncate", default=True):
        raise Refusal(400, "truncate is false; texts longer than max_tokens of /info are always cut.")
    side = values.get("truncation_direction", "Right")
    if side not in ("Right", "right"):
        raise Refusal(400, f"truncation_direction is {_shown(side)}; long texts are cut on the right.")
    if "prompt_name" in values:
        raise Refusal(400, "prompt_name is given, and this model has no prompts by name; put the words into the texts.")
    _check_dimensions(values, dimension)
    return Wanted(_texts(values, "inputs", max_inputs))


def _check_dimensions(values: dict[str, Any], dimension: int) -> None:
    wanted = values.get("dimensions", dimension)
    if wanted != dimension:
        raise Refusal(400, f"dimensions is {_shown(wanted)}; vectors of this model have {dimension}.")


def _texts(values: dict[str, Any], name: str, max_inputs: int) -> list[str]:
    if name not in values:
        raise Refusal(400, f"The field '{name}' is missing: a text, or a list of texts.")
    given = values[name]
    texts = cast("list[object]", given) if isinstance(given, list) else [given]
    if not texts:
        raise Refusal(400, f"'{name}' is an empty list; give one text or more.")
    if len(texts) > max_inputs:
        raise Refusal(413, f"'{name}' holds {len(texts)} texts; at most {max_inputs} go into a request.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise Refusal(400, f"'{name}' holds a {type(text).__name__} at place {index}; texts are strings.")
    return cast("list[str]", texts)


def _shown(value: object) -> str:
    """What a field holds, for a message; a list or an object by its kind, as one may be too deep to be printed."""
    if isinstance(value, list | dict):
        return f"a JSON {type(cast('object', value)).__name__}"
    return repr(value[:80] if isinstance(value, str) else value)


def _flag(values: dict[str, Any], name: str, *, default: bool) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"'{name}' is a {type(value).__name__}; it can be true or false.")
    return value


def openai_answer(wanted: Wanted, answer: Answer, tokens: list[Tokens], *, model: str) -> bytes:
    """The answer of `POST /v1/embeddings` as JSON."""
    count = sum(len(one.ids) for one in tokens)
    data: list[dict[str, object]] = []
    for index, one in enumerate(tokens):
        row = answer.vectors[index]
        vector = base64.b64encode(row.tobytes()).decode() if wanted.base64 else row
        entry: dict[str, object] = {"object": "embedding", "index": index, "embedding": vector}
        if wanted.trace:
            entry |= {
                "tokens": len(one.ids),
                "truncated": one.truncated,
                "unread": one.unread,
                "active_frac": float(answer.active_frac[index]),
                "route": answer.routes[index],
            }
        data.append(entry)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return _json({"object": "list", "data": data, "model": model, "usage": usage})


def tei_answer(answer: Answer) -> bytes:
    """The answer of `POST /embed` as JSON."""
    return _json(list(answer.vectors))


def _json(value: object) -> bytes:
    # It writes a float32 in the fewest digits that read back to the same bits.
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
