from __future__ import annotations

import os
import pty
import signal

import pytest

from runtime.linux import terminal


def test_a_terminal_has_the_size_that_it_is_given() -> None:
    master, peer = pty.openpty()
    try:
        for width, height in ((132, 43), (1, 1), (65535, 65535), (0, 0)):
            terminal.resize(master, width, height)
            assert os.get_terminal_size(peer) == os.terminal_size((width, height))
    finally:
        os.close(master)
        os.close(peer)


def test_who_is_in_the_foreground_hears_of_it() -> None:
    ready, told = os.pipe()
    pid, master = pty.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
        os.write(told, b"1")
        heard = signal.sigtimedwait([signal.SIGWINCH], 20)
        os._exit(0 if heard is not None and os.get_terminal_size(0) == os.terminal_size((80, 25)) else 1)
    os.read(ready, 1)
    terminal.resize(master, 80, 25)
    _, status = os.waitpid(pid, 0)
    for fd in (ready, told, master):
        os.close(fd)
    assert status == 0


def test_what_is_no_terminal_has_no_size() -> None:
    reads, writes = os.pipe()
    try:
        with pytest.raises(OSError):
            terminal.resize(writes, 80, 25)
    finally:
        os.close(reads)
        os.close(writes)
