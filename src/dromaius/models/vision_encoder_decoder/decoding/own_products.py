"""transformers' linear layers with our products, for as long as a text takes.

At few rows they then read their matrix at the speed of memory, at many they use oneDNN where that
is faster (`dromaius.nn.linear`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from dromaius.nn.linear import Linear


@contextmanager
def own_products(*parts: nn.Module) -> Iterator[None]:
    """Inside, plain `nn.Linear` layers of the parts are `dromaius.nn.linear.Linear`s.

    The two differ in nothing but `forward`: parameters, hooks and state stay the same objects.
    """
    modules = (module for part in parts for module in part.modules())
    layers = [m for m in modules if type(m) is nn.Linear and type(m.weight) is nn.Parameter]
    for layer in layers:
        layer.__class__ = Linear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear
