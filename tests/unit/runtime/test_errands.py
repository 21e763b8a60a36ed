"""Whoever sends a child on an errand hears once how it went."""

from __future__ import annotations

from typing import Any

import pytest

from runtime import errands
from runtime.errors import Fault, HostFault
from runtime.newborn import Birth


class Heard:
    """A reply, and what it was."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def ok(self, result: object) -> None:
        self.said.append(result)

    def fail(self, fault: Fault) -> None:
        self.said.append(fault)


class Ended:
    def __init__(self, answer: object) -> None:
        self.answer = answer


def end(birth: Birth, answer: object = None, status: int = 0) -> None:
    """Its report ends, then it does."""
    child: Any = Ended(answer)
    birth.on_ready(child)
    birth.on_exit(status)


def test_an_answer_is_passed_on_and_silence_is_a_fault() -> None:
    heard: Any = Heard()
    end(errands.look("look", "thing", heard), {"uid": 1}, status=9)
    end(errands.look("look", "thing", heard))
    answer, fault = heard.said
    assert answer == {"uid": 1} and isinstance(fault, HostFault) and (fault.step, fault.object) == ("look", "thing")


@pytest.mark.parametrize("status", [0, 9, 256])
def test_a_script_has_gone_well_if_its_process_ends_so(status: int) -> None:
    heard: Any = Heard()
    end(errands.carry_out("make", heard), status=status)
    (said,) = heard.said
    assert said == {} if status == 0 else isinstance(said, HostFault) and f"wait status {status}" in said.message


def test_what_it_has_failed_with_is_passed_on() -> None:
    heard: Any = Heard()
    fault = HostFault("planted")
    for birth in (errands.look("look", "", heard, {"v1": [], "v2": None}), errands.carry_out("make", heard)):
        birth.on_failed(fault)
    assert heard.said == [fault, fault]
