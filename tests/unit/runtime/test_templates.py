"""What a template gives is what writing the script anew would give, whatever the ids are."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

import pytest

from runtime.errors import StartRefused
from runtime.linux.script import Script
from runtime.templates import KEPT, LARGEST, Templates


class Writer:
    """Writes every string of a request into a script, and counts how often."""

    def __init__(self) -> None:
        self.written = 0

    def __call__(self, request: Any) -> Script:
        self.written += 1
        script = Script()
        for name, value in request.items():
            if value == "refused":
                raise StartRefused(f"{request['id']} is refused")
            script.call("openat", 0, value, len(value), object=name)
            script.call("execve", value, script.vector(["a", value, f"--{value}--"]))
        return script


def container() -> str:
    return secrets.token_hex(32)


@pytest.fixture
def write() -> Writer:
    return Writer()


def test_requests_that_differ_in_ids_alone_are_written_once(write: Writer) -> None:
    templates = Templates()
    for number in range(1, 10):
        id, pod = container(), str(uuid.uuid4())
        request = {
            "id": id,
            "source": f"/pods/{pod}/volumes/{id}",
            "cgroup": f"/sys/fs/cgroup/{id}/exec-{number}",
            "beside": f"{id}{id}{pod}",
        }
        assert templates.script("init", request, write) == Writer()(request).bytes()
    assert write.written == 1


def test_ids_that_are_alike_elsewhere_or_of_another_length_are_another_script(write: Writer) -> None:
    templates = Templates()
    one, two = container(), container()
    for request in (
        {"a": one, "b": one},
        {"a": one, "b": two},
        {"a": one, "b": str(uuid.uuid4())},
        {"a": f"/x/exec-9/{one}", "b": two},
        {"a": f"/x/exec-10/{one}", "b": two},
    ):
        assert templates.script("init", request, write) == Writer()(request).bytes()
    assert write.written == 5


def test_what_only_looks_like_an_exec_stays_as_it_is(write: Writer) -> None:
    templates = Templates()
    for number in (7, 8):
        request = {"cgroup": f"/c/exec-{number}", "env": "NAME=exec-7", "arg": "exec-7/", "other": "/exec-7a"}
        assert templates.script("exec", request, write) == Writer()(request).bytes()
    assert write.written == 1


def test_another_kind_or_another_content_is_another_script(write: Writer) -> None:
    templates = Templates()
    id = container()
    templates.script("init", {"a": id}, write)
    templates.script("exec", {"a": id}, write)
    templates.script("init", {"a": id, "b": "x"}, write)
    templates.script("init", {"a": id, "b": "y"}, write)
    assert write.written == 4


@pytest.mark.parametrize("text", ["\x7f", "\x7fA" + "\x7f" * 62, "x\\u007f"])
def test_a_request_that_holds_the_mark_is_written_by_itself(write: Writer, text: str) -> None:
    templates = Templates()
    for _ in range(2):
        request = {"a": container(), "b": text}
        assert templates.script("init", request, write) == Writer()(request).bytes()


def test_names_of_any_kind_may_be_given(write: Writer) -> None:
    templates = Templates()
    for pod in ("crisp-one/pod-1", "other-two/pod-7", "other-two/pod-77", "a/b", "\x7fA/pod-1"):
        request = {"a": f"/sys/fs/cgroup/cpu/{pod}/{container()}", "b": pod, "c": "/sys"}
        assert templates.script("init", request, write, [pod, ""]) == Writer()(request).bytes()
    assert write.written == 4


def test_how_deep_a_name_is_can_be_told_from_its_mark() -> None:
    def write(request: Any) -> Script:
        script = Script()
        script.call("umask", request["a"].count("/"))
        return script

    templates = Templates()
    for name in ("ab/cd", "abcde"):
        assert templates.script("", {"a": name}, write, [name]) == write({"a": name}).bytes()


def test_a_large_request_is_not_remembered(write: Writer) -> None:
    templates = Templates()
    request = {"a": "x" * LARGEST}
    for _ in range(2):
        assert templates.script("init", request, write) == Writer()(request).bytes()
    assert write.written == 2


def test_the_name_of_a_pod_may_differ_where_it_is_a_variable(write: Writer) -> None:
    templates = Templates()
    for name in ("pod-1", "pod-2", "a"):
        id = container()
        request = {"id": id, "a": f"HOSTNAME={name}", "b": f"MYHOSTNAME={name}"[:10], "c": "HOSTNAME=x"}
        assert templates.script("init", request, write) == Writer()(request).bytes()
    assert write.written == 2


def test_more_ids_than_there_are_marks_are_written_by_themselves(write: Writer) -> None:
    request = {str(number): container() for number in range(60)}
    assert Templates().script("init", request, write) == Writer()(request).bytes()


def test_a_refusal_has_the_words_of_the_request_itself(write: Writer) -> None:
    templates = Templates()
    for _ in range(2):
        id = container()
        with pytest.raises(StartRefused, match=id):
            templates.script("init", {"id": id, "b": "refused"}, write)


def test_only_so_many_are_kept_and_those_in_use_longest(write: Writer) -> None:
    templates = Templates()
    templates.script("init", {"a": "first"}, write)
    for number in range(KEPT):
        templates.script("init", {"a": "first"}, write)
        templates.script("init", {"a": str(number)}, write)
    assert write.written == KEPT + 1
    templates.script("init", {"a": "0"}, write)
    assert write.written == KEPT + 2
