"""Terminals by their master: ioctl_tty(2).

Invariant: none; the kernel keeps the size.
"""

from __future__ import annotations

import fcntl
import struct

_TIOCSWINSZ = 0x5414


def resize(master: int, width: int, height: int) -> None:
    """Say how large the terminal is, in characters; who is in its foreground gets SIGWINCH."""
    fcntl.ioctl(master, _TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
