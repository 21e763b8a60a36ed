"""Image configs: right types or a refusal; chain ids by the specification."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from runtime.errors import FailedPrecondition
from runtime.images.config import chain_ids, parse_config
from runtime.images.platforms import Platform

DIFF = "sha256:" + "cd" * 32


def document(settings: Any = None, **changes: Any) -> bytes:
    whole = {
        "architecture": "amd64",
        "os": "linux",
        "config": settings or {},
        "rootfs": {"type": "layers", "diff_ids": [DIFF]},
        **changes,
    }
    return json.dumps(whole).encode()


def test_every_field_is_read() -> None:
    config = parse_config(
        document(
            {
                "Env": ["PATH=/bin", "FLAG", "EMPTY="],
                "Entrypoint": ["/bin/sh"],
                "Cmd": ["-c", "true"],
                "User": "1000:1000",
                "WorkingDir": "/srv",
                "Volumes": {"/b": {}, "/a": None},
                "Labels": {"l": "v"},
                "StopSignal": "SIGTERM",
            }
        ),
        "x",
    )
    assert config.platform == Platform("linux", "amd64")
    assert config.env == ("PATH=/bin", "FLAG", "EMPTY=")
    assert (config.entrypoint, config.cmd) == (("/bin/sh",), ("-c", "true"))
    assert (config.user, config.working_dir, config.stop_signal) == ("1000:1000", "/srv", "SIGTERM")
    assert config.volumes == ("/a", "/b")
    assert config.labels == {"l": "v"}
    assert config.diff_ids == (DIFF,)


def test_nulls_are_as_good_as_absent() -> None:
    settings = {"Env": None, "Entrypoint": None, "Cmd": None, "Volumes": None, "Labels": None, "User": None}
    config = parse_config(document(settings, variant=None), "x")
    assert (config.env, config.entrypoint, config.cmd, config.volumes, config.user) == ((), (), (), (), "")


@pytest.mark.parametrize(
    "settings",
    [
        {"Env": "x"},
        {"Env": [1]},
        {"Env": ["=x"]},
        {"Env": [""]},
        {"Env": ["A=\0"]},
        {"Entrypoint": "/bin/sh"},
        {"Cmd": "x"},
        {"User": 0},
        {"User": "a\0"},
        {"WorkingDir": []},
        {"Volumes": ["/a"]},
        {"Volumes": {"/a": 1}},
        {"Volumes": {"/a\0": {}}},
        {"Labels": {"a": 1}},
        {"StopSignal": 15},
        [],
    ],
)
def test_a_wrong_type_refuses_the_image(settings: Any) -> None:
    if settings == []:
        settings = ["x"]
    with pytest.raises(FailedPrecondition):
        parse_config(document(settings), "x")


@pytest.mark.parametrize(
    "rootfs",
    [
        {"type": "other", "diff_ids": []},
        {"type": "layers", "diff_ids": ["sha256:x"]},
        {"type": "layers", "diff_ids": [DIFF] * 501},
        {"type": "layers", "diff_ids": DIFF},
    ],
)
def test_layers_are_sha256_digests(rootfs: Any) -> None:
    with pytest.raises(FailedPrecondition):
        parse_config(document(rootfs=rootfs), "x")


def test_chain_ids_are_those_of_the_specification() -> None:
    first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    expected = hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_ids(()) == ()
    assert chain_ids((first,)) == ("1" * 64,)
    assert chain_ids((first, second)) == ("1" * 64, expected)
    third = hashlib.sha256(f"sha256:{expected} {first}".encode()).hexdigest()
    assert chain_ids((first, second, first))[2] == third
