"""Pods up and down sixteen at a time, with a ``kill -9`` of the daemon in the middle: nothing is left.

``CRISP_SOAK_PODS`` and ``CRISP_SOAK_ROUNDS`` say how many and how often, ``CRISP_SOAK_SEED`` what goes wrong.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from proto import api_pb2 as api
from tests.failpoints import truth
from tests.failpoints.serving import Daemon, in_folder, wait_for
from tests.fake_cni import FakePlugins
from tests.soak.inventory import SETTLING, Inventory, differences, take_inventory, wait_for_the_same
from tests.soak.rounds import Rounds

PODS = int(os.environ.get("CRISP_SOAK_PODS", "60"))
ROUNDS = int(os.environ.get("CRISP_SOAK_ROUNDS", "1"))
SEED = int(os.environ.get("CRISP_SOAK_SEED", str(time.time_ns() % 1_000_000)))
POOL = 4
ONE_IN = 10
"""Of so many calls of a plugin one goes wrong."""

pytestmark = pytest.mark.timeout(180 + PODS * ROUNDS * 3)


@pytest.fixture
def built_in() -> Iterator[Daemon]:
    with in_folder(failpoints=None, pool=POOL, subnets=["10.220.0.0/20", "fd00:220::/64"]) as daemon:
        daemon.start()
        daemon.import_demo_image()
        yield daemon


@pytest.fixture
def plugins() -> Iterator[tuple[Daemon, FakePlugins]]:
    with in_folder(failpoints=None, cni='bin_dir = "%s/plugins"\n') as daemon:
        plugins = FakePlugins(daemon.folder / "plugins", daemon.folder / "cni")
        plugins.configure()
        daemon.start()
        daemon.import_demo_image()
        yield daemon, plugins
        plugins.behave({})


def run_rounds(rounds: Rounds, before: Inventory) -> None:
    """The daemon is killed in the middle of the second, or of the only one: on the way up and on the way down."""
    try:
        for number in range(1, ROUNDS + 1):
            run_round(rounds, number, before)
    finally:
        print(rounds.report())


def run_round(rounds: Rounds, number: int, before: Inventory) -> None:
    kill, names, began = number == min(2, ROUNDS), rounds.names(f"round{number}"), time.monotonic()
    rounds.up(names, kill=kill)
    up = time.monotonic()
    check_all_are_there(rounds, names)
    checked = time.monotonic()
    rounds.down(kill=kill)
    down = time.monotonic()
    wait_for_the_same(rounds.daemon, before)
    parts = {"up": up - began, "checked": checked - up, "down": down - checked, "settled": time.monotonic() - down}
    print(f"round {number}: " + ", ".join(f"{what} {spent:.1f} s" for what, spent in parts.items()), flush=True)
    assert list_complaints(rounds.daemon) == []


def check_all_are_there(rounds: Rounds, names: list[str]) -> None:
    assert sorted(pod.metadata.name for pod in rounds.daemon.pods()) == sorted(names)
    lies = truth.settled(lies_but_blank_pods, rounds.daemon)
    assert not lies, "said and not so:\n  " + "\n  ".join(lies)
    if rounds.serves:
        rounds.check_answers(names)
    complaints = truth.settled(list_complaints, rounds.daemon, SETTLING)  # a DEL may have to be tried again
    assert not complaints, complaints


def list_complaints(daemon: Daemon) -> list[str]:
    """Those of the daemon itself: plugins may say that something is wrong by chance."""
    status = daemon.runtime.Status(api.StatusRequest()).status
    told = [condition.message for condition in status.conditions if not condition.status]
    return [line for line in [*told, *daemon.fsck()] if not is_of_a_plugin(line)]


def lies_but_blank_pods(daemon: Daemon) -> list[str]:
    """Those of the pool have a monitor and are no pods yet."""
    lies = truth.find_lies(daemon)
    blank = [lie for lie in lies if lie.startswith("monitor ")]
    return lies if len(blank) > POOL else [lie for lie in lies if lie not in blank]


def test_nothing_is_left_of_many_pods_and_a_killed_daemon(built_in: Daemon) -> None:
    rounds = Rounds(built_in, PODS, serves=True)
    warm_up(rounds)
    before = filled(built_in)
    run_rounds(rounds, before)
    assert rounds.unanswered


def warm_up(rounds: Rounds) -> None:
    """What is made once, with the first pods, and stays."""
    rounds.pods, pods = 1, rounds.pods
    rounds.up(rounds.names("first"))
    rounds.down()
    rounds.pods = pods


def filled(daemon: Daemon) -> Inventory:
    """Once the pool is full and nothing changes any more."""
    wait_for(lambda: len(os.listdir(daemon.state / "pods")) == POOL, "the pool to be filled")
    return settled(daemon)


def settled(daemon: Daemon) -> Inventory:
    before = take_inventory(daemon)
    while True:
        time.sleep(0.5)
        now = take_inventory(daemon)
        if not differences(before, now):
            return now
        before = now


def test_nothing_is_left_where_one_call_of_a_plugin_in_ten_goes_wrong(plugins: tuple[Daemon, FakePlugins]) -> None:
    """Whoever asked for the pod is told of it and asks again; every ADD that could have left something has a
    DEL after it that succeeded."""
    daemon, programs = plugins
    print(f"CRISP_SOAK_SEED={SEED}")
    rounds = Rounds(daemon, PODS, serves=False, tolerates=lambda error: is_of_a_plugin(error.details() or ""))
    warm_up(rounds)
    before = settled(daemon)
    programs.fail_by_chance(SEED, ONE_IN)
    run_rounds(rounds, before)
    wait_for(lambda: not programs.leases(), "the plugins to free all that was leased")
    truth.check_nothing_remains(daemon)
    calls = programs.calls()
    failed = Counter(f"{call['type']} {call['command']}" for call in calls if call["how"])
    print(f"{len(calls)} calls, of which went wrong: {dict(failed)}")
    assert rounds.refused
    assert unpaid(calls) == []


def is_of_a_plugin(told: str) -> bool:
    return any(words in told for words in ("plugin first", "plugin second", "result has no address"))


def unpaid(calls: list[dict[str, Any]]) -> list[str]:
    """Plugin and pod of each ADD after which no DEL succeeded; in the order in which plugins began."""

    def whose(call: dict[str, Any]) -> tuple[str, str]:
        return call["type"], call["environment"].get("CNI_CONTAINERID", "")

    of_pods = sorted((call for call in calls if call["command"] in ("ADD", "DEL")), key=whose)
    lasts = [list(theirs)[-1] for _, theirs in groupby(of_pods, whose)]
    return [json.dumps(last) for last in lasts if (last["command"], last["how"]) != ("DEL", "")]
