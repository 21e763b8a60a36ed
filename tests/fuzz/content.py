"""The parsers of files that ``tests.fuzz`` feeds beside those of ``parsers``: a node's seccomp
profiles, an image's passwd, group and configuration.

JSON is changed as a document, too, for most mutated bytes are none any more.

Invariant: as in ``parsers``.
"""

from __future__ import annotations

import abc
import json
import random
from typing import Any

from runtime import users
from runtime.errors import FailedPrecondition, Fault, InvalidArgument, ResourceExhausted
from runtime.images.config import ImageConfig, chain_ids, parse_config
from runtime.looks import ResolveUserRequest
from runtime.seccomp.compile import compile_profile
from runtime.seccomp.document import Profile, parse_profile
from runtime.seccomp.localhost import flag_bits, plan_rules, resolve_profile
from tests.fuzz.parsers import Parser
from tests.unit.runtime.seccomp.interpreter import evaluate

STRANGE: tuple[Any, ...] = (None, True, -1, 0, 6, 2**31, 2**63, 2**64 - 1, 2**64, 1.5, "", "\0", "\udc80", "x", [], {})
INSTRUCTION_BYTES, MOST_INSTRUCTIONS = 8, 4096


def change(value: Any, pool: list[Any], chance: random.Random) -> Any:
    """``value`` with something else in one place or none: of ``pool``, doubled, missing or strange."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(sorted(value))
        return {**value, key: change(value[key], pool, chance)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        return [*value[:at], change(value[at], pool, chance), *value[at + 1 :]]
    kind = chance.randrange(4)
    if kind == 0 and isinstance(value, list):
        return value * chance.choice((0, 2, 40))
    if kind == 1 and isinstance(value, dict):
        return {chance.choice((key, key.upper(), f"{key}x")): each for key, each in value.items()}
    alike = [part for part in pool if type(part) is type(value)]
    return chance.choice(STRANGE if kind == 2 else alike or pool)


def parts(value: Any) -> list[Any]:
    """Everything that is in a document."""
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(part for each in inside for part in parts(each))]


class Json(Parser, abc.ABC):
    """``taken`` is given documents, half of them whole ones with some changes."""

    def __init__(self) -> None:
        self._documents = [json.loads(seed) for seed in self.seeds]
        self._pool = [part for document in self._documents for part in parts(document)]

    def take_now(self, given: bytes, chance: random.Random) -> None:
        if chance.random() < 0.7:
            document = chance.choice(self._documents)
            for _ in range(chance.choice((1, 1, 2, 4))):
                document = change(document, self._pool, chance)
            given = json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
        self.taken(given, chance)

    @abc.abstractmethod
    def taken(self, given: bytes, chance: random.Random) -> None:
        """One case."""


class Seccomp(Json):
    """A profile that is taken becomes a program that decides each call, and its document is a profile again."""

    seeds = (
        b'{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86",'
        b'"SCMP_ARCH_X32"],"flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["read","write","mseal"],"action":'
        b'"SCMP_ACT_ALLOW"},{"names":["socket","clone"],"action":"SCMP_ACT_TRACE","errnoRet":3,"args":[{"index":0,'
        b'"value":40,"valueTwo":0,"op":"SCMP_CMP_NE"},{"index":1,"value":255,"valueTwo":5,"op":"SCMP_CMP_MASKED_EQ"}]}]}',
        b'{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":['
        b'"SCMP_ARCH_ARM"]}],"syscalls":[{"name":"bpf","action":"SCMP_ACT_KILL_PROCESS","args":null,"comment":"x",'
        b'"includes":{"caps":["CAP_BPF"],"minKernel":"4.8"},"excludes":{"arches":["amd64"]}}]}',
        b'{"defaultAction":"SCMP_ACT_KILL","syscalls":[]}',
    )

    def taken(self, given: bytes, chance: random.Random) -> None:
        try:
            profile: Profile = parse_profile(given, "fuzzed")
        except (FailedPrecondition, ResourceExhausted) as refused:
            assert "fuzzed" in str(refused)
            return
        held = chance.choice(((), ("CAP_BPF",)))
        resolved = resolve_profile(profile, held, chance.choice(("x86_64", "aarch64")), (6, chance.randrange(20)))
        again = parse_profile(json.dumps(resolved).encode(), "fuzzed")
        assert [call.names for call in again.calls] == [tuple(call["names"]) for call in resolved["syscalls"]]
        assert 0 <= flag_bits(resolved) < 8
        program = compile_profile(plan_rules(resolved)).program
        if len(program) > MOST_INSTRUCTIONS * INSTRUCTION_BYTES:
            return
        for arch in (0xC000_003E, 0x4000_0003, 0xC000_00B7, 0x4000_0028, 0):
            number, argument = chance.randrange(480), chance.choice((0, 40, 2**32 + 5, 2**64 - 1))
            assert evaluate(program, arch, number, (argument,) * 6) >= 0


class Users(Parser):
    """passwd and group. Nobody becomes root whom the files do not call 0."""

    seeds = (
        b"root:x:0:0:root:/root:/bin/sh\n",
        b"app:x:1000:1001:,,,:/home/app:/bin/sh\n",
        b"nobody:x:65534:65534::/:\n",
        b"wheel:x:10:root,app\n",
        b"audio:x:4294967296:app\n",
        b"# a comment\n\n+::::::\n",
        b"odd:x:+1:01:::\nodd2:x: 0:\xd9\xa1:::\n",
    )
    asked = (
        "",
        "0",
        "root",
        "app",
        "app:wheel",
        "1000:10",
        "+1",
        "01",
        "odd",
        "odd2",
        "audio:audio",
        ":",
        "-1",
        "\udc80",
    )

    def take_now(self, given: bytes, chance: random.Random) -> None:
        passwd, groups = users.parse_passwd(given), users.parse_group(given)
        user = chance.choice(self.asked)
        request: ResolveUserRequest = {
            "rootfs": {"lowerdirs": [], "upperdir": "", "workdir": "", "staging": ""},
            "user": user,
            "gid": chance.choice((None, None, 5, 2**31)),
            "groups": [chance.choice((0, 7, -1))] if chance.random() < 0.2 else [],
            "policy": chance.choice(("Merge", "Strict")),
        }
        try:
            found = users.plan_identity(request, passwd, groups)
        except (FailedPrecondition, InvalidArgument):
            return
        numbers = (found["uid"], found["gid"], *found["additionalGids"])
        assert all(0 <= number <= users.MAX_ID for number in numbers) and found["home"].startswith("/")
        name = user.partition(":")[0]
        if found["uid"] == 0 and name.strip("0"):
            assert next(entry.uid for entry in passwd if entry.name == name).strip("0") == ""


class Config(Json):
    """An image's configuration: each field has its type, or the image is refused."""

    seeds = (
        b'{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin","A="],"Entrypoint":["/e"],"Cmd":null,"User":'
        b'"app:1","WorkingDir":"/w","Volumes":{"/data":{}},"Labels":{"a":"b"},"StopSignal":"SIGQUIT"},"rootfs":{"type":'
        b'"layers","diff_ids":["sha256:' + b"0a" * 32 + b'","sha256:' + b"1b" * 32 + b'"]},"history":[{"empty":true}]}',
        b'{"os":"linux","architecture":"arm64","variant":"v8","rootfs":{"type":"layers","diff_ids":[]}}',
    )

    def taken(self, given: bytes, chance: random.Random) -> None:
        try:
            found: ImageConfig = parse_config(given, "fuzzed")
        except Fault as refused:
            assert isinstance(refused, FailedPrecondition | ResourceExhausted) and "fuzzed" in str(refused)
            return
        words = (*found.env, *found.entrypoint, *found.cmd, *found.volumes, found.user, found.working_dir)
        assert all(type(word) is str and "\0" not in word for word in words)
        assert all(entry and not entry.startswith("=") for entry in found.env)
        assert all(type(value) is str for value in found.labels.values())
        assert len(chain_ids(found.diff_ids)) == len(found.diff_ids)
        "".join((*words, *found.labels, *found.labels.values())).encode()


CONTENT: dict[str, type[Parser]] = {"seccomp": Seccomp, "users": Users, "image-config": Config}
