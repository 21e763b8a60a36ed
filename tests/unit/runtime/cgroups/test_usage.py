from __future__ import annotations

from runtime.cgroups.usage import Pressure, Stall, parse_pressure, parse_usage

V1_STAT = b"""cache 100
rss 1
inactive_file 1
hierarchical_memory_limit 10000
hierarchical_memsw_limit 15000
total_rss 2000
total_swap 500
total_pgfault 70
total_pgmajfault 7
total_inactive_file 1200
"""
V2_STAT = b"anon 3000\nfile 900\ninactive_file 800\npgfault 90\npgmajfault 9\n"
PSI = b"some avg10=1.50 avg60=0.30 avg300=0.01 total=7533\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"


def test_v1_counts_the_cgroups_below_and_takes_inactive_pages_off() -> None:
    usage = parse_usage(
        {
            "cpuacct.usage": b"123456789\n",
            "memory.usage_in_bytes": b"5000\n",
            "memory.stat": V1_STAT,
            "memory.oom_control": b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            "pids.current": b"4\n",
        },
        1,
        2,
    )
    assert (usage.time, usage.clock, usage.cpu, usage.pids, usage.oom_kills) == (1, 2, 123456789, 4, 3)
    assert (usage.memory_usage, usage.memory_working_set, usage.memory_rss) == (5000, 3800, 2000)
    assert (usage.memory_limit, usage.memory_available) == (10000, 6200)
    assert (usage.page_faults, usage.major_page_faults) == (70, 7)
    assert (usage.swap_usage, usage.swap_limit, usage.swap_available) == (500, 5000, 4500)
    assert usage.cpu_pressure is None


def test_v1_without_a_limit_has_nothing_available_to_report() -> None:
    stat = b"hierarchical_memory_limit 9223372036854771712\nhierarchical_memsw_limit 9223372036854771712\n"
    usage = parse_usage({"memory.usage_in_bytes": b"5\n", "memory.stat": stat}, 1, 2)
    assert (usage.memory_limit, usage.memory_available, usage.swap_limit, usage.swap_available) == (None,) * 4


def test_v2_files() -> None:
    usage = parse_usage(
        {
            "cpu.stat": b"usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
            "memory.current": b"4000\n",
            "memory.stat": V2_STAT,
            "memory.max": b"max\n",
            "memory.events": b"low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\noom_group_kill 0\n",
            "memory.swap.current": b"10\n",
            "memory.swap.max": b"30\n",
            "pids.current": b"1\n",
            "cpu.pressure": PSI,
        },
        1,
        2,
    )
    assert (usage.cpu, usage.oom_kills) == (1_500_000, 1)
    assert (usage.memory_working_set, usage.memory_rss, usage.page_faults) == (3200, 3000, 90)
    assert (usage.memory_limit, usage.memory_available) == (None, None)
    assert (usage.swap_usage, usage.swap_available) == (10, 20)
    assert usage.cpu_pressure == Pressure(Stall(1.5, 0.3, 0.01, 7533), Stall(0.0, 0.0, 0.0, 12))


def test_a_working_set_is_never_negative() -> None:
    files = {"memory.current": b"100\n", "memory.stat": b"inactive_file 300\n", "memory.max": b"50\n"}
    usage = parse_usage(files, 1, 2)
    assert (usage.memory_working_set, usage.memory_available) == (0, 50)


def test_what_the_kernel_does_not_say_is_none() -> None:
    usage = parse_usage({}, 1, 2)
    assert all(value is None for value in usage[2:])


def test_pressure_switched_off_and_without_a_full_line() -> None:
    assert parse_pressure(b"") is None
    only = parse_pressure(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n")
    assert only is not None
    assert (only.some, only.full) == (Stall(0.0, 0.0, 0.0, 5), None)
