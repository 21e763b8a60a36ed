"""Log lines: one event one line, with the ids that are bound."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from cri import logs
from runtime.errors import InvalidArgument

LOG = logging.getLogger("crisp.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, levels = list(root.handlers), (root.level, logging.getLogger("crisp").level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    logging.getLogger("crisp").setLevel(levels[1])
    logging.captureWarnings(False)


def test_a_file_gets_json_with_the_fields() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    with logs.bind(sandbox_id="s1"):
        LOG.info("made %s", "it", extra={"container_id": "c1"})
    line = json.loads(stream.getvalue())
    assert line["message"] == "made it"
    assert (line["level"], line["logger"]) == ("info", "crisp.test")
    assert (line["sandbox_id"], line["container_id"]) == ("s1", "c1")
    assert line["time"].endswith("Z")
    assert len(line["time"]) == len("2026-01-01T00:00:00.000000Z")


def test_a_terminal_gets_text_with_short_ids() -> None:
    stream = Terminal()
    logs.configure("info", stream)
    LOG.warning("two\nlines", extra={"sandbox_id": "0123456789abcdef", "took_ms": 3})
    assert "crisp.test: two\\nlines (sandbox_id=0123456789ab took_ms=3)" in stream.getvalue()
    assert stream.getvalue().startswith("\x1b[33m")
    assert stream.getvalue().count("\n") == 1


def test_a_traceback_stays_with_its_line() -> None:
    for stream in (io.StringIO(), Terminal()):
        logs.configure("info", stream)
        try:
            raise ValueError("boom")
        except ValueError:
            LOG.exception("failed")
        assert "ValueError: boom" in stream.getvalue()
    assert all(line.startswith("    ") for line in stream.getvalue().splitlines()[1:])


def test_a_field_cannot_replace_the_message() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    with logs.bind(level="forged", time="forged"):
        LOG.info("words")
    line = json.loads(stream.getvalue())
    assert line["level"] == "info"
    assert line["time"] != "forged"


async def test_bound_fields_follow_the_task_and_no_other() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)

    async def work(id: str) -> None:
        with logs.bind(sandbox_id=id):
            await asyncio.sleep(0.01)
            LOG.info("in")
        LOG.info("out")

    await asyncio.gather(work("a"), work("b"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sorted(line["sandbox_id"] for line in lines if line["message"] == "in") == ["a", "b"]
    assert all("sandbox_id" not in line for line in lines if line["message"] == "out")


def test_the_level_changes_at_run_time_and_libraries_stay_quiet() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    LOG.debug("hidden")
    logging.getLogger("library").info("hidden")
    logs.set_level("debug")
    LOG.debug("shown")
    logs.set_level("error")
    LOG.warning("hidden")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["shown"]


def test_configuring_twice_logs_once() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    logs.configure("info", stream)
    LOG.info("words")
    assert stream.getvalue().count("words") == 1


def test_an_unknown_level_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match="debug, info, warning, error, not 'loud'"):
        logs.set_level("loud")
