"""What is sent of a birth is what writing it anew would give, and its failures have words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runtime import births
from runtime.errors import InvalidArgument, StartRefused
from runtime.pause import plan_named, plan_pause
from runtime.written import Written, write_exec, write_init, write_named, write_pause
from tests.unit.runtime.test_monitor_client import NOWHERE, PROCESS, sandbox, start

KINDS = ["network", "uts"]


def command(**changes: Any) -> Any:
    made = {"container": "c", "exec": "exec-7", "process": PROCESS, "stdin": False, "timeout": None, "seccomp": None}
    return {**made, "cgroup": NOWHERE, **changes}


@pytest.mark.parametrize(
    ("write", "anew"),
    [
        (lambda: write_init(start()), lambda: births.container_script(start(), None)),
        (lambda: write_init(start(), waits=True), lambda: births.container_script(start(), None, waits=True)),
        (lambda: write_exec(command()), lambda: births.command_script(command(), None)),
        (lambda: write_pause(sandbox(KINDS), []), lambda: plan_pause(sandbox(KINDS), [], None)),
        (lambda: write_pause(sandbox(KINDS), ["uts"]), lambda: plan_pause(sandbox(KINDS), ["uts"], None)),
        (lambda: write_named(sandbox(KINDS), KINDS), lambda: plan_named(sandbox(KINDS), KINDS, None)),
    ],
)
def test_the_bytes_are_those_of_the_script(write: Callable[[], Written], anew: Callable[[], Any]) -> None:
    for _ in range(2):  # the second time from a template
        written = write()
        assert written.script == anew().bytes() == written.words().bytes()


def pod(**changes: Any) -> Any:
    return {**sandbox(KINDS), **changes}


def test_a_pod_of_another_name_gets_its_own_script() -> None:
    first, second = (write_named(pod(hostname=name), KINDS) for name in ("one-name", "other"))
    assert b"one-name\0" in first.script and b"other\0" in second.script
    assert second.script == plan_named(pod(hostname="other"), KINDS, None).bytes()


def test_the_monitor_is_told_what_it_has_to_know() -> None:
    assert write_init(start()).told == births.container_told(start())
    assert write_exec(command()).told == births.command_told(command())
    assert write_pause(sandbox(KINDS), ["uts"]).told == births.sandbox_told(sandbox(KINDS), ["uts"])
    assert write_named(sandbox(KINDS), KINDS).told == {}


def test_what_cannot_be_is_refused_while_it_is_written() -> None:
    bad = pod(sysctls={"vm.swappiness": "1"})
    with pytest.raises(InvalidArgument, match="not in a namespace of the pod"):
        write_pause(bad, [])
    with pytest.raises(InvalidArgument, match="not in a namespace of the pod"):
        write_named(bad, KINDS)
    with pytest.raises(StartRefused):
        write_exec(command(process={**PROCESS, "args": []}))
