"""Errors whose message is one line that a user can act on.

The command line prints the line and exits with 1; anything else that is raised is a bug of ours.
"""

import warnings
from functools import cache


class DromaiusError(Exception):
    """Base of every error that a user can mend."""


class CheckpointError(DromaiusError, ValueError):
    """A checkpoint's files are absent, damaged, or do not fit the model they are for."""


class ConfigError(DromaiusError, ValueError):
    """A configuration or recipe holds an unknown key or an impossible value."""


class InputError(DromaiusError, ValueError):
    """A prompt, picture, size or option cannot be used as given."""


class ContextError(InputError):
    """A prompt or a conversation is longer than the model's context."""


@cache
def warn_once(message: str) -> None:
    """Warn the user, once a process for each message."""
    warnings.warn(message, UserWarning, stacklevel=3)
