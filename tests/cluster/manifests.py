"""Manifests of static pods, as short as they can be."""

from __future__ import annotations

from typing import Any

from tests.cri.harness import DEMO_IMAGE

Manifest = dict[str, Any]
FOREVER = "trap 'exit 0' TERM; {}; while :; do sleep 0.1; done"


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def forever(script: str = ":") -> list[str]:
    """``script``, then wait for SIGTERM."""
    return shell(FOREVER.format(script))


def container(name: str, command: list[str], **fields: Any) -> Manifest:
    return {"name": name, "image": DEMO_IMAGE, "imagePullPolicy": "Never", "command": command, **fields}


def exec_probe(*command: str, **fields: Any) -> Manifest:
    return {"exec": {"command": list(command)}, "periodSeconds": 1, **fields}


def pod(name: str, *containers: Manifest, **spec: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": list(containers), **spec},
    }
