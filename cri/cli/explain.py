"""``crisp explain POD``: what happened to a pod, stage by stage, and the path of its packets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cri.cli.options import add_common, add_output, read_settings
from cri.cli.output import clean, print_json, print_table

if TYPE_CHECKING:
    from proto.admin_pb2 import ExplainResponse, Hop


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "explain", help="what happened to a pod, stage by stage, and the path of its packets"
    )
    parser.add_argument("pod", metavar="POD", help="an id (may be shortened), a name or namespace/name")
    add_common(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from cri.cli.client import admin
    from proto import admin_pb2

    with admin(read_settings(args)) as stub:
        answer = stub.Explain(admin_pb2.ExplainRequest(pod=args.pod), timeout=10)
    if args.output == "json":
        print_json(to_json(answer))
    else:
        print_explanation(answer)
    return 0


def print_explanation(answer: ExplainResponse) -> None:
    state = f"{answer.state}: {answer.reason}" if answer.reason else answer.state
    print(f"pod        {clean(answer.namespace)}/{clean(answer.name)}")
    print(f"id         {answer.pod_sandbox_id}")
    print(f"state      {clean(state)}")
    print(f"addresses  {', '.join(answer.addresses) or '-'}")
    print(f"processes  monitor {answer.monitor_pid or '-'}, pause {answer.pause_pid or '-'}")
    if answer.path:
        print()
        print_table(("PART", "NAME", "STATE"), [(hop.part, hop.name, state_of(hop)) for hop in answer.path])
    print()
    print_table(("BEGAN", "TOOK", "OF", "STEP", "WHAT"), rows_of(answer))


def state_of(hop: Hop) -> str:
    """What there is, and what there is not."""
    missing = f"missing: {hop.missing}" if hop.missing else ""
    return "; ".join(filter(None, (hop.found, missing)))


def rows_of(answer: ExplainResponse) -> list[tuple[str, str, str, str, str]]:
    from cri.timeline import clock, duration

    rows = []
    for stage in answer.stages:
        words = f"{stage.describe}: {stage.error}" if stage.error else stage.describe
        rows.append((clock(stage.began), duration(stage.took), stage.container_name or "pod", stage.step, words))
    if len(rows) > 1:
        rows.append(("", duration(sum(stage.took for stage in answer.stages)), "", "in all", ""))
    return rows


def to_json(answer: ExplainResponse) -> dict[str, object]:
    return {
        "id": answer.pod_sandbox_id,
        "name": answer.name,
        "namespace": answer.namespace,
        "uid": answer.uid,
        "state": answer.state,
        "reason": answer.reason,
        "addresses": list(answer.addresses),
        "monitor_pid": answer.monitor_pid,
        "pause_pid": answer.pause_pid,
        "path": [
            {"part": hop.part, "name": hop.name, "found": hop.found, "missing": hop.missing} for hop in answer.path
        ],
        "stages": [
            {
                "step": stage.step,
                "describe": stage.describe,
                "began": stage.began,
                "took": stage.took,
                "error": stage.error,
                "container_id": stage.container_id,
                "container_name": stage.container_name,
            }
            for stage in answer.stages
        ],
    }
