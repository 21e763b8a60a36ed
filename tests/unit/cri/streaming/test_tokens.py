"""Tokens are good once, for a minute, and only so many at a time."""

from __future__ import annotations

import pytest

from cri.streaming.tokens import COUNT_LIMIT, LIFETIME, Tokens
from runtime.errors import ResourceExhausted


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_good_once() -> None:
    tokens: Tokens[str] = Tokens()
    token = tokens.issue("ticket")
    assert tokens.peek(token) == "ticket"
    assert tokens.redeem(token) == "ticket"
    assert tokens.redeem(token) is None and tokens.peek(token) is None


def test_a_token_has_more_than_128_bits_and_fits_a_url() -> None:
    tokens: Tokens[int] = Tokens()
    made = {tokens.issue(number) for number in range(100)}
    assert len(made) == 100
    assert all(len(token) * 6 >= 128 and token.replace("-", "").replace("_", "").isalnum() for token in made)


def test_a_token_is_good_for_a_minute() -> None:
    clock = Clock()
    tokens: Tokens[int] = Tokens(clock)
    first, second = tokens.issue(1), tokens.issue(2)
    clock.now += LIFETIME - 0.1
    assert tokens.redeem(first) == 1
    clock.now += 0.2
    assert tokens.redeem(second) is None
    assert len(tokens) == 0


def test_too_many_are_refused_until_the_old_ones_are_over() -> None:
    clock = Clock()
    tokens: Tokens[int] = Tokens(clock)
    for number in range(COUNT_LIMIT):
        tokens.issue(number)
    with pytest.raises(ResourceExhausted, match="1000 streaming requests"):
        tokens.issue(0)
    clock.now += LIFETIME
    assert tokens.issue(1)
