"""When to stop: what the next labels are worth, read from how much the last ones brought.

Accuracy follows an inverse power law of the number of labels well enough to look one step ahead, and no further: the
estimate is refused where there are too few points, and its interval is that of the fit without each single point.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from active.graph import Floats
from warehouse import SettingsError

POWERS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LEAST_POINTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What some more labels would bring.

    Attributes:
        labels: how many more.
        gain: expected rise of the accuracy, 0 to 1.
        low: smallest rise when none or any one point is left out.
        high: largest rise then.
    """

    labels: int
    gain: float
    low: float
    high: float

    def sentence(self) -> str:
        """In words, in percentage points."""
        return (
            f"The next {self.labels} labels are worth about {100 * self.gain:.1f} points of accuracy "
            f"({100 * self.low:.1f} to {100 * self.high:.1f})."
        )


def outlook(accuracy: Mapping[int, float], labels: int = 100) -> Outlook | None:
    """Look ahead from the learning curve.

    Args:
        accuracy: accuracy on items that were not selected, such as the test split, by number of gold labels.
        labels: how many more labels are thought of.

    Returns:
        The outlook, or None where fewer than four points with labels are known.

    Raises:
        SettingsError: `labels` is below 1.

    Source: the inverse power law of Figueroa et al. (2012), Predicting Sample Size Required for Classification
    Performance; the interval is a jackknife (Efron, Stein 1981).
    """
    if labels < 1:
        raise SettingsError(f"labels of the outlook is {labels}; it must be 1 or more.")
    points = sorted((n, score) for n, score in accuracy.items() if n > 0)
    if len(points) < LEAST_POINTS:
        return None
    counts = np.array([n for n, _ in points], np.float64)
    scores = np.array([score for _, score in points])
    gain = _gain(counts, scores, counts[-1], labels)
    gains = [_gain(np.delete(counts, out), np.delete(scores, out), counts[-1], labels) for out in range(len(points))]
    # On a perfect curve all are equal but for the last bits, which differ between processors.
    return Outlook(labels=labels, gain=gain, low=min(gain, *gains), high=max(gain, *gains))


def _gain(counts: Floats, scores: Floats, now: float, labels: int) -> float:
    """Rise of the best fitting a - b * n^-c between now and then; a is at most 1 and b at least 0."""
    best, gain = np.inf, 0.0
    for power in POWERS:
        shape = counts**-power
        spread = shape - shape.mean()
        slope = max(0.0, -float(spread @ scores) / float(spread @ spread))
        level = float(scores.mean()) + slope * float(shape.mean())
        error = float(((scores - level + slope * shape) ** 2).sum())
        if error < best:
            best, gain = error, slope * (now**-power - (now + labels) ** -power)
            gain = max(0.0, min(gain, 1.0 - level + slope * now**-power))
    return gain
