"""Whom to ask the image about."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.user import user_question, why_no_name
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition
from runtime.images.config import ImageConfig


def config(text: str) -> api.ContainerConfig:
    context = text_format.Parse(text, api.LinuxContainerSecurityContext())
    return api.ContainerConfig(linux=api.LinuxContainerConfig(security_context=context))


@pytest.mark.parametrize(
    ("text", "user", "gid"),
    [
        ("", "app:staff", None),
        ("run_as_user { value: 0 }", "0", None),
        ("run_as_user { value: 1000 } run_as_group { value: 0 }", "1000", 0),
        ("run_as_username: 'web' run_as_group { value: 5 }", "web", 5),
    ],
)
def test_the_request_wins_over_the_image(image: ImageConfig, text: str, user: str, gid: int | None) -> None:
    question = user_question(config(text), replace(image, user="app:staff"))
    assert (question["user"], question["gid"]) == (user, gid)


def test_groups_and_policy_are_passed_on(image: ImageConfig) -> None:
    question = user_question(config("supplemental_groups: [3, 1] supplemental_groups_policy: Strict"), image)
    assert (question["groups"], question["policy"]) == ([3, 1], "Strict")
    assert user_question(config(""), image)["policy"] == "Merge"


@pytest.mark.parametrize("user", ["", "0", "1000:1000", "www-data", "2147483647", "a:0", "00001"])
def test_a_user_of_an_image_passes(image: ImageConfig, user: str) -> None:
    assert user_question(config(""), replace(image, user=user))["user"] == user


@pytest.mark.parametrize(
    "user",
    ["4294967296", "2147483648", "-1", "+1", "1_0", "１", " 1", "1:", ":1", "a:b:c", "a\nb", "1:4294967296", "9" * 30],
)
def test_row_18_any_other_is_refused(image: ImageConfig, user: str) -> None:
    with pytest.raises(FailedPrecondition, match="USER of the image"):
        user_question(config(""), replace(image, user=user))


@given(st.text(max_size=12))
def test_what_python_reads_as_a_number_is_plain_digits_or_refused(name: str) -> None:
    try:
        value = int(name)
    except ValueError:
        return
    if not why_no_name(name):
        assert name.isascii() and name.isdigit() and 0 <= value < 2**31
