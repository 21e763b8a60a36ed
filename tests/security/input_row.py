"""What a row of the table of bad inputs is made of.

``bad_images`` and ``bad_requests`` have the rows, ``test_bad_input_rows`` sends them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from tests.security.attacks import Code
from tests.security.place import Place

Ask = Callable[[Place], Awaitable[Any]]
Check = Callable[[Place, Any], Awaitable[None]]

OK, IA, NF, FP = Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION
AE, RE = Code.ALREADY_EXISTS, Code.RESOURCE_EXHAUSTED


@dataclass(frozen=True)
class Try:
    """One input of a row. ``ask`` sends it and must get ``code``, and a message that ``words`` match.

    What is accepted is looked at by ``check``, with the answer. ``prepares``: ``ask`` makes something
    on its way to the request that is refused, such as an image.
    """

    ask: Ask
    code: grpc.StatusCode
    words: str = ""
    check: Check | None = None
    prepares: bool = False


@dataclass(frozen=True)
class Row:
    """``number`` and ``text`` of the table, and the inputs that it means, by what they are."""

    number: int
    text: str
    tries: Mapping[str, Try]


def runtime(method: str, build: Callable[[Place], Message]) -> Ask:
    """The request that ``build`` makes, to the RPC ``method`` of the runtime service."""

    async def ask(place: Place) -> Any:
        return await getattr(place.crisp.runtime, method)(build(place))

    return ask


def images(method: str, request: Message) -> Ask:
    """``request`` to the RPC ``method`` of the image service."""

    async def ask(place: Place) -> Any:
        return await getattr(place.crisp.images, method)(request)

    return ask
