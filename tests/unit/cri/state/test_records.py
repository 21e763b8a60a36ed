"""Records: frozen, and readable when a later version has added a field."""

from __future__ import annotations

import msgspec
import pytest

from cri.state.records import SandboxRecord, SandboxState
from tests.unit.cri.state.samples import container, operation, sandbox


@pytest.mark.parametrize("record", [sandbox(), container(), operation()])
def test_a_record_survives_the_way_to_json_and_back(record: msgspec.Struct) -> None:
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


def test_a_record_is_not_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        sandbox().state = SandboxState.UNKNOWN  # type: ignore[misc]


def test_a_field_of_a_later_version_is_passed_over() -> None:
    fields = msgspec.json.decode(msgspec.json.encode(sandbox()))
    fields["later"] = {"deep": 1}
    assert msgspec.json.decode(msgspec.json.encode(fields), type=SandboxRecord) == sandbox()
