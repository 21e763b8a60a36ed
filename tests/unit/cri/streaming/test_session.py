"""The seam between the wire and what is served over it."""

from __future__ import annotations

import dataclasses

import pytest

from cri.streaming.session import Outcome, Size, StreamReset, Wanted


def test_a_command_that_ended_well_has_no_code_and_no_error() -> None:
    assert Outcome() == Outcome(code=0, error="")


def test_what_a_session_is_made_of_is_not_changed_afterwards() -> None:
    for value in (Size(80, 24), Outcome(1), Wanted(True, True, True, False)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, 0)


def test_a_reset_is_a_fault_of_the_connection() -> None:
    assert issubclass(StreamReset, ConnectionError)
