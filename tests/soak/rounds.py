"""Many pods up and down again, sixteen at a time, by whatever daemon there is at the moment.

A round brings all pods up and then takes all down. Each request is made until it is answered: who
was answered nothing as the daemon was killed makes the identical one of the next daemon. What an
error means otherwise is the test's matter (``tolerates``).

Invariant: when ``up`` or ``down`` returns, every request of every pod was answered once.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from proto import api_pb2 as api
from tests.failpoints.serving import Daemon, wait_for

AT_ONCE = 16
TRIES = 40
"""More than that for one request, and it is not bad luck."""
SECONDS = 60.0
"""For a request and for its answer; with others at once, on a busy machine."""
FIRST_PORT = 21000
"""Host ports of pods: below those that the kernel gives away by itself."""

Tolerates = Callable[[grpc.RpcError], bool]


def refuse(_error: grpc.RpcError) -> bool:
    return False


class Rounds:
    """``pods`` pods of ``daemon``; with ``serves`` each says its name at a host port."""

    def __init__(self, daemon: Daemon, pods: int, *, serves: bool, tolerates: Tolerates = refuse) -> None:
        self.daemon, self.pods = daemon, pods
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self.unanswered = 0
        self.serves, self._tolerates = serves, tolerates
        self._is_there = threading.Event()
        self._is_there.set()
        self._lock, self._answered, self._kill_at = threading.Lock(), 0, 0
        self._half = threading.Event()
        self._sandboxes: dict[str, str] = {}

    def up(self, names: list[str], *, kill: bool = False) -> None:
        """All pods with a container that runs; with ``kill`` the daemon is killed when half of it is done."""
        self._carry_out(self._begin, names, 3 if kill else 0)

    def down(self, *, kill: bool = False) -> None:
        self._carry_out(self._end, list(self._sandboxes), 2 if kill else 0)

    def names(self, prefix: str) -> list[str]:
        return [f"{prefix}-{number}" for number in range(self.pods)]

    def check_answers(self, names: list[str]) -> None:
        """That the host port of each pod leads to that pod."""
        for number, name in enumerate(names):
            said = wait_for_words(FIRST_PORT + number)
            assert said == f"{name}\n".encode(), (name, said)

    def report(self) -> str:
        """How long answers took, and what was refused."""
        lines = [f"{'':18}{'n':>6}{'p50':>9}{'p99':>9}{'most':>9}  ms"]
        for rpc, spent in self.times.items():
            found = sorted(spent)
            cells = (found[len(found) // 2], found[len(found) * 99 // 100], found[-1])
            lines.append(f"{rpc:18}{len(found):6}" + "".join(f"{each * 1e3:9.1f}" for each in cells))
        lines += [f"{count} times: {words}" for words, count in self.refused.most_common(12)]
        return "\n".join([*lines, f"{self.unanswered} requests were not answered by a killed daemon"])

    # ------------------------------------------------------------------ one pod

    def _begin(self, name: str) -> None:
        number = int(name.rpartition("-")[2])
        port = api.PortMapping(container_port=80, host_port=FIRST_PORT + number)
        request = self.daemon.pod(name, port_mappings=[port] if self.serves else [])
        command = ("nc", "-ll", "-p", "80", "-e", "echo", name) if self.serves else ("sleep", "1000")
        sandbox = self._ask("RunPodSandbox", request).pod_sandbox_id
        create = self.daemon.container(sandbox, request, *command)
        container = self._ask("CreateContainer", create).container_id
        self._ask("StartContainer", api.StartContainerRequest(container_id=container))
        with self._lock:
            self._sandboxes[name] = sandbox

    def _end(self, name: str) -> None:
        sandbox = self._sandboxes[name]
        self._ask("StopPodSandbox", api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        self._ask("RemovePodSandbox", api.RemovePodSandboxRequest(pod_sandbox_id=sandbox))
        with self._lock:
            del self._sandboxes[name]

    def _ask(self, rpc: str, request: Any) -> Any:
        for _ in range(TRIES):
            assert self._is_there.wait(SECONDS), "no daemon came back"
            process, began = self.daemon.process, time.monotonic()
            try:
                answer = getattr(self.daemon.runtime, rpc)(request, timeout=SECONDS)
            except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed meanwhile
                self._judge(rpc, error, was_killed=not self._is_there.is_set() or self.daemon.process is not process)
            else:
                self._count(rpc, time.monotonic() - began)
                return answer
        raise AssertionError(f"{rpc} was refused {TRIES} times: {request}")

    def _judge(self, rpc: str, error: grpc.RpcError | ValueError, *, was_killed: bool) -> None:
        with self._lock:
            if was_killed:
                self.unanswered += 1
            elif isinstance(error, grpc.RpcError) and self._tolerates(error):
                self.refused[f"{rpc}: {error.code().name}"] += 1
            else:
                raise error

    def _count(self, rpc: str, spent: float) -> None:
        with self._lock:
            self.times[rpc].append(spent)
            self._answered += 1
            if self._answered == self._kill_at:
                self._half.set()

    # ------------------------------------------------------------------ all of them

    def _carry_out(self, job: Callable[[str], None], names: Iterable[str], requests_each: int) -> None:
        """``requests_each`` is how many a job makes, where the daemon is to be killed; else 0."""
        jobs = list(names)
        self._half.clear()
        self._kill_at = self._answered + len(jobs) * requests_each // 2
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = [pool.submit(job, name) for name in jobs]
            try:
                if requests_each:
                    assert self._half.wait(SECONDS + len(jobs)), "half of it was never done"
                    self._kill()
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _kill(self) -> None:
        self._is_there.clear()
        began = time.monotonic()
        try:
            self.daemon.restart()
            self.times["kill and restart"].append(time.monotonic() - began)
        finally:
            self._is_there.set()


def wait_for_words(port: int) -> bytes:
    """What is said there once anything is: a server may have only begun."""
    said = b""

    def listen() -> bytes:
        nonlocal said
        said = said_at(port)
        return said

    wait_for(listen, f"an answer at port {port}")
    return said


def said_at(port: int) -> bytes:
    """What is said at a port of this host; nothing if nobody is there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            return client.recv(200)
    except OSError:
        return b""
