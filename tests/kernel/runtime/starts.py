"""Starts of a container ``one`` of busybox with a log, in a driven monitor, and how it ended.

``conftest`` has the fixtures ``image`` and ``pod`` that they are made with.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from runtime import exits
from tests.kernel.runtime.containers import Image
from tests.kernel.runtime.driven import Driven

ONE = {"container": "one"}


def request(image: Image, *args: str, **changes: Any) -> Any:
    """A start that runs ``args``; ``changes`` at the top level of the request, but for ``process``."""
    process = changes.pop("process", {})
    made: Any = image.request(*args, **process)
    made.update({**ONE, "log_path": str(log_of(image)), **changes})
    return made


def log_of(image: Image) -> Path:
    return image.path / "log/one.log"


def logged(image: Image, stream: str = "stdout") -> str:
    """What the container has written to ``stream``."""
    text = ""
    for line in log_of(image).read_bytes().decode().split("\n")[:-1]:
        match = re.fullmatch(r"\S+Z (stdout|stderr) ([FP]) (.*)", line, re.DOTALL)
        assert match, line
        if match[1] == stream:
            text += match[3] + ("\n" if match[2] == "F" else "")
    return text


def answer(pod: Driven, line: bytes) -> None:
    """Write ``line`` to the container's stdin."""
    stdin = pod.monitor.pod.containers["one"].stdin
    assert stdin is not None
    os.write(stdin, line)


def exit_of(pod: Driven) -> Any:
    """The record of its end, which is on disk as well."""
    record = pod.event("exit")["record"]
    assert exits.read_exit(f"{pod.directory}/exits/{record['container']}.json") == record
    return record
