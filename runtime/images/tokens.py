"""Anonymous bearer tokens, as a registry's challenge asks for them.

``transport`` calls in here on a 401. Source: distribution, "Token Authentication".

Invariant: a token is sent only to the scheme, host and port that it was given for,
and only for the repository that it was given for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import aiohttp
from yarl import URL

from runtime.errors import FailedPrecondition, Fault
from runtime.images.strictjson import get_text, parse_object

MAX_ANSWER = 1 << 20
MAX_TOKEN = 64 << 10
MAX_CHALLENGE = 4096
_PARAMETER = re.compile(r'\s*([a-zA-Z_]+)="([^"\\]*)"\s*(?:,|$)', re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)


class AccessRefused(FailedPrecondition):
    """A registry does not let anonymous clients have it; another host may."""


class TokenCache:
    """Tokens by origin and repository. ``session`` stays the caller's."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._tokens: dict[tuple[str, str], str] = {}

    def get(self, origin: URL, repository: str) -> str:
        """The token for ``repository`` at ``origin``, empty if there is none."""
        return self._tokens.get((str(origin), repository), "")

    async def fetch(self, challenges: Sequence[str], origin: URL, repository: str, **request: object) -> str:
        """A new token, by what the ``WWW-Authenticate`` headers in ``challenges`` say.

        ``request`` are further arguments of the HTTP request (``ssl``).

        Raises:
            AccessRefused: the registry wants something other than an anonymous token.
            aiohttp.ClientError, TimeoutError: it could not be reached.
        """
        self._tokens.pop((str(origin), repository), None)
        realm, service = parse_challenge(challenges, origin)
        query = {"scope": f"repository:{repository}:pull"} | ({"service": service} if service else {})
        async with self._session.get(realm.update_query(query), max_redirects=5, **request) as answer:  # type: ignore[arg-type]
            if answer.status >= 500 or answer.status == 429:
                answer.raise_for_status()
            if answer.status != 200:
                raise _refused(origin, f"no anonymous access: {realm.host} answered {answer.status}")
            data = await answer.content.read(MAX_ANSWER + 1)
            while len(data) <= MAX_ANSWER and (more := await answer.content.read(MAX_ANSWER)):
                data += more
        token = _parse_token(data, realm)
        self._tokens[(str(origin), repository)] = token
        return token


def parse_challenge(challenges: Sequence[str], origin: URL) -> tuple[URL, str]:
    """Realm and service of the Bearer challenge among ``challenges``.

    Raises:
        AccessRefused: there is none, or its realm is not https (http only if ``origin`` is).
    """
    for challenge in challenges:
        scheme, _, rest = challenge.strip().partition(" ")
        if scheme.lower() != "bearer" or len(challenge) > MAX_CHALLENGE:
            continue
        parameters = dict(_PARAMETER.findall(rest))
        try:
            realm = URL(parameters.get("realm", ""), encoded=True)
        except ValueError:
            realm = URL()
        allowed = ("https", "http") if origin.scheme == "http" else ("https",)
        if realm.scheme not in allowed or not realm.host or realm.user:
            raise _refused(origin, "the token realm is not an https address")
        return realm, parameters.get("service", "")
    raise _refused(origin, "the registry wants credentials, anonymous tokens are not offered")


def _parse_token(data: bytes, realm: URL) -> str:
    what = f"token of {realm.host}"
    try:
        document = parse_object(data, what, MAX_ANSWER)
        token = get_text(document, "token", what) or get_text(document, "access_token", what)
    except Fault as fault:
        raise _refused(realm, fault.message) from fault
    if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise _refused(realm, "the token is empty or malformed")
    return token


def _refused(url: URL, reason: str) -> AccessRefused:
    return AccessRefused(reason, step="authenticate", object=url.authority)
