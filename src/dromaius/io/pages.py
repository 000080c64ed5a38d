"""Weights in pages of two megabytes: a pass over all of them needs fewer looks into page tables.

Where Linux gives large pages only to those who ask ("madvise", the usual setting), reading weights
takes a tenth longer without (docs/performance.md).
"""

import ctypes
import platform

from torch import nn

PAGE = 2**21
_COLLAPSE = 25
"""MADV_COLLAPSE of Linux 6.1 and later: large pages now, whatever is in the small ones."""


def use_large_pages(module: nn.Module) -> int:
    """Asks for large pages under all parameters on the CPU that fill at least one.

    Nothing depends on it: what the system refuses (mapped files, no memory in one piece, an older
    system) stays as it is. Contents do not change.

    Returns:
        How many pages the system did not refuse; one at either end of a mapping may stay small.
    """
    if platform.system() != "Linux":
        return 0
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    pages: set[int] = set()
    for parameter in module.parameters():
        size = parameter.untyped_storage().nbytes()
        if parameter.device.type == "cpu" and size >= PAGE:
            first = parameter.untyped_storage().data_ptr()
            pages.update(range(first // PAGE, (first + size - 1) // PAGE + 1))
    return sum(libc.madvise(page * PAGE, PAGE, _COLLAPSE) == 0 for page in sorted(pages))
