"""Stop signals."""

from __future__ import annotations

import signal

import pytest

from cri.plan.signals import plan_stop_signal, signal_number, status_signal
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("SIGRTMIN", 34),
        ("RTMIN+3", 37),
        ("SIGRTMAX-14", 50),
        ("SIGRTMAX", 64),
        ("64", 64),
        ("SIGPOLL", 29),
        ("sigcld", 17),
        ("SIGIOT", 6),
        ("SIGWINCH", 28),
    ],
)
def test_names_and_numbers_are_read(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-9", "９", "SIG", "SIGNOPE", "RTMIN+31", "RTMAX-31", "RTMIN-1", "999"]
)
def test_anything_else_is_no_signal(text: str) -> None:
    with pytest.raises(ValueError):
        signal_number(text)


def test_every_signal_of_the_api_has_a_number() -> None:
    numbers = {name: plan_stop_signal(value, "") for name, value in api.Signal.items()}
    assert numbers["SIGNAL_RUNTIME_DEFAULT"] == signal.SIGTERM
    assert numbers["SIGNAL_SIGRTMINPLUS15"] == 49
    assert numbers["SIGNAL_SIGRTMAXMINUS14"] == 50
    assert numbers["SIGNAL_SIGUSR1"] == signal.SIGUSR1
    assert all(1 <= number <= 64 for number in numbers.values())


def test_a_status_names_the_signal_that_is_sent() -> None:
    for value in api.Signal.values():
        number = plan_stop_signal(value, "")
        assert plan_stop_signal(status_signal(number), "") == number
    assert status_signal(plan_stop_signal(api.SIGNAL_RUNTIME_DEFAULT, "")) == api.SIGNAL_SIGTERM
    assert status_signal(plan_stop_signal(api.SIGNAL_RUNTIME_DEFAULT, "SIGRTMIN+3")) == api.SIGNAL_SIGRTMINPLUS3
    assert status_signal(6) == api.SIGNAL_SIGABRT
    assert status_signal(33) == api.SIGNAL_RUNTIME_DEFAULT


def test_the_request_wins_over_the_image() -> None:
    assert plan_stop_signal(api.SIGNAL_SIGINT, "SIGQUIT") == signal.SIGINT
    assert plan_stop_signal(api.SIGNAL_RUNTIME_DEFAULT, "SIGQUIT") == signal.SIGQUIT


def test_a_wrong_image_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="STOPSIGNAL of the image"):
        plan_stop_signal(api.SIGNAL_RUNTIME_DEFAULT, "SIGNOPE")
