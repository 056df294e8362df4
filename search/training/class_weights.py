"""How much each class counts in the loss of training: where some classes have few images, theirs can count more."""

import math

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data.dataset import DataSet

BALANCED = "balanced"


def class_weights(text: str, data: DataSet) -> tuple[float, ...]:
    """Return a weight for each class, by what --class-weights gives: W1,W2,... or "balanced".

    Balanced weights are N / (C n) for N training images of C classes, n of them of the class. So the sum over all
    images is N, as without weights, and every class has the same part in it. A class without images has weight 0.

    Raises:
        BnasError: it is neither, or not a weight for each class, or all are 0.
    """
    classes = data.description.classes
    if text.lower() == BALANCED:
        counts = data.labels()[0].bincount(minlength=classes).tolist()
        return tuple(sum(counts) / (classes * count) if count else 0.0 for count in counts)
    try:
        weights = tuple(map(float, text.split(",")))
    except ValueError:
        raise BnasError(
            f"--class-weights {text}: neither {BALANCED} nor numbers with commas, such as 1,2.5,1"
        ) from None
    if len(weights) != classes:
        names = ", ".join(data.description.class_names[:5]) + (", ..." if classes > 5 else "")
        raise BnasError(
            f"--class-weights {text}: {len(weights)} numbers for {classes} classes ({names}); give one each"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise BnasError(f"--class-weights {text}: weights are finite numbers, none of them negative and not all 0")
    return weights
