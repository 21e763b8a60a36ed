"""The version of the installed distribution.

Invariant: it is said in one place, ``pyproject.toml``.
"""

from __future__ import annotations

import functools
from importlib import metadata


@functools.cache
def version() -> str:
    """Looked up once: the distribution's file is parsed for it, and kubelet asks all the time."""
    return metadata.version("crisp-cri")
