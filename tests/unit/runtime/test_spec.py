"""Ids of a document's user namespace."""

from __future__ import annotations

from typing import Any

import pytest

from runtime import spec


@pytest.mark.parametrize(("number", "outside"), [(0, 1000), (99, 1099), (100, spec.UNMAPPED), (-1, spec.UNMAPPED)])
def test_an_id_of_a_user_namespace_has_one_on_the_host_or_none(number: int, outside: int) -> None:
    linux: Any = {"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 100}]}
    ids = spec.mapping_of(linux)
    assert ids is not None and spec.to_host(number, ids) == outside
    nothing: Any = {}
    assert spec.mapping_of(nothing) is None
