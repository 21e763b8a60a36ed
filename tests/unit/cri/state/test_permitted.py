"""What may be done with a container in which state, and what a refusal says."""

from __future__ import annotations

import pytest

from cri.state.permitted import PERMITTED, Action, check_permitted
from cri.state.records import ContainerState
from runtime.errors import FailedPrecondition


def test_every_action_is_permitted_somewhere() -> None:
    assert set(PERMITTED) == set(Action)
    assert all(PERMITTED.values())


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("state", ContainerState)
def test_what_is_not_permitted_is_refused(state: ContainerState, action: Action) -> None:
    if state in PERMITTED[action]:
        check_permitted(state, action, "abc")
        return
    with pytest.raises(FailedPrecondition, match=rf"container abc: is {state.value}; only a .* can be {action.value}"):
        check_permitted(state, action, "abc")


@pytest.mark.parametrize("action", Action)
def test_nothing_is_permitted_after_the_exit(action: Action) -> None:
    assert ContainerState.EXITED not in PERMITTED[action]


def test_a_second_start_says_what_would_have_been_needed() -> None:
    with pytest.raises(FailedPrecondition) as refused:
        check_permitted(ContainerState.EXITED, Action.START, "abc")
    assert str(refused.value) == "container abc: is exited; only a created container can be started"


def test_several_states_that_would_do_are_all_named() -> None:
    with pytest.raises(FailedPrecondition, match="only a created or running container can be updated"):
        check_permitted(ContainerState.UNKNOWN, Action.UPDATE, "abc")
