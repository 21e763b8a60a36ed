"""``crisp fsck [--repair]``: what of this instance does not fit together.

Asks the daemon; when none runs it takes the root's lock and looks itself.

Invariant: without ``--repair`` nothing is changed; the exit status is 1 while
something that was found is still there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from cri.cli.options import add_common, add_output, read_settings
from cri.cli.output import print_json, print_table
from runtime.errors import Fault, InvalidArgument, NotFound

if TYPE_CHECKING:
    from cri.fsck import Finding
    from cri.host import Host
    from cri.settings import Settings
    from proto.admin_pb2 import DaemonInfoResponse


class FindingLike(Protocol):
    """``cri.fsck.Finding`` and its message on the wire have the same fields."""

    @property
    def kind(self) -> str: ...
    @property
    def object(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def repaired(self) -> bool: ...
    @property
    def error(self) -> str: ...


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("fsck", help="objects that belong to no record, and the reverse")
    parser.add_argument("--repair", action="store_true", help="remove what belongs to nobody")
    add_common(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from cri.cli.client import NoDaemon, admin
    from proto import admin_pb2

    settings = read_settings(args)
    findings: Sequence[FindingLike]
    try:
        with admin(settings) as stub:
            if args.root:
                check_root(stub.DaemonInfo(admin_pb2.DaemonInfoRequest()), settings)
            findings = stub.Fsck(admin_pb2.FsckRequest(repair=args.repair), timeout=600).findings
    except NoDaemon:
        findings = offline(settings, args.repair)
    report(findings, args.output)
    return 0 if all(finding.repaired for finding in findings) else 1


def check_root(info: DaemonInfoResponse, settings: Settings) -> None:
    """A daemon is found by its state directory; it may be one of another root.

    Raises:
        InvalidArgument: then "nothing is wrong" would be said of the wrong one.
    """
    import json
    import os

    from cri.settings import instance

    if info.instance != instance(os.path.realpath(settings.root)):
        served = json.loads(info.settings_json)["root"]
        raise InvalidArgument(
            f"the daemon of --state {settings.state} serves {served}; name the state directory, too", object="--root"
        )


def offline(settings: Settings, repair: bool) -> Sequence[FindingLike]:
    """As the daemon would, in this process.

    Raises:
        FailedPrecondition: a daemon holds the root's lock after all.
        NotFound: there is no such root; looking must not make one.
    """
    import asyncio
    import os
    from contextlib import AsyncExitStack

    import msgspec

    from cri import assembly, fsck, logs
    from cri.recovery import recover
    from cri.settings import StreamingSettings

    if not os.path.isdir(settings.root):
        raise NotFound("no such directory", step="look at the root", object=settings.root)
    logs.configure("warning")
    unserved = msgspec.structs.replace(settings, metrics="", streaming=StreamingSettings())

    async def look() -> Sequence[FindingLike]:
        async with AsyncExitStack() as undo:
            host = await assembly.build(unserved, undo, looking=not repair)
            await connect_monitors(host)
            found = await fsck.fsck(host, repair=False)
            if not repair:
                return found
            disconnect_monitors(host)
            await recover(host)  # which repairs most of it, and connects to who lives
            return join(found, await fsck.fsck(host, repair=True))

    return asyncio.run(look())


def join(found: Sequence[Finding], afterwards: Sequence[Finding]) -> Sequence[Finding]:
    """What was found first and is not there any more was repaired on the way."""
    from dataclasses import replace

    still = {(finding.kind, finding.object) for finding in afterwards}
    gone = [replace(finding, repaired=True) for finding in found if (finding.kind, finding.object) not in still]
    return [*gone, *afterwards]


async def connect_monitors(host: Host) -> None:
    """Know the living pods by their monitors, and change nothing."""
    import os

    from cri.host import LivePod

    for record in host.store.sandboxes:
        if record.monitor is None:
            continue
        directory = os.fspath(host.pod_directory(record.id))
        try:
            monitor = await host.supervisor.connect_monitor(directory, record.monitor.pid, record.monitor.start_time)
        except (Fault, OSError):  # not there: that is what is looked for
            continue
        host.pods[record.id] = LivePod(monitor, pause_pid=record.pause_pid)


def disconnect_monitors(host: Host) -> None:
    for pod in host.pods.values():
        pod.monitor.close()
    host.pods.clear()


def report(findings: Iterable[FindingLike], output: str) -> None:
    rows = [(found.kind, found.object, found.message, outcome(found)) for found in findings]
    if output == "json":
        keys = ("kind", "object", "message", "repaired", "error")
        print_json([{key: getattr(found, key) for key in keys} for found in findings])
    elif rows:
        print_table(("KIND", "OBJECT", "WHAT IS WRONG", ""), rows)
    else:
        print("nothing is wrong")


def outcome(finding: FindingLike) -> str:
    if finding.error:
        return f"not repaired: {finding.error}"
    return "repaired" if finding.repaired else ""
