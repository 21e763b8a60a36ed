"""Plans as JSON."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.document import decode, dump_json, encode
from cri.plan.sandbox import SandboxPlan


class Small(msgspec.Struct, frozen=True):
    env: list[str]
    n: int = 0


@given(st.lists(st.binary(max_size=12)))
def test_any_bytes_of_the_environment_come_back(values: list[bytes]) -> None:
    plan = Small([value.decode("utf-8", "surrogateescape") for value in values])
    data = encode(plan)
    assert decode(data, Small) == plan
    assert [text.encode("utf-8", "surrogateescape") for text in json.loads(data)["env"]] == values


def test_a_plan_of_a_pod_comes_back_equal(pod: SandboxPlan) -> None:
    assert decode(encode(pod), SandboxPlan) == pod


@pytest.mark.parametrize("data", [b"", b"{", b'{"env": 3}', b'{"env": ["\\udcff"], "n": "x"}', b"\xff"])
def test_what_is_no_plan_is_an_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data, Small)


def test_lone_surrogates_are_escaped_and_all_with_them() -> None:
    assert dump_json({"a": ["é"]}) == '{"a":["é"]}'.encode()
    assert dump_json({"a": ["é\udcff"]}) == b'{"a":["\\u00e9\\udcff"]}'
