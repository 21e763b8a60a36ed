"""Plugins that a killed daemon left."""

from __future__ import annotations

import os
import secrets
import subprocess

import pytest

from network.cni.stragglers import end_stragglers

OURS, OTHER = secrets.token_hex(32), secrets.token_hex(32)
"""Nobody else's: all processes of the host are looked at, and other tests run beside these."""


def sleeper(**environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "1000"], env=environment)


def test_only_processes_of_our_pods_are_ended() -> None:
    ours, twin = sleeper(CNI_CONTAINERID=OURS), sleeper(A="b", CNI_CONTAINERID=OURS)
    others = [sleeper(CNI_CONTAINERID=OTHER), sleeper(), sleeper(X=f"CNI_CONTAINERID={OURS}")]
    try:
        assert end_stragglers([OURS], 10) == 2
        assert (ours.wait(10), twin.wait(10)) == (-9, -9)
        assert [each.poll() for each in others] == [None] * 3
    finally:
        for each in (ours, twin, *others):
            each.kill()
            each.wait()


def test_no_pod_needs_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("looked"))
    assert end_stragglers([], 10) == 0
