"""How a command ended, as clients of each version read it."""

from __future__ import annotations

import json

import pytest

from cri.streaming.session import CommandStreams, CommandTicket, Outcome, StreamReset, Wanted
from cri.streaming.status import TEXT_LIMIT, encode_outcome, outcome_of
from runtime.errors import NotFound


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v5.channel.k8s.io"])
def test_new_versions_get_a_status_with_the_code(protocol: str) -> None:
    assert json.loads(encode_outcome(Outcome(), protocol)) == {"metadata": {}, "status": "Success"}
    status = json.loads(encode_outcome(Outcome(code=3), protocol))
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}
    status = json.loads(encode_outcome(Outcome(error="no such container"), protocol))
    assert (status["reason"], status["code"]) == ("InternalError", 500)
    assert status["message"] == "Internal error occurred: no such container"


@pytest.mark.parametrize("protocol", ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"])
def test_old_versions_get_text_or_nothing(protocol: str) -> None:
    assert encode_outcome(Outcome(), protocol) == b""
    assert encode_outcome(Outcome(code=3), protocol) == b"command terminated with exit code 3"
    assert encode_outcome(Outcome(code=3, error="broken"), protocol) == b"broken"


def test_an_error_is_bounded() -> None:
    assert len(encode_outcome(Outcome(error="x" * 100_000), "channel.k8s.io")) == TEXT_LIMIT


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (NotFound("no such container"), "exec: no such container"),
        (StreamReset("gone"), "exec: gone"),
        (KeyError("x"), "unexpected KeyError"),
    ],
)
async def test_whatever_fails_becomes_an_outcome(raised: Exception, words: str) -> None:
    async def serve(streams: CommandStreams) -> Outcome:
        raise raised

    async def never() -> None:
        return None

    streams = CommandStreams(None, None, None, never, never)
    outcome = await outcome_of(CommandTicket("exec", Wanted(False, True, False, False), serve), streams)
    assert words in outcome.error
