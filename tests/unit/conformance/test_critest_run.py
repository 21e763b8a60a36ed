from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conformance.critest_run import Programs, Run, Spec, parse_report, plan_command

PROGRAMS = Programs(Path("/critest"), Path("/ginkgo"))


def spec(state: str, message: str = "", kind: str = "It", **fields: Any) -> dict[str, Any]:
    names = {"ContainerHierarchyTexts": ["[k8s.io] Streaming", "runtime"], "LeafNodeText": "should support exec"}
    failure = {"Failure": {"Message": message}} if message else {}
    return {**names, "LeafNodeType": kind, "State": state, "RunTime": 2_000_000_000, **failure, **fields}


def test_a_spec_that_was_filtered_out_does_not_count_and_one_that_skips_itself_does() -> None:
    reports = [spec("passed"), spec("skipped"), spec("skipped", "no AppArmor")]
    name = "Streaming runtime should support exec"
    found = parse_report([{"SpecReports": reports}])
    assert found == (Spec(name, "passed", "", 2.0), Spec(name, "skipped", "no AppArmor", 2.0))


def test_what_runs_around_specs_counts_where_it_failed() -> None:
    around: dict[str, Any] = {"ContainerHierarchyTexts": None, "LeafNodeText": "", "kind": "BeforeSuite"}
    assert parse_report([{"SpecReports": [spec("passed", **around)]}]) == ()
    assert parse_report([{"SpecReports": [spec("failed", "no client", **around)]}, {"SpecReports": None}]) == (
        Spec("BeforeSuite", "failed", "no client", 2.0),
    )


def test_ginkgo_is_asked_for_only_where_several_processes_share_the_specs() -> None:
    assert not [word for word in plan_command(PROGRAMS, Run(""), "unix:///s", "r", 1) if "-parallel" in word]
    words = plan_command(PROGRAMS, Run("", nodes=4, focus="OOM", skip="NRI"), "unix:///s", "r", 7)
    assert {"-parallel=4", "--ginkgo.focus=OOM", "--ginkgo.skip=NRI", "--ginkgo.seed=7"} < set(words)
    assert not [word for word in words if "websocket" in word]


def test_over_websocket_all_three_kinds_of_streams_are() -> None:
    words = plan_command(PROGRAMS, Run("", websocket=True), "unix:///s", "r", 1)
    assert [word for word in words if "websocket" in word] == [
        *("-websocket-exec", "-websocket-attach", "-websocket-portforward")
    ]
