"""Numbers for JSON: no more digits than can be seen, and null where there is no number."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

DIGITS = 4


def rounded(values: NDArray[Any] | Tensor, digits: int = DIGITS) -> list[float | None]:
    """``values [n]`` with that many significant digits; None in the place of NaN and infinity."""
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)
    known = np.isfinite(array)
    x = np.where(known, array, 0)
    # fast because it is arithmetic: writing each as text and reading it again takes 20 times as long
    places = digits - 1 - np.floor(np.log10(np.abs(x), where=x != 0, out=np.zeros_like(x)))
    up, down = 10.0 ** np.clip(places, 0, 300), 10.0 ** np.clip(-places, 0, 300)
    found: list[float | None] = (np.round(x * up / down) / up * down).tolist()
    if known.all():
        return found
    return [value if there else None for value, there in zip(found, known.tolist(), strict=True)]
