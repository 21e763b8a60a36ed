from __future__ import annotations

import pytest

from tests.conformance.critest_report import Facts, count, reason, render_section, replace_section, unexcused
from tests.conformance.critest_run import Result, Run, Spec

DIGEST = "sha256:" + "9" * 64
HERE = Facts("6.1.0", "cgroup v1 and v2", apparmor=False, selinux=False)
ARMED = Facts("6.1.0", "cgroup v2 alone", apparmor=True, selinux=False)
APPARMOR = Spec("AppArmor runtime should work", "skipped", "AppArmor is not enabled")
NRI = Spec("NRI pod sandbox lifecycle should receive", "skipped", "NRI tests need -nri-socket")
PULL = Spec(
    "Image Manager public image with digest should be pulled and removed [Conformance]",
    "failed",
    f"failed to pull: gcr.io/k8s-staging-cri-tools/test-image-digest@{DIGEST}: not found",
)
GOOD = Spec("Container runtime should support starting container", "passed")
BAD = Spec("Streaming runtime should support exec", "failed", "EOF")


def result(*specs: Spec) -> Result:
    return Result(Run("SPDY"), specs, 1.0, 1)


def test_what_the_kernel_lacks_is_a_reason_and_only_where_it_lacks_it() -> None:
    assert reason(APPARMOR, HERE) == "the kernel has no AppArmor"
    assert reason(APPARMOR, ARMED) == ""


@pytest.mark.parametrize("spec", [NRI, PULL])
def test_what_nobody_can_mend_here_is_a_reason_on_every_host(spec: Spec) -> None:
    assert reason(spec, HERE) and reason(spec, ARMED)


@pytest.mark.parametrize(
    "spec",
    [
        BAD,
        Spec(APPARMOR.name, "failed", APPARMOR.message),
        Spec(PULL.name, "failed", "connection refused"),
        Spec(PULL.name, "skipped", PULL.message),
        Spec("Security Context UserNamespaces runtime should support", "skipped", "no runtime handler found"),
    ],
)
def test_another_end_or_another_message_is_no_reason(spec: Spec) -> None:
    assert reason(spec, HERE) == ""
    assert unexcused([result(GOOD, spec)], HERE) == [(result(GOOD, spec), spec)]


def test_a_run_without_specs_has_not_passed() -> None:
    assert len(unexcused([result()], HERE)) == 1
    assert unexcused([result(GOOD, APPARMOR, PULL)], HERE) == []


def test_specs_are_counted_by_their_ends() -> None:
    assert count([GOOD, GOOD, PULL, NRI, Spec("x", "timedout")]) == (2, 2, 1)


def test_the_section_names_what_has_not_passed_with_its_reason() -> None:
    section = render_section([result(GOOD, APPARMOR), result(GOOD, APPARMOR, BAD)], HERE)
    assert "| SPDY | 3 | 1 | 1 | 1 |" in section
    assert f"| {BAD.name} | failed | **none** |" in section
    assert section.count(APPARMOR.name) == 1
    assert "All passed." in render_section([result(GOOD)], HERE)


def test_a_section_replaces_that_of_its_own_kind_of_host_and_no_other() -> None:
    both, alone = render_section([result(GOOD)], HERE), render_section([result(APPARMOR)], ARMED)
    document = replace_section(replace_section("", both), alone)
    again = replace_section(document, render_section([result(BAD)], HERE))
    assert again.count("## With") == 2
    assert alone in again and BAD.name in again and "All passed." not in again
    assert replace_section(again, alone) == again
