"""The operations on a chain of plugins."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from network.cni.cache import Entry
from network.cni.chain import Chain, error_words, is_namespace
from network.cni.conf import parse_list
from network.cni.plugin import Ended
from network.cni.result import parse
from network.cni.versions import SUPPORTED
from runtime.errors import DeadlineExceeded, Fault, HostFault, ResourceExhausted
from tests.fake_cni import FakePlugins

ID = "ab" * 32
NETNS = "/proc/self/ns/net"


@pytest.fixture
def plugins(tmp_path: Path) -> FakePlugins:
    return FakePlugins(tmp_path / "bin", tmp_path / "net.d")


@pytest.fixture
def chain(plugins: FakePlugins) -> Chain:
    return Chain(str(plugins.folder))


def entry(fakes: FakePlugins, version: str = "1.1.0", **changes: Any) -> Entry:
    conf = parse_list(fakes.conflist(version, **changes))
    return Entry(sandbox_id=ID, conf=conf, netns=NETNS, arguments={"IgnoreUnknown": "1"})


@pytest.mark.parametrize("version", SUPPORTED)
async def test_add_hands_each_result_to_the_next_and_del_goes_in_reverse_with_the_last(
    chain: Chain, plugins: FakePlugins, version: str
) -> None:
    pod = entry(plugins, version)
    result = await chain.add(pod, 20)
    first, second = plugins.calls()
    assert (first["type"], first["command"]) == ("first", "ADD") and "prevResult" not in first["config"]
    assert second["type"] == "second" and second["config"]["prevResult"] == result.to_document(version)
    assert first["config"]["name"] == "net" and first["config"]["cniVersion"] == version
    assert first["environment"]["CNI_NETNS"] == NETNS and first["environment"]["CNI_ARGS"] == "IgnoreUnknown=1"
    assert (first["group"], first["cwd"], first["descriptors"]) == (True, "/", [0, 1, 2])
    await chain.delete(replace(pod, result=result), 20)
    calls = plugins.calls()
    assert [(call["type"], call["command"]) for call in calls] == [("second", "DEL"), ("first", "DEL")]
    told = [call["config"].get("prevResult") for call in calls]
    assert told == [None if version == "0.3.1" else result.to_document(version)] * 2
    assert plugins.leases() == []


async def test_each_plugin_gets_the_capabilities_that_it_declares(chain: Chain, plugins: FakePlugins) -> None:
    listed = [{"type": "first", "capabilities": {"dns": True}}, {"type": "second"}]
    pod = replace(entry(plugins, plugins=listed), capabilities={"dns": {"servers": ["x"]}, "bandwidth": {"y": 1}})
    await chain.add(pod, 20)
    first, second = plugins.calls()
    assert first["config"]["runtimeConfig"] == {"dns": {"servers": ["x"]}}
    assert "runtimeConfig" not in second["config"]


async def test_a_namespace_that_is_gone_is_not_named_in_del(chain: Chain, plugins: FakePlugins, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for gone in (tmp_path / "none", tmp_path / "file"):
        await chain.delete(replace(entry(plugins), netns=str(gone)), 20)
        assert {call["environment"]["CNI_NETNS"] for call in plugins.calls()} == {""}
    assert is_namespace(NETNS) and not is_namespace("")


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("error", HostFault, r"no more addresses: in the pool \(code 7\); it wrote: a line and another"),
        ("garbage", HostFault, "its result is not JSON: '<html>'"),
        ("no result", HostFault, r"its result has the unknown cniVersion '9\.9\.9'"),
        ("huge", ResourceExhausted, "wrote more than"),
        ("crash", HostFault, "was killed by signal 9"),
        ("hang", DeadlineExceeded, "did not end within .* s; it wrote: waiting for a server"),
    ],
)
async def test_a_plugin_that_fails_ends_add_in_its_own_words(
    chain: Chain, plugins: FakePlugins, how: str, kind: type[Fault], words: str
) -> None:
    plugins.behave({"first ADD": how})
    with pytest.raises(kind, match=f"attach the pod to the network: plugin first: {words}"):
        await chain.add(entry(plugins), 3 if how == "hang" else 30)
    assert plugins.order() == ["first ADD"]


async def test_the_plugins_of_an_operation_share_its_time(chain: Chain, plugins: FakePlugins) -> None:
    plugins.behave({"second ADD": "hang"})
    with pytest.raises(DeadlineExceeded, match=r"plugin second: did not end within [012]\.[0-9]+ s"):
        await chain.add(entry(plugins), 3)


async def test_a_plugin_waits_for_its_turn_no_longer_than_it_may_run(
    chain: Chain, plugins: FakePlugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "_turns", asyncio.Semaphore(0))
    with pytest.raises(DeadlineExceeded, match=r"plugin first: did not begin within 0\.2 s: 16 other plugins run"):
        await chain.add(entry(plugins), 0.2)
    assert plugins.calls() == []


async def test_del_ends_with_the_first_that_fails(chain: Chain, plugins: FakePlugins) -> None:
    plugins.behave({"second DEL": "error"})
    with pytest.raises(HostFault, match="detach the pod from the network: plugin second: no more"):
        await chain.delete(entry(plugins), 20)
    assert plugins.order() == ["second DEL"]


async def test_check_goes_in_order_and_not_where_it_is_not_to(chain: Chain, plugins: FakePlugins) -> None:
    result = parse({"ips": [{"address": "10.0.0.2/8"}]}, "1.0.0")
    await chain.check(replace(entry(plugins, "0.4.0"), result=result), 20)
    first, second = plugins.calls()
    assert [first["type"], second["type"], first["command"]] == ["first", "second", "CHECK"]
    assert first["config"]["prevResult"] == second["config"]["prevResult"] == result.to_document("0.4.0")
    await chain.check(entry(plugins), 20)
    await chain.check(replace(entry(plugins, disableCheck=True), result=result), 20)
    await chain.check(replace(entry(plugins, "0.3.1"), result=result), 20)
    assert plugins.calls() == []


async def test_status_asks_each_plugin_and_finds_those_that_are_missing(chain: Chain, plugins: FakePlugins) -> None:
    await chain.status(entry(plugins).conf, 20)
    (call, _) = plugins.calls()
    assert call["command"] == "STATUS" and "CNI_CONTAINERID" not in call["environment"]
    await chain.status(entry(plugins, "1.0.0").conf, 20)
    assert plugins.calls() == []
    plugins.behave({"second STATUS": "error"})
    with pytest.raises(HostFault, match="ask whether the network is ready: plugin second: no more addresses"):
        await chain.status(entry(plugins).conf, 20)
    (plugins.folder / "second").chmod(0o644)
    with pytest.raises(HostFault, match="plugin second: is no program in"):
        await chain.status(entry(plugins, "1.0.0").conf, 20)
    (plugins.folder / "second").unlink()
    with pytest.raises(HostFault, match="plugin second: is not in"):
        await chain.status(entry(plugins, "1.0.0").conf, 20)


async def test_gc_tells_what_is_valid_and_tries_all(chain: Chain, plugins: FakePlugins) -> None:
    plugins.behave({"first GC": "error"})
    with pytest.raises(HostFault, match="collect the garbage of the network: plugin first"):
        await chain.collect(entry(plugins).conf, [ID], 20)
    first, second = plugins.calls()
    assert [first["type"], second["type"]] == ["first", "second"]
    assert second["config"]["cni.dev/valid-attachments"] == [{"containerID": ID, "ifname": "eth0"}]
    await chain.collect(entry(plugins, disableGC=True).conf, [], 20)
    await chain.collect(entry(plugins, "1.0.0").conf, [], 20)
    assert plugins.calls() == []


async def test_a_plugin_without_output_passes_the_result_on(chain: Chain, plugins: FakePlugins) -> None:
    plugins.behave({"second ADD": "silent"})
    assert (await chain.add(entry(plugins), 20)).addresses("eth0") == ("10.9.8.7", "fd09::7")
    plugins.behave({"first ADD": "silent"})
    with pytest.raises(HostFault, match="plugin first: its result is not JSON: ''"):
        await chain.add(entry(plugins), 20)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (b'{"code": 11, "msg": "try again\\nlater"}', "try again later (code 11)"),
        (b'{"msg": 3}', "3"),
        (b'{"ips": []}{ "code": 8, "msg": "the same" }\n', "the same (code 8)"),
        (b"", "ended with status 2"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"{}", "ended with status 2"),
        (b"[1]", "[1]"),
        (b"oops \x1b[31m", "oops [31m"),
        (b'{"code": "x", "msg": "y"}', '{"code": "x", "msg": "y"}'),
        (b"[" * 99999, "[" * 1000),
    ],
)
def test_words_are_found_in_whatever_a_plugin_prints(output: bytes, said: str) -> None:
    assert error_words(Ended(2, output, "")) == said
