"""Seccomp profile and hidden paths."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from cri.plan.security import plan_apparmor, plan_hidden, plan_seccomp
from proto import api_pb2 as api


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", None),
        ("seccomp {}", "runtime/default"),
        ("seccomp { profile_type: Unconfined }", None),
        ("seccomp { profile_type: Unconfined } seccomp_profile_path: 'runtime/default'", None),
        ("seccomp_profile_path: 'runtime/default'", "runtime/default"),
        ("seccomp_profile_path: 'docker/default'", "runtime/default"),
        ("seccomp_profile_path: 'unconfined'", None),
        ("privileged: true seccomp {}", None),
        ("seccomp { profile_type: Localhost localhost_ref: '/p' }", "localhost"),
        ("seccomp_profile_path: 'localhost//p'", "localhost"),
        ("privileged: true seccomp { profile_type: Localhost localhost_ref: '/p' }", None),
    ],
)
def test_the_profile_is_what_was_asked_for(text: str, kind: str | None) -> None:
    for context in (api.LinuxContainerSecurityContext(), api.LinuxSandboxSecurityContext()):
        assert plan_seccomp(text_format.Parse(text, context)) == kind


@pytest.mark.parametrize(
    ("text", "profile", "required"),
    [
        ("", "crisp-default", False),
        ("apparmor {}", "crisp-default", True),
        ("apparmor { profile_type: Unconfined }", "", False),
        ("apparmor { profile_type: Localhost localhost_ref: 'mine' }", "mine", True),
        ("apparmor { profile_type: Localhost localhost_ref: 'localhost/mine' }", "mine", True),
        ("apparmor {} apparmor_profile: 'localhost/mine'", "crisp-default", True),
        ("apparmor_profile: 'runtime/default'", "crisp-default", True),
        ("apparmor_profile: 'localhost/mine'", "mine", True),
        ("apparmor_profile: 'unconfined'", "", False),
        ("privileged: true", "", False),
        ("privileged: true apparmor { profile_type: Localhost localhost_ref: 'mine' }", "", False),
    ],
)
def test_the_apparmor_profile_is_what_was_asked_for_or_crisps_own(text: str, profile: str, required: bool) -> None:
    assert plan_apparmor(text_format.Parse(text, api.LinuxContainerSecurityContext())) == (profile, required)


def test_pause_has_an_apparmor_profile_where_one_is_asked_for() -> None:
    assert plan_apparmor(api.LinuxSandboxSecurityContext()) == ("", False)
    asked = text_format.Parse("apparmor {}", api.LinuxSandboxSecurityContext())
    assert plan_apparmor(asked) == ("crisp-default", True)


def test_hidden_paths_are_exactly_those_of_the_request() -> None:
    assert plan_hidden([], privileged=False) == []
    assert plan_hidden(["/proc/kcore", "/proc//kcore/", "/sys/firmware"], privileged=False) == [
        "/proc/kcore",
        "/sys/firmware",
    ]
    assert plan_hidden(["/proc/kcore"], privileged=True) == []
