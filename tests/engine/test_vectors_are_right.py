"""The vectors are those of all-MiniLM-L6-v2: against a slow, padded float64 computation, and by what they mean."""

import numpy as np
import torch
from safetensors.torch import load
from tokenizers import Tokenizer

from engine.protocol import Encoder
from engine.weights.shipped import MINILM, package_files
from tests.engine.texts import make_texts

HEADS = 12


def reference(texts: list[str], max_tokens: int) -> torch.Tensor:
    """BERT as the paper has it: one padded batch, a mask, float64."""
    files = package_files(MINILM)
    w = {name: value.double() for name, value in load(files["model.safetensors"]).items()}
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    ids = torch.tensor([e.ids for e in encodings])
    mask = torch.tensor([e.attention_mask for e in encodings]).double()
    count, length = ids.shape

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-12)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(count, length, HEADS, -1).permute(0, 2, 1, 3)

    e = "embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.position_embeddings.weight"][:length]
    x = norm(x + w[f"{e}.token_type_embeddings.weight"][0], f"{e}.LayerNorm")
    for number in range(6):
        p = f"encoder.layer.{number}"
        q, k, v = (split(linear(x, f"{p}.attention.self.{n}")) for n in ("query", "key", "value"))
        scores = q @ k.transpose(-1, -2) / (384 / HEADS) ** 0.5
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf)
        mixed = (scores.softmax(-1) @ v).permute(0, 2, 1, 3).reshape(count, length, -1)
        x = norm(x + linear(mixed, f"{p}.attention.output.dense"), f"{p}.attention.output.LayerNorm")
        inner = linear(x, f"{p}.intermediate.dense")
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        x = norm(x + linear(inner, f"{p}.output.dense"), f"{p}.output.LayerNorm")
    mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return mean / mean.norm(dim=1, keepdim=True)


def test_vectors_equal_an_independent_computation(encoder: Encoder) -> None:
    texts = ["", "A man is playing a guitar.", "naïve café 東京 🙂", *make_texts(21, longest=90, seed=3)]
    expected = reference(texts, encoder.max_tokens).numpy()
    assert np.abs(encoder.encode(texts) - expected).max() < 2e-6


def test_rows_are_unit_float32(encoder: Encoder) -> None:
    vectors = encoder.encode(make_texts(40, longest=60, seed=4))
    assert vectors.shape == (40, encoder.dimension)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6


def test_similar_sentences_are_closer(encoder: Encoder) -> None:
    a, b, c, d = encoder.encode(
        [
            "A man is playing a guitar.",
            "Someone plays the guitar.",
            "A dog runs through the snow.",
            "The central bank raised interest rates.",
        ]
    )
    assert a @ b > 0.7
    assert a @ b > a @ c > a @ d


def test_tokens_and_truncation_are_reported(encoder: Encoder) -> None:
    encoding = encoder.embed(["oil", "", "oil " * 62, "oil " * 63, "oil " * 500])
    assert encoding.tokens.tolist() == [3, 2, 64, 64, 64]
    assert encoding.truncated.tolist() == [False, False, False, True, True]
    assert encoding.tokens.dtype == np.int32
    assert encoding.active_frac.tolist() == [1.0] * 5
    assert encoding.routes == [""] * 5
    # What was cut off does not count.
    assert np.array_equal(encoding.vectors[2], encoding.vectors[4])


def test_progress_reaches_the_end(encoder: Encoder) -> None:
    seen: list[tuple[int, int]] = []
    encoder.embed(make_texts(100, longest=60, seed=5), lambda done, total: seen.append((done, total)))
    assert len(seen) > 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (100, 100)
