"""The log of a container: every byte once, in the CRI's format, whatever the output is like."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from proto import api_pb2 as api
from runtime.linux import mount
from tests.cri.harness import Crisp

LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) (.*)\n")
BOUND = 16 * 1024


async def test_a_line_that_is_too_long_is_cut_in_parts_that_say_so(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    script = f"head -c {BOUND * 2 + 10} /dev/zero | tr '\\0' x; echo; echo short; printf unfinished"
    id = await crisp.run(sandbox, crisp.container("sh", "-c", script))
    await crisp.wait_exit(id)
    content = crisp.log_path(id).read_bytes()
    lines = [match for line in content.splitlines(keepends=True) if (match := LINE.fullmatch(line))]
    assert len(lines) == len(content.splitlines())
    parts: list[bytes] = [b""]
    for line in lines:
        assert len(line[4]) <= BOUND
        parts[-1] += line[4]
        if line[3] == b"F":
            parts.append(b"")
    assert parts[:2] == [b"x" * (BOUND * 2 + 10), b"short"]
    assert b"unfinished" in parts and lines[0][3] == b"P"


async def test_bytes_that_are_no_text_are_kept(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container("printf", "a\\000b\\377\\r\\n\\n"))
    await crisp.wait_exit(id)
    lines = [LINE.fullmatch(line + b"\n") for line in crisp.log_path(id).read_bytes().split(b"\n")[:-1]]
    assert [line[4] if line else None for line in lines] == [b"a\x00b\xff\r", b""]


async def test_a_pod_without_a_log_directory_logs_nothing(crisp: Crisp) -> None:
    pod = crisp.pod()
    pod.log_directory = ""
    status, _ = await crisp.run_to_end(await crisp.run_pod(pod), "echo", "hi")
    assert (status.log_path, status.exit_code) == ("", 0)


async def test_what_a_full_disk_refuses_is_told_of_the_container_and_counted(crisp: Crisp) -> None:
    """While it runs, and after its end; an entry is whole or lost."""
    pod = crisp.pod()
    folder = Path(pod.log_directory)
    folder.mkdir(parents=True)
    mount.mount("small", str(folder), "tmpfs", 0, "size=64k")
    try:
        script = "i=0; while [ $i -lt 2000 ]; do echo $i-0123456789012345678901234567890123456789; i=$((i+1)); done"
        id = await crisp.run(await crisp.run_pod(pod), crisp.container("sh", "-c", f"{script}; exec sleep 1000"))
        async with asyncio.timeout(20):
            while (lost := await told(crisp, id)) + len(crisp.log_path(id).read_bytes().splitlines()) < 2000:
                await asyncio.sleep(0.01)
        kept = crisp.log_path(id).read_bytes().splitlines(keepends=True)
        assert 0 < lost == 2000 - len(kept)
        assert all(LINE.fullmatch(line) for line in kept)
        assert f"crisp_log_entries_dropped_total {lost}.0" in crisp.host.metrics.render().decode()
        await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id, timeout=0))
        assert await told(crisp, id) == lost == crisp.host.store.containers.get(id).log_dropped
        await crisp.remove_all()
        assert crisp.host.dropped.of(id) == 0
    finally:
        mount.umount2(str(folder), mount.MNT_DETACH)


async def told(crisp: Crisp, id: str) -> int:
    answer = await crisp.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=id, verbose=True))
    return int(json.loads(answer.info["info"])["logDropped"])
