"""Zygotes that start in a third of the time.

What a zygote does longest is a rehearsal, by which monitors share more of its memory. Tests that do not
measure that need none.
"""

from __future__ import annotations

import pytest

from runtime import supervisor

SKIPPED = "zygote.rehearse = zygote.gather_code = zygote.fill_holes = lambda *_: None; zygote.main("


def leave_out_the_rehearsal(patch: pytest.MonkeyPatch) -> None:
    """From now on, for all that this process starts."""
    boot = supervisor._BOOT.replace("from runtime.zygote import main", "from runtime import zygote")
    assert "main(" in boot and boot != supervisor._BOOT
    patch.setattr(supervisor, "_BOOT", boot.replace("main(", SKIPPED))
