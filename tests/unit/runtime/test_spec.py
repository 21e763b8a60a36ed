"""The documents of ``runtime.spec`` are plain JSON, whatever they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime import spec


def test_a_start_request_is_the_same_after_json() -> None:
    process: spec.Process = {
        "terminal": False,
        "user": {"uid": 1, "gid": 2, "additionalGids": [3]},
        "args": ["a"],
        "env": ["A=\udcff"],
        "cwd": "/",
        "capabilities": {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []},
        "rlimits": [],
        "noNewPrivileges": True,
    }
    request: spec.ExecRequest = {
        "container": "c",
        "exec": "e",
        "process": process,
        "cgroup": {"v1": ["/a"], "v2": None},
        "seccomp": None,
        "stdin": False,
        "timeout": 1.5,
    }
    assert json.loads(json.dumps(request)) == request


def test_the_parts_of_a_root_are_those_that_overlayfs_needs() -> None:
    assert set(spec.Rootfs.__annotations__) == {"lowerdirs", "upperdir", "workdir", "staging", "label"}


@pytest.mark.parametrize(("number", "outside"), [(0, 1000), (99, 1099), (100, spec.UNMAPPED), (-1, spec.UNMAPPED)])
def test_an_id_of_a_user_namespace_has_one_on_the_host_or_none(number: int, outside: int) -> None:
    linux: Any = {"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 100}]}
    ids = spec.mapping_of(linux)
    assert ids is not None and spec.to_host(number, ids) == outside
    nothing: Any = {}
    assert spec.mapping_of(nothing) is None
