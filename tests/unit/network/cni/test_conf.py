"""Network configurations, sound and malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.cni.conf import MAX_BYTES, ConfError, is_configuration, parse_file, parse_list

BRIDGE = {"type": "bridge", "ipam": {"type": "host-local"}, "capabilities": {"portMappings": True, "bandwidth": False}}


def listed(**changes: Any) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [BRIDGE], **changes}).encode()


def test_a_list_is_read_and_written_back() -> None:
    conf = parse_file(listed(disableCheck=True, disableGC="true", plugins=[BRIDGE, {"type": "tuning"}]), "a.conflist")
    assert (conf.name, conf.version, conf.disable_check, conf.disable_gc) == ("pods", "1.0.0", True, True)
    assert [plugin.type for plugin in conf.plugins] == ["bridge", "tuning"]
    assert conf.plugins[0].capabilities == {"portMappings"}
    assert parse_list(conf.to_document()) == conf


@pytest.mark.parametrize("name", ["a.conf", "a.json"])
def test_a_single_plugin_is_a_list_of_one(name: str) -> None:
    conf = parse_file(json.dumps({"cniVersion": "0.3.1", "name": "one", **BRIDGE}).encode(), name)
    assert (conf.name, conf.version, len(conf.plugins)) == ("one", "0.3.1", 1)
    assert conf.plugins[0].raw["ipam"] == {"type": "host-local"}


def test_the_newest_of_several_versions_is_spoken() -> None:
    assert parse_file(listed(cniVersions=["0.4.0", "1.1.0"]), "a.conflist").version == "1.1.0"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.conflist", True),
        ("a.conf", True),
        ("a.json", True),
        (".a.conf", False),
        ("a.conf~", False),
        ("README", False),
    ],
)
def test_only_files_with_the_known_endings_are_configurations(name: str, expected: bool) -> None:
    assert is_configuration(name) is expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"name": NaN}', "is not JSON: nan is no value"),
        (b"[]", "is no JSON object"),
        (b"{}", "has no name"),
        (listed(name=3), "has a name that is none: 3"),
        (listed(name="../etc"), r"has a name that is none: '\.\./etc'"),
        (listed(name=""), "has no name"),
        (listed(plugins=[]), "has no plugins"),
        (listed(plugins={}), "has no plugins"),
        (listed(plugins=[BRIDGE] * 33), "has 33 plugins, more than 32"),
        (listed(plugins=["bridge"]), r"plugins\[0\] is no JSON object"),
        (listed(plugins=[BRIDGE, {}]), r"plugins\[1\] has no type"),
        (listed(plugins=[{"type": 3}]), "has no type"),
        (listed(plugins=[{"type": "../../bin/sh"}]), "that is no plugin's name"),
        (listed(plugins=[{"type": "/bin/sh"}]), "that is no plugin's name"),
        (listed(plugins=[{"type": ".."}]), "that is no plugin's name"),
        (listed(plugins=[{"type": "a\0b"}]), "that is no plugin's name"),
        (listed(plugins=[{"type": "bridge", "ipam": {"type": "../sh"}}]), r"plugins\[0\]\.ipam has a type that is no"),
        (listed(plugins=[{"type": "bridge", "capabilities": [1]}]), "capabilities is no JSON object"),
        (listed(cniVersion="7.0.0"), "has cniVersion 7.0.0, which is none of"),
        (listed(cniVersion=1), "that is no text"),
        (listed(cniVersions="1.0.0"), "that is no text"),
        (listed(disableCheck="yes"), "has a disableCheck that is neither"),
        (b" " * (MAX_BYTES + 1), "has more than"),
    ],
)
def test_a_malformed_list_says_what_is_wrong(text: bytes, words: str) -> None:
    with pytest.raises(ConfError, match=words):
        parse_file(text, "a.conflist")


def test_a_list_under_a_single_plugins_name_is_told() -> None:
    with pytest.raises(ConfError, match=r"its name has to end in \.conflist"):
        parse_file(listed(), "a.conf")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["bridge", "1.0.0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "cniVersion", "plugins", "type", "ipam", "capabilities"]), inner)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_document_is_read_or_refused(document: Any) -> None:
    try:
        conf = parse_file(json.dumps(document).encode(), "a.conflist")
    except ConfError:
        return
    assert all("/" not in plugin.type for plugin in conf.plugins)
