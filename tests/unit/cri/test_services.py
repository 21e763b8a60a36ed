"""The table of contents: every RPC is in it, or in the list of what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from cri.host import Host
from cri.services import IMAGE_SERVICE, RUNTIME_SERVICE, bind
from proto import api_pb2

LIMITS = (Path(__file__).resolve().parents[3] / "docs" / "limits.md").read_text()


def test_what_is_not_there_is_said_in_the_limits_and_nothing_else_is() -> None:
    section = LIMITS.split("## RPCs that answer UNIMPLEMENTED", 1)[1].split("##", 1)[0]
    told = {word.strip(" .") for word in section.replace("\n", " ").replace(";", ",").split(",")}
    services = api_pb2.DESCRIPTOR.services_by_name
    known = {method.name for service in services.values() for method in service.methods}
    assert told == known - set(RUNTIME_SERVICE) - set(IMAGE_SERVICE)


def test_no_service_has_an_rpc_of_another() -> None:
    services = api_pb2.DESCRIPTOR.services_by_name
    assert set(RUNTIME_SERVICE) <= set(services["RuntimeService"].methods_by_name)
    assert set(IMAGE_SERVICE) <= set(services["ImageService"].methods_by_name)


async def test_a_bound_function_gets_its_host() -> None:
    async def seen(*given: Any) -> tuple[Any, ...]:
        return given

    host = cast(Host, object())
    handler = bind({"Version": seen}, host)["Version"]
    assert await handler("request", cast(Any, "context")) == (host, "request", "context")
