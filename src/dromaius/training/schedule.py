"""Learning-rate schedules: factors on a base rate, as functions of the step alone."""

import math


def warmup_cosine(step: int, steps: int, warmup: int, final: float, hold: float = 0.0) -> float:
    """Linear rise over `warmup` steps to 1, then a half cosine down to `final` at the last step.

    The factor stays at 1 for the share `hold` of the steps between.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = warmup + hold * (steps - warmup)
    progress = min(1.0, max(0.0, step - start) / max(1.0, steps - 1 - start))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
