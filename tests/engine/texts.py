"""Texts of many lengths for the engine's tests, made from a seed."""

import numpy as np

SENTENCE = (
    "oil wheat profit dividend shares quarter bank trade tariff corn ship tanker export dollar yen interest rate "
    "company board acquires unit billion mln vs net loss said on the of a to in Reuter unquestionably 1,234.5 $9 €"
)


def make_texts(count: int, *, longest: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    words = SENTENCE.split()
    lengths = generator.integers(0, longest, count)
    return [" ".join(generator.choice(words, length)) for length in lengths]
