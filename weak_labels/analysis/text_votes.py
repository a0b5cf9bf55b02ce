"""What labeling functions say of texts that are no items, and stay outside the warehouse."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from weak_labels.applying.batches import check_services, refused_exemplars
from weak_labels.applying.stage import VoteConfig
from weak_labels.functions.call import Limits, call_function
from weak_labels.functions.types import Ask, Encode, ItemBatch, LabelingFunction, Matrix, Votes


@dataclass(frozen=True, kw_only=True, slots=True)
class TextVotes:
    """Votes on N texts.

    Attributes:
        votes: by name of the function [N]; -1 where it abstains, -2 where it failed.
        failed: by name of those that failed, how often and how first, in words.
    """

    votes: dict[str, Votes]
    failed: dict[str, tuple[int, str]]


def vote_on_texts(
    functions: Sequence[LabelingFunction],
    texts: Sequence[str],
    vectors: Matrix,
    config: VoteConfig,
    *,
    encode: Encode | None = None,
    ask: Ask | None = None,
) -> TextVotes:
    """Call functions on texts, in this process as `preview` does; a text has no metadata.

    Args:
        functions: functions to call.
        texts: N texts.
        vectors: theirs, by the encoder of `config` [N, D].
        config: settings of the vote stage.
        encode: embeds exemplars; needed by `nearest`.
        ask: asks a language model; needed by `prompt`, and paid for.

    Raises:
        SettingsError: a `nearest` function and no `encode`, or a `prompt` function and no `ask`.
    """
    check_services(functions, encode, ask)
    batch = ItemBatch(
        item_ids=pa.array([f"text {number}" for number in range(1, len(texts) + 1)], pa.string()),
        texts=pa.array(texts, pa.string()),
        metadata=pa.array(["{}"] * len(texts), pa.string()),
        classes=config.classes,
        vectors=vectors,
        encode=encode,
        ask=ask,
    )
    votes, failed = dict[str, Votes](), dict[str, tuple[int, str]]()
    for function in functions:
        refused = refused_exemplars(function, encode, len(texts))
        outcome = refused or call_function(function, batch, Limits(timeout_s=config.timeout_s))
        votes[function.name] = outcome.votes
        if outcome.faults:
            first = outcome.faults[0]
            failed[function.name] = len(outcome.faults), f"{first.fault}: {first.detail}"
    return TextVotes(votes=votes, failed=failed)
