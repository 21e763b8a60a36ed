"""Image references: parsing and normalising, by the distribution grammar.

A familiar name is completed as every other runtime does it (``busybox`` is
``docker.io/library/busybox:latest``). ``registry`` and ``hosts`` build URLs and
paths from what is parsed here, ``store`` uses it as the key.

Invariant: each part of a :class:`Reference` matches its grammar, so it can stand
in a URL or a file name without quoting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DEFAULT_DOMAIN = "index.docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
MAX_NAME = 255  # of domain and path, by the grammar
MAX_TEXT = 512  # name, tag and digest at their longest fit in

_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(
    rf"(?P<host>{_COMPONENT}(?:\.{_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII
)
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_HEX_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference. Exactly one of ``tag`` and ``digest`` is set: a digest
    says more than a tag, so the tag of ``name:tag@digest`` is dropped."""

    domain: str
    path: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Domain and path, without tag or digest."""
        return f"{self.domain}/{self.path}"

    @property
    def selector(self) -> str:
        """What is asked of the registry: the digest or the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: str) -> Reference:
        """The same name at ``digest`` (``sha256:<hex>``)."""
        return Reference(self.domain, self.path, None, parse_digest(digest))

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def is_digest(text: str) -> bool:
    """Whether ``text`` is ``sha256:`` and 64 lower-case hex digits, nothing else."""
    return _DIGEST.fullmatch(text) is not None


def parse_digest(text: str) -> str:
    """``text`` itself if it is a sha256 digest.

    Raises:
        InvalidArgument: another algorithm, length, case or character.
    """
    if not is_digest(text):
        raise InvalidArgument(
            "a digest is sha256: and 64 lower-case hex digits", step="parse digest", object=text[:100]
        )
    return text


def parse(text: str) -> Reference:
    """Parse and normalise ``text`` (``[domain/]path[:tag][@digest]``).

    Source: the grammar of distribution/reference, and its "familiar name" rules.

    Raises:
        InvalidArgument: it does not match the grammar.
    """
    if not text or len(text) > MAX_TEXT:
        raise _refused(text, f"a reference has 1 to {MAX_TEXT} characters")
    if _HEX_ID.fullmatch(text):
        raise _refused(text, "64 hex digits are an image id, not a name")
    remainder, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _refused(text, "the digest is not sha256: and 64 lower-case hex digits")
    name, tag = _split_tag(remainder)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _refused(text, "the tag is not valid")
    domain, path = _split_domain(name)
    _check_name(text, domain, path)
    if digest:
        return Reference(domain, path, None, digest)
    return Reference(domain, path, DEFAULT_TAG if tag is None else tag, None)


def _split_tag(text: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag; before it, it is a port."""
    head, colon, tail = text.rpartition(":")
    if not colon or "/" in tail:
        return text, None
    return head, tail


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_domain = "." in first or ":" in first or first == "localhost" or first.lower() != first
    if not slash or not is_domain:
        first, rest = DEFAULT_DOMAIN, name
    if first == LEGACY_DEFAULT_DOMAIN:
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = OFFICIAL_PREFIX + rest
    return first, rest


def _check_name(text: str, domain: str, path: str) -> None:
    match = _DOMAIN.fullmatch(domain)
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
        raise _refused(text, "the registry's name is not a host or host:port")
    if not _PATH.fullmatch(path):
        reason = "a repository name is lower case" if path.lower() != path else "the repository name is not valid"
        raise _refused(text, reason)
    if len(domain) + 1 + len(path) > MAX_NAME:
        raise _refused(text, f"the name is longer than {MAX_NAME} characters")


def _refused(text: str, reason: str) -> InvalidArgument:
    return InvalidArgument(reason, step="parse image reference", object=ascii(text[:100]))
