"""Holes in the memory of the zygote, filled before it is forked.

Between the objects that importing and rehearsing has left there are free places in
almost every page. A monitor would put its own objects into them and so make a
private copy of each such page; with no hole left they lie together in new pages.

Invariant: bounded: an allocator that behaves otherwise costs ``_MOST`` objects a
size, once a host, and nothing breaks.
"""

from __future__ import annotations

_POOL = 16 * 1024
"""Bytes of a pool of CPython's allocator for small objects, since 3.10."""

_STEP, _SMALL = 16, 512
"""Its size classes: every 16 bytes, up to 512."""

_LARGE = (16384, 8192, 4096, 2048, 1024, 768, 640, 576, 528)
_MOST = 4000

_filler: list[bytes] = []


def fill_holes() -> None:
    """Use up the free places between the objects that exist."""
    header = len(b"") + b"".__sizeof__()
    for size in range(header + _STEP - header % _STEP, _SMALL + 1, _STEP):
        _fill_pools(size - header, _POOL // size - 4)
    for size in _LARGE:
        _fill_heap(size)


def _fill_pools(length: int, in_a_row: int) -> None:
    """Allocate objects of one size until they come from fresh pools, and the last pool is full.

    That many neighbours in a row are a whole pool; the next one after them is not kept, so
    that a pool is begun by whoever comes next.
    """
    run, last = 0, 0
    for _ in range(_MOST):
        filler = bytes(length)
        neighbour = 0 < id(filler) - last <= length + 64
        if run >= in_a_row and not neighbour:
            return
        _filler.append(filler)
        run = run + 1 if neighbour else 0
        last = id(filler)


def _fill_heap(length: int) -> None:
    """The same for what comes from malloc: until three in a row come from the end of its heap."""
    highest, found = 0, 0
    for _ in range(_MOST):
        filler = bytes(length)
        _filler.append(filler)
        found = found + 1 if id(filler) > highest else 0
        highest = max(highest, id(filler))
        if found >= 3:
            return
