"""Learning-rate schedules: factors on a base rate, as functions of the step alone."""

import math


def warmup_cosine(step: int, steps: int, warmup: int, final: float) -> float:
    """Linear rise over `warmup` steps to 1, then a half cosine down to `final` at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
