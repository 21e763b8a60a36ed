"""Fixtures of the tests that run inside the guest: its service, with the demo image and without a pod.

Invariant: each test finds no pod, and after each nothing on the machine belongs to no record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.service import Service

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("guest")
            if os.environ.get("CRISP_GUEST") != "1":
                item.add_marker(pytest.mark.skip(reason="needs a machine of its own: make guest"))


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    crisp = Service()
    crisp.connect()
    crisp.import_demo_image()
    yield crisp
    crisp.disconnect()


@pytest.fixture
def crisp(service: Service) -> Iterator[Service]:
    yield service
    service.remove_pods()
    assert service.fsck() == []
