"""Seccomp, AppArmor and SELinux."""

from __future__ import annotations

import msgspec
import pytest
from google.protobuf import text_format

from cri.plan.facts import HostFacts
from cri.validate.profiles import check_profiles
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault, InvalidArgument


def container(text: str) -> api.LinuxContainerSecurityContext:
    return text_format.Parse(text, api.LinuxContainerSecurityContext())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seccomp {} apparmor {}",
        "seccomp { profile_type: Unconfined } apparmor { profile_type: Unconfined }",
        "seccomp_profile_path: 'runtime/default' apparmor_profile: 'unconfined'",
        "privileged: true seccomp { profile_type: Localhost localhost_ref: '/p' } apparmor_profile: 'localhost/p'",
        "selinux_options { user: 'u' role: 'r' type: 't' level: 's0:c1' }",
        "seccomp {} seccomp_profile_path: 'anything'",
        "seccomp { profile_type: Localhost localhost_ref: '/p' }",
        "seccomp_profile_path: 'localhost//p'",
    ],
)
def test_what_exists_passes(host: HostFacts, text: str) -> None:
    check_profiles(container(text), host, "c")


@pytest.mark.parametrize(
    ("text", "fault", "words"),
    [
        ("seccomp { profile_type: Localhost }", InvalidArgument, "localhost_ref: is empty"),
        ("privileged: true seccomp { profile_type: Localhost }", InvalidArgument, "localhost_ref: is empty"),
        ("seccomp { profile_type: Localhost localhost_ref: 'p' }", InvalidArgument, "absolute path"),
        ("seccomp { profile_type: 3 }", InvalidArgument, "profile_type: must be one of"),
        ("seccomp { profile_type: Unconfined localhost_ref: '/p' }", InvalidArgument, "Localhost only"),
        ("seccomp_profile_path: 'localhost/p'", InvalidArgument, "absolute path"),
        ("seccomp_profile_path: 'Unconfined'", InvalidArgument, "must be unconfined"),
        ("apparmor { profile_type: Localhost }", InvalidArgument, "names no profile"),
        ("apparmor { profile_type: Localhost localhost_ref: 'p' }", FailedPrecondition, "no AppArmor"),
        ("apparmor { profile_type: Localhost localhost_ref: 'localhost/' }", InvalidArgument, "names no profile"),
        ("apparmor { profile_type: Localhost localhost_ref: 'a\\nb' }", InvalidArgument, "names no profile"),
        (f"apparmor_profile: 'localhost/{'p' * 1025}'", InvalidArgument, "names no profile"),
        ("apparmor_profile: 'localhost/p'", FailedPrecondition, "no AppArmor"),
        ("selinux_options { level: 'a\\nb' }", InvalidArgument, "control character"),
        ("selinux_options { level: 's0\"' }", InvalidArgument, "quote"),
        ("selinux_options { type: 'a:b' }", InvalidArgument, "more than a user, role or type"),
        ("selinux_options { user: 'a,b' }", InvalidArgument, "more than a user, role or type"),
        (f"selinux_options {{ level: '{'s' * 1025}' }}", InvalidArgument, "more than 1024 bytes"),
    ],
)
def test_what_does_not_is_refused(host: HostFacts, text: str, fault: type[Fault], words: str) -> None:
    with pytest.raises(Fault) as raised:
        check_profiles(container(text), host, "c")
    assert type(raised.value) is fault and words in str(raised.value)


@pytest.mark.parametrize(
    ("fact", "text", "words"),
    [
        ({"seccomp": False}, "seccomp {}", "no seccomp filters"),
        ({"seccomp": False}, "seccomp_profile_path: 'docker/default'", "no seccomp filters"),
        ({"seccomp": False}, "seccomp { profile_type: Localhost localhost_ref: '/p' }", "no seccomp filters"),
    ],
)
def test_the_host_decides_what_else_is_refused(host: HostFacts, fact: dict[str, bool], text: str, words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        check_profiles(container(text), msgspec.structs.replace(host, **fact), "c")


def test_on_a_host_with_apparmor_profiles_may_be_named(host: HostFacts) -> None:
    facts = msgspec.structs.replace(host, apparmor=True)
    for text in (
        "apparmor {}",
        "apparmor { profile_type: Localhost localhost_ref: 'p' }",
        "apparmor_profile: 'localhost/p'",
    ):
        check_profiles(container(text), facts, "c")


def test_where_selinux_is_enforced_labels_may_be_named(host: HostFacts) -> None:
    facts = msgspec.structs.replace(host, selinux=True)
    check_profiles(container("selinux_options { type: 't' level: 's0:c1,c2' }"), facts, "c")


def test_nothing_asked_passes_on_every_host(host: HostFacts) -> None:
    check_profiles(container(""), msgspec.structs.replace(host, seccomp=False, apparmor=True, selinux=True), "c")


def test_a_pod_has_no_deprecated_apparmor_field(host: HostFacts) -> None:
    check_profiles(api.LinuxSandboxSecurityContext(seccomp_profile_path="unconfined"), host, "c")
