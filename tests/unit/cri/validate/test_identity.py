"""Users and groups."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from cri.validate.identity import check_ids
from proto import api_pb2 as api
from runtime.errors import InvalidArgument
from runtime.spec import IdMapping


def container(text: str) -> api.LinuxContainerSecurityContext:
    return text_format.Parse(text, api.LinuxContainerSecurityContext())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run_as_user { value: 0 } run_as_group { value: 2147483647 }",
        "run_as_username: 'www-data' run_as_group { value: 33 }",
        "run_as_username: '1002'",
        "supplemental_groups: 0 supplemental_groups_policy: Strict",
    ],
)
def test_a_good_identity_passes(text: str) -> None:
    check_ids(container(text), "c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run_as_user { value: -1 }", "run_as_user: must be between"),
        ("run_as_user { value: 2147483648 }", "run_as_user: must be between"),
        ("run_as_group { value: 1 }", "run_as_group: needs"),
        ("run_as_user {} run_as_group { value: -1 }", "run_as_group: must be between"),
        ("run_as_user {} run_as_username: 'a'", "both given"),
        ("run_as_username: '99999999999'", "is above"),
        ("run_as_username: '１'", "plain digits"),
        ("supplemental_groups: 2147483648", "supplemental_groups: must be between"),
        ("supplemental_groups_policy: 2", "one of Merge, Strict"),
    ],
)
def test_a_bad_identity_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        check_ids(container(text), "c")
    assert words in str(raised.value)


def test_the_number_of_groups_is_bounded() -> None:
    context = api.LinuxSandboxSecurityContext(supplemental_groups=range(4097))
    with pytest.raises(InvalidArgument, match="more than 4096"):
        check_ids(context, "c")


@pytest.mark.parametrize(
    "text", ["run_as_user { value: %d }", "run_as_user {} run_as_group { value: %d }", "supplemental_groups: %d"]
)
def test_a_user_namespace_has_no_more_ids_than_its_mapping(text: str) -> None:
    ids: IdMapping = {"host": 1000, "size": 10}
    check_ids(container(text % 9), "c", ids)
    with pytest.raises(InvalidArgument, match="between 0 and 9, not 10"):
        check_ids(container(text % 10), "c", ids)
