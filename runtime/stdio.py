"""The three standard streams of a process to be: pipes, or nothing where a terminal will be made.

``container`` pumps the near ends into the log, ``exec`` hands them to the daemon.

Invariant: every descriptor is closed by ``close_theirs``, ``take`` or ``close``.
"""

from __future__ import annotations

import os


class Stdio:
    """``theirs`` are (stdin, stdout, stderr) of the child; ``ours`` the near ends.

    ``ours`` is [stdout, stderr], and [.., .., stdin] when a stdin was asked for; it is
    empty with a terminal. What is not asked for is /dev/null.
    """

    def __init__(self, *, stdin: bool, terminal: bool) -> None:
        """
        Raises:
            OSError: descriptors are short; nothing is left open.
        """
        self.ours: list[int] = []
        self._theirs = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
        try:
            for _ in range(0 if terminal else 2):
                near, far = os.pipe()
                self.ours.append(near)
                self._theirs.append(far)
            if stdin and not terminal:
                far, near = os.pipe()
                self.ours.append(near)
                self._theirs.append(far)
        except BaseException:
            self.close()
            raise
        null = self._theirs[0]
        if terminal:
            self.theirs = (null, null, null)
        else:
            self.theirs = (self._theirs[3] if stdin else null, self._theirs[1], self._theirs[2])

    def close_theirs(self) -> None:
        """After the fork: the child has them now."""
        while self._theirs:
            os.close(self._theirs.pop())

    def take(self) -> list[int]:
        """The near ends, which are the caller's from now on."""
        taken, self.ours = self.ours, []
        return taken

    def close(self) -> None:
        """Close whatever has been neither taken nor closed."""
        self.close_theirs()
        while self.ours:
            os.close(self.ours.pop())
