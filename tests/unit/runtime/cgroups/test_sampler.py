from __future__ import annotations

from runtime.cgroups.sampler import Sample, advance, lifetime_nanocores, nanocores
from runtime.cgroups.usage import Usage

SECOND = 1_000_000_000


def at(seconds: float, cpu: int | None) -> Usage:
    return Usage(time=0, clock=int(seconds * SECOND), cpu=cpu)


def test_half_a_core_is_half_a_billion() -> None:
    assert nanocores(at(10, 0), at(12, SECOND)) == SECOND // 2


def test_no_interval_no_counter_or_a_fallen_counter_is_no_rate() -> None:
    assert nanocores(at(10, 5), at(10, 6)) is None
    assert nanocores(at(11, 5), at(10, 6)) is None
    assert nanocores(at(10, 5), at(11, 4)) is None
    assert nanocores(at(10, None), at(11, 4)) is None


def test_the_first_reading_has_no_rate_and_the_second_has() -> None:
    first = advance({}, {"/a": at(1, 0)})
    assert first["/a"].nanocores is None
    second = advance(first, {"/a": at(3, SECOND)})
    assert second["/a"] == Sample(at(3, SECOND), SECOND // 2, at(3, SECOND))


def test_readings_in_quick_succession_keep_the_rate_and_its_base() -> None:
    samples = advance(advance({}, {"/a": at(1, 0)}), {"/a": at(3, SECOND)})
    samples = advance(samples, {"/a": at(3.1, SECOND + 5)})
    assert samples["/a"].nanocores == SECOND // 2
    assert samples["/a"].usage.cpu == SECOND + 5
    samples = advance(samples, {"/a": at(4, 2 * SECOND)})
    assert samples["/a"].nanocores == SECOND


def test_a_new_cgroup_of_the_same_path_starts_anew() -> None:
    samples = advance({"/a": Sample(at(3, 900), 7, at(3, 900))}, {"/a": at(9, 10)})
    assert samples["/a"] == Sample(at(9, 10), None, at(9, 10))


def test_a_sweep_of_some_keeps_the_samples_of_the_others() -> None:
    samples = advance({}, {"/a": at(1, 0), "/b": at(1, 0)})
    assert set(advance(samples, {"/b": at(2, 0)})) == {"/a", "/b"}


def test_the_rate_of_a_life_needs_a_beginning_and_a_real_interval() -> None:
    usage = Usage(time=10 * SECOND, clock=0, cpu=4 * SECOND)
    assert lifetime_nanocores(usage, 2 * SECOND) == SECOND // 2
    assert lifetime_nanocores(usage, 0) is None
    assert lifetime_nanocores(usage, 10 * SECOND - 1) is None
    assert lifetime_nanocores(Usage(time=10 * SECOND, clock=0), 2 * SECOND) is None
