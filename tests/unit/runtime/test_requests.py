"""What ``runtime.requests`` carries is plain JSON, whatever it holds."""

from __future__ import annotations

import json

from runtime import requests, spec


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
    request: requests.ExecRequest = {
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
    assert set(requests.Rootfs.__annotations__) == {"lowerdirs", "upperdir", "workdir", "staging", "label"}
