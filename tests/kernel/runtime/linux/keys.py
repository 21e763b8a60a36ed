"""The keys that a process can reach, for tests of what it leaves behind (keyctl(2))."""

from __future__ import annotations

import ctypes
import os

from runtime.linux import libc

ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine, (-1, -1))
GET_KEYRING_ID, SEARCH = 0, 10
SESSION = -3

_add_key = libc.syscall(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_get_keyring_id = libc.syscall(ctypes.c_int, ctypes.c_int, ctypes.c_int)
_search = libc.syscall(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)


def session() -> int:
    """The serial number of the session keyring, -1 where there are no keys or nobody may use them."""
    return int(_get_keyring_id(KEYCTL, GET_KEYRING_ID, SESSION, 0))


def plant_key(name: bytes) -> bool:
    return int(_add_key(ADD_KEY, b"user", name, b"secret", 6, SESSION)) >= 0


def has_key(name: bytes) -> bool:
    return int(_search(KEYCTL, SEARCH, SESSION, b"user", name, 0)) >= 0
