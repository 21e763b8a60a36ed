"""What the host's mounts propagate, and what containers may ask of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.propagation import check_propagation, read_propagation
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mount of its own, private."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    subprocess.run(["mount", "--make-private", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "--recursive", tmp_path], check=True)


def ask(path: Path, propagation: api.MountPropagation.ValueType) -> None:
    mount = api.Mount(container_path="/a", host_path=str(path), propagation=propagation)
    check_propagation(api.ContainerConfig(mounts=[mount]))


def test_a_private_source_propagates_nothing(place: Path) -> None:
    assert read_propagation(str(place)) == frozenset()
    ask(place, api.PROPAGATION_PRIVATE)
    with pytest.raises(FailedPrecondition, match=r"mounts\[0\].*not on a shared mount"):
        ask(place, api.PROPAGATION_BIDIRECTIONAL)
    with pytest.raises(FailedPrecondition, match="shared or slave"):
        ask(place, api.PROPAGATION_HOST_TO_CONTAINER)


def test_a_shared_source_gives_both(place: Path) -> None:
    subprocess.run(["mount", "--make-shared", place], check=True)
    assert read_propagation(str(place)) == {"shared"}
    ask(place, api.PROPAGATION_BIDIRECTIONAL)
    ask(place, api.PROPAGATION_HOST_TO_CONTAINER)


def test_a_slave_only_follows(place: Path) -> None:
    subprocess.run(["mount", "--make-shared", place], check=True)
    (place / "slave").mkdir()
    subprocess.run(["mount", "--bind", place, place / "slave"], check=True)
    subprocess.run(["mount", "--make-slave", place / "slave"], check=True)
    assert read_propagation(str(place / "slave")) == {"master"}
    ask(place / "slave", api.PROPAGATION_HOST_TO_CONTAINER)
    with pytest.raises(FailedPrecondition, match="not on a shared mount"):
        ask(place / "slave", api.PROPAGATION_BIDIRECTIONAL)


def test_what_is_missing_counts_as_its_deepest_directory(place: Path) -> None:
    subprocess.run(["mount", "--make-shared", place], check=True)
    (place / "file").touch()
    assert read_propagation(f"{place}/none/of/these/") == {"shared"}
    assert read_propagation(f"{place}/file") == {"shared"}


def test_an_image_is_on_no_mount_of_the_host() -> None:
    mount = api.Mount(
        container_path="/a", image=api.ImageSpec(image="i"), propagation=api.PROPAGATION_HOST_TO_CONTAINER
    )
    check_propagation(api.ContainerConfig(mounts=[mount]))
