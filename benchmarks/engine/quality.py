"""Quality of the encoder by budget: similarity, closeness to the parent's vectors, shared neighbours, share that works.

Shape letters: N texts, D width, K neighbours, Q queries.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.data.pairs import Pairs
from benchmarks.data.unseen import Data
from benchmarks.engine.subjects import Subject, Subjects, embedding_params, layer_params
from benchmarks.harness import Figures
from engine.model.config import RoutedConfig
from engine.model.dense import DenseEncoder
from engine.model.trace import dense_multiplications
from engine.protocol import Encoding, Vectors

NEIGHBOURS = 10
QUERIES = 1000
RESAMPLES = 400


def quality(subjects: Subjects, data: Data, *, seed: int) -> Figures:
    """Figures of every encoder at every budget, all against the dense parent on the same texts."""
    texts = data.everything()
    places = {text: place for place, text in enumerate(texts)}
    parent_encoding = subjects.dense.client.encode(texts, trace=True)
    parent_ND = parent_encoding.vectors
    gold = {name: np.array([score for _, _, score in pairs]) for name, pairs in data.pairs.items()}
    parent = {name: _similarities(parent_ND, pairs, places) for name, pairs in data.pairs.items()}
    queries_Q = np.random.default_rng(seed).permutation(len(texts))[:QUERIES]
    points: list[Figures] = []
    for subject in subjects.all():
        encoding = parent_encoding if subject.file is None else subject.client.encode(texts, trace=True)
        vectors_ND = encoding.vectors
        sts = {
            name: _sts(_similarities(vectors_ND, pairs, places), parent[name], gold[name], seed)
            for name, pairs in data.pairs.items()
        }
        cosine_N = np.einsum("nd,nd->n", vectors_ND, parent_ND)
        by_set = {name: cosine_N[[places[text] for text in own]].mean() for name, own in data.texts.items() if own}
        recall = _recall(vectors_ND, parent_ND, queries_Q), _recall(parent_ND, vectors_ND, queries_Q)
        found = {"sts": sts, "cosine": {"mean": _4(cosine_N.mean()), "p05": _4(np.quantile(cosine_N, 0.05))}}
        found["cosine_by_set"] = {name: _4(value) for name, value in by_set.items()}
        found["recall_10"] = {"parent_index": _4(recall[0]), "own_index": _4(recall[1])}
        points.append({**subject.facts(), **_shares(subject, encoding, subjects.dense), **found})
    return {
        "texts": {name: len(own) for name, own in data.texts.items()},
        "seen": data.seen,
        "distinct_texts": len(texts),
        "pairs": {name: len(pairs) for name, pairs in data.pairs.items()},
        "queries": len(queries_Q),
        "seed": seed,
        "points": points,
    }


def _4(value: Any) -> float:
    return round(float(value), 4)


def _similarities(vectors_ND: Vectors, pairs: Pairs, places: Mapping[str, int]) -> np.ndarray:
    # An empty sentence is no text of the benchmark; its pair counts as unlike.
    known = [(places.get(first), places.get(second)) for first, second, _ in pairs]
    return np.array(
        [0.0 if a is None or b is None else float(vectors_ND[a] @ vectors_ND[b]) for a, b in known], np.float64
    )


def _sts(found_N: np.ndarray, parent_N: np.ndarray, gold_N: np.ndarray, seed: int) -> Figures:
    """Spearman, and its share of the parent's with a 95% interval over resampled pairs."""
    own, parents = _spearman(found_N, gold_N), _spearman(parent_N, gold_N)
    generator = np.random.default_rng(seed)
    shares: list[float] = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(len(gold_N), size=len(gold_N))
        gold = gold_N[chosen]
        shares.append(_spearman(found_N[chosen], gold) / _spearman(parent_N[chosen], gold))
    low, high = np.quantile(shares, [0.025, 0.975])
    return {"spearman": _4(own), "of_parent": _4(own / parents), "interval": [_4(low), _4(high)]}


def _spearman(first_N: np.ndarray, second_N: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(first_N), rankdata(second_N))[0, 1])


def _recall(queries_ND: Vectors, index_ND: Vectors, chosen_Q: np.ndarray) -> float:
    """How many of the nearest neighbours that the index's own vectors have are found with other vectors' queries."""
    wanted_QK = _neighbours(index_ND, index_ND, chosen_Q)
    found_QK = _neighbours(queries_ND, index_ND, chosen_Q)
    shared = [len(set(a) & set(b)) for a, b in zip(wanted_QK.tolist(), found_QK.tolist(), strict=True)]
    return float(np.mean(shared)) / wanted_QK.shape[1]


def _neighbours(queries_ND: Vectors, index_ND: Vectors, chosen_Q: np.ndarray) -> np.ndarray:
    similarity_QN = queries_ND[chosen_Q] @ index_ND.T
    similarity_QN[np.arange(len(chosen_Q)), chosen_Q] = -np.inf  # a text is no neighbour of itself
    count = min(NEIGHBOURS, len(index_ND) - 1)
    return np.argpartition(-similarity_QN, count - 1, axis=1)[:, :count]


def _shares(subject: Subject, encoding: Encoding, dense: Subject) -> dict[str, float]:
    """What worked, as shares of the dense parent; of all parameters, the embedding table counts as working whole."""
    assert isinstance(dense.model, DenseEncoder)
    layers, embeddings = layer_params(dense.model), embedding_params(dense.model)
    if isinstance(subject.model, DenseEncoder):  # all of it works for every token
        texts = tokens = touched = multiplications = layer_params(subject.model) / layers
    else:
        config = subject.model.config
        # A control may have been cut from another parent; all shares are of the one measured here.
        active_N = encoding.active_frac * (config.parent_layer_params / layers)
        routes = [json.loads(route) for route in encoding.routes]
        texts = float(active_N.mean())
        tokens = float(np.average(active_N, weights=encoding.tokens))
        touched = float(np.mean([_touched(config, route) for route in routes])) / layers
        whole = sum(dense_multiplications(config, int(length)) for length in encoding.tokens)
        multiplications = sum(route["multiplications"] for route in routes) / whole
    return {
        "layer_share": _4(texts),
        "layer_share_by_token": _4(tokens),
        "layer_share_touched": _4(touched),
        "all_share": _4((texts * layers + embeddings) / (layers + embeddings)),
        "multiplications_share": _4(multiplications),
    }


def _touched(config: RoutedConfig, route: Mapping[str, Any]) -> float:
    """Layer parameters that work for at least one token of a text."""
    heads = sum(len(layer) for layer in route["heads"])
    experts = sum(sum(1 for count in layer if count) for layer in route["experts"])
    fixed = len(config.kept) * config.fixed_params
    return fixed + heads * config.head_params + experts * config.expert_params


def same_bits(subjects: Subjects, texts: list[str], *, batchings: int, seed: int) -> Figures:
    """Encode texts at the main budget, cut into random batches in random order again and again; compare every bit."""
    subject = subjects.main()[1]
    generator = np.random.default_rng(seed)
    expected_ND = subject.client.encode(texts)
    different = np.zeros(len(texts), np.int64)
    sizes: list[int] = []
    for _ in range(batchings):
        order = generator.permutation(len(texts))
        start = 0
        while start < len(order):
            # As many batches of 1 to 3 texts as of 600 to 2,000.
            size = int(np.exp(generator.uniform(0, np.log(2000))))
            members = order[start : start + size]
            found_BD = subject.client.encode([texts[number] for number in members])
            bits = found_BD.view(np.uint32) != expected_ND[members].view(np.uint32)
            different[members] += bits.any(axis=1)
            sizes.append(len(members))
            start += size
    return {
        **subject.facts(),
        "encoder_id": subject.client.encoder_id,
        "precision": "float32",
        "texts": len(texts),
        "batchings": batchings,
        "batches": len(sizes),
        "batch_sizes": [min(sizes), int(np.median(sizes)), max(sizes)],
        "different": int(different.sum()),
        "seed": seed,
    }
