"""What is asked of an image is plain JSON, whatever it holds."""

from __future__ import annotations

import json

from runtime import looks, requests


def test_a_question_is_the_same_after_json() -> None:
    rootfs: requests.Rootfs = {"lowerdirs": ["/l\udcff"], "upperdir": "", "workdir": "", "staging": "/s"}
    user: looks.ResolveUserRequest = {"rootfs": rootfs, "user": "a", "gid": None, "groups": [1], "policy": "Merge"}
    find: looks.FindRequest = {"rootfs": rootfs, "path": "a/b"}
    fill: looks.FillRequest = {"rootfs": rootfs, "volumes": [], "cgroup": {"v1": [], "v2": None}}
    found: looks.Found = {"directory": True}
    for document in (user, find, fill, found):
        assert json.loads(json.dumps(document)) == document
