"""crictl on a container that runs: what it uses, its limits, its output, and what happens to it.

``crictl_smoke`` takes these steps between a container's start and its end.

Invariant: the container goes on as it was, but for its limits.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.cgroups import layout
from tests.conformance.crictl_session import PATIENCE, Failed, Session, Step

MIB = 1024 * 1024
LINES = "for n in 1 2 3 4 5; do echo line $n; done; echo ready; while [ ! -e /go ]; do sleep 0.1; done; echo over"


def value(figures: dict[str, Any], *names: str) -> int:
    """A number in crictl's JSON, which has those of 64 bits as text."""
    found: Any = figures
    for name in names:
        found = found[name]
    return int(found["value"])


# ---------------------------------------------------------------------------- what it uses


def step_stats(crictl: Session) -> None:
    (stats,) = crictl.json("stats", crictl.container)["stats"]
    assert stats["attributes"]["id"] == crictl.container, stats
    assert value(stats, "memory", "workingSetBytes") > 0 and value(stats, "cpu", "usageCoreNanoSeconds") > 0, stats
    assert crictl.json("stats", "--pod", crictl.pod)["stats"][0]["attributes"]["id"] == crictl.container
    head, row = crictl("stats").splitlines()
    assert head.split()[1:] == ["NAME", "CPU", "%", "MEM", "DISK", "INODES", "SWAP"], head  # the first clears a screen
    assert row.split()[:2] == [crictl.container[:13], "main"], row


def step_statsp(crictl: Session) -> None:
    (stats,) = crictl.json("statsp", crictl.pod)["stats"]
    linux = stats["linux"]
    assert stats["attributes"]["id"] == crictl.pod, stats
    assert value(linux, "cpu", "usageCoreNanoSeconds") > 0 and value(linux, "memory", "workingSetBytes") > 0, linux
    assert linux["network"]["defaultInterface"]["name"] == "eth0", linux["network"]
    assert value(linux, "process", "processCount") >= 2, linux["process"]
    assert [each["attributes"]["id"] for each in linux["containers"]] == [crictl.container]
    _, row = crictl("statsp").splitlines()
    assert row.split()[:2] == ["smoke", crictl.pod[:13]], row


def step_metricdescs(crictl: Session) -> None:
    described = crictl.json("metricdescs")["descriptors"]
    names = [each["name"] for each in described]
    assert len(set(names)) == len(names) and "container_cpu_usage_seconds_total" in names, names
    assert all(each["help"] and each["labelKeys"] for each in described)


def step_metricsp(crictl: Session) -> None:
    keys = {each["name"]: len(each["labelKeys"]) for each in crictl.json("metricdescs")["descriptors"]}
    (pod,) = crictl.json("metricsp")["podMetrics"]
    (container,) = pod["containerMetrics"]
    assert (pod["podSandboxId"], container["containerId"]) == (crictl.pod, crictl.container)
    for metric in (*pod["metrics"], *container["metrics"]):
        assert len(metric["labelValues"]) == keys[metric["name"]], metric
    (memory,) = [each for each in container["metrics"] if each["name"] == "container_memory_usage_bytes"]
    assert value(memory, "value") > 0 and crictl.container in memory["labelValues"], memory
    assert "container_network_receive_bytes_total" in {each["name"] for each in pod["metrics"]}


# ---------------------------------------------------------------------------- its limits


def step_update_cpu_and_memory(crictl: Session) -> None:
    asked = {"cpu-quota": 20_000, "cpu-period": 100_000, "cpu-share": 512, "memory": 96 * MIB}
    crictl("update", *(f"--{name}={number}" for name, number in asked.items()), crictl.container)
    inspected = crictl.json("inspect", crictl.container)
    told = inspected["status"]["resources"]["linux"]
    shown = [int(told[name]) for name in ("cpuQuota", "cpuPeriod", "cpuShares", "memoryLimitInBytes")]
    assert shown == list(asked.values()), told
    assert limits_of(inspected["info"]["pid"]) == (20_000, 100_000, 96 * MIB)


def limits_of(pid: int) -> tuple[int, int, int]:
    """CPU quota and period, and the memory limit, as the kernel has them for the cgroup of ``pid``."""
    host, texts = layout.detect(), []
    for controller, v1, v2 in (
        ("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",)),
        ("memory", ("memory.limit_in_bytes",), ("memory.max",)),
    ):
        mount, on_v2 = host.root(controller), host.is_v2(controller)
        place = f"{mount}{cgroup_of(pid, '' if on_v2 else controller)}"
        texts += [Path(place, name).read_text() for name in (v2 if on_v2 else v1)]
    quota, period, memory = map(int, " ".join(texts).split())
    return quota, period, memory


def cgroup_of(pid: int, controller: str) -> str:
    """The path in the hierarchy of a v1 controller, or of v2 for an empty one (cgroups(7))."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return next(path for _, controllers, path in lines if controller in controllers.split(","))


def step_an_update_that_makes_no_sense_is_refused(crictl: Session) -> None:
    said = refusal(crictl, "update", "--cpu-period=1", crictl.container)
    assert "InvalidArgument" in said and "cpu_period" in said, said
    told = crictl.json("inspect", crictl.container)["status"]["resources"]["linux"]
    assert int(told["cpuPeriod"]) == 100_000, told


def step_runtime_config(crictl: Session) -> None:
    assert crictl("runtime-config").split() == ["cgroup", "driver:", "CGROUPFS"]


def step_checkpoint_is_not_there_and_says_so(crictl: Session) -> None:
    archive = crictl.folder / "checkpoint.tar"
    said = refusal(crictl, "checkpoint", f"--export={archive}", crictl.container)
    assert "Unimplemented" in said and "crisp does not have CheckpointContainer yet" in said, said
    assert not archive.exists()
    assert crictl.json("inspect", crictl.container)["status"]["state"] == "CONTAINER_RUNNING"


def refusal(crictl: Session, *arguments: str) -> str:
    """What crictl says of a command that has to fail."""
    try:
        crictl(*arguments)
    except Failed as failed:
        return str(failed)
    raise AssertionError(f"crictl {' '.join(arguments)} has to fail")


# ---------------------------------------------------------------------------- its input and output


def step_exec_takes_stdin(crictl: Session) -> None:
    typed = "".join(f"line {number}\n" for number in range(1000))
    for transport in ("spdy", "websocket"):
        arguments = ("exec", "-i", "--transport", transport, crictl.container)
        assert crictl(*arguments, "cat", typed=typed) == typed.strip()
        assert crictl(*arguments, "wc", "-l", typed=typed) == "1000"
        assert crictl(*arguments, "cat", typed="") == ""


def step_logs_of_the_last_lines(crictl: Session) -> None:
    with writing(crictl, "lines") as id:
        assert crictl("logs", id).splitlines() == [*(f"line {n}" for n in range(1, 6)), "ready"]
        assert crictl("logs", "--tail", "2", id).splitlines() == ["line 5", "ready"]
        assert crictl("logs", "--tail", "0", id) == ""
        assert crictl("logs", "--limit-bytes", "6", id) == "line 1"
        stamp, line = crictl("logs", "--timestamps", "--tail", "1", id).split(" ", 1)
        assert line == "ready" and stamp.startswith("20"), stamp


def step_logs_that_are_followed_to_the_end(crictl: Session) -> None:
    with writing(crictl, "followed") as id:
        process = subprocess.Popen(crictl.command("logs", "-f", "--tail", "1", id), stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            assert process.poll() is None, "it has to wait for more"
            crictl("exec", "-s", id, "touch", "/go")
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
    assert (said, process.returncode) == ("over\n", 0), (said, process.returncode)


@contextlib.contextmanager
def writing(crictl: Session, name: str) -> Iterator[str]:
    """A container that has written five lines, and "ready", and goes on once there is a file ``/go``."""
    id = crictl.run_container(name, LINES)
    try:
        yield id
    finally:
        crictl("rm", "-f", id)


# ---------------------------------------------------------------------------- what happens to it


def step_events(crictl: Session) -> None:
    with open(crictl.folder / "events", "w+") as heard:
        process = subprocess.Popen(crictl.command("events"), stdout=heard, stderr=subprocess.DEVNULL)
        try:
            id = create_until_heard(crictl, Path(heard.name))
            crictl("start", id)
            crictl("stop", "-t", "0", id)
            crictl("rm", id)
            wanted = [f"CONTAINER_{what}_EVENT" for what in ("CREATED", "STARTED", "STOPPED", "DELETED")]
            crictl.wait_for(lambda: wanted[-1] in kinds(Path(heard.name), id), "the last event")
        finally:
            process.terminate()
            process.wait(PATIENCE)
        assert kinds(Path(heard.name), id) == wanted
    of_pod = [each for each in events(Path(heard.name)) if each["containerId"] == id]
    assert {each["podSandboxStatus"]["id"] for each in of_pod} == {crictl.pod}


def create_until_heard(crictl: Session, heard: Path) -> str:
    """A container whose creation was heard of: crictl does not say when it has begun to listen."""
    for attempt in range(100):
        metadata = {"name": "heard", "attempt": attempt}
        id = crictl.create("heard", "sleep 1000", metadata=metadata)
        with contextlib.suppress(Failed):
            crictl.wait_for(lambda id=id: kinds(heard, id), "its creation", 0.5)  # type: ignore[misc]
            return id
        crictl("rm", id)
    raise Failed("no event of any creation")


def kinds(heard: Path, id: str) -> list[str]:
    return [each["containerEventType"] for each in events(heard) if each["containerId"] == id]


def events(heard: Path) -> list[dict[str, Any]]:
    """The whole ones: crictl writes one document after another."""
    text, found, decoder = heard.read_text(), [], json.JSONDecoder()
    while text:
        try:
            event, end = decoder.raw_decode(text)
        except ValueError:  # it is still being written
            break
        found.append(event)
        text = text[end:].lstrip()
    return found


RUNNING: tuple[Step, ...] = (
    *(step_stats, step_statsp, step_metricdescs, step_metricsp),
    *(step_update_cpu_and_memory, step_an_update_that_makes_no_sense_is_refused),
    *(step_runtime_config, step_checkpoint_is_not_there_and_says_so),
    *(step_exec_takes_stdin, step_logs_of_the_last_lines, step_logs_that_are_followed_to_the_end, step_events),
)
