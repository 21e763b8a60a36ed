from __future__ import annotations

from runtime.cgroups.detail import Detail, DeviceIo, HugePages, parse_detail, parse_io_v1, parse_io_v2


def test_v1_files() -> None:
    detail = parse_detail(
        {
            "cpuacct.stat": b"user 150\nsystem 20\n",
            "cpu.stat": b"nr_periods 7\nnr_throttled 3\nthrottled_time 42000\n",
            "memory.usage_in_bytes": b"5000\n",
            "memory.stat": b"cache 1\nmapped_file 1\npgfault 5\npgmajfault 2\ntotal_cache 900\ntotal_mapped_file 300\n",
            "memory.failcnt": b"4\n",
            "memory.max_usage_in_bytes": b"6000\n",
            "memory.kmem.usage_in_bytes": b"700\n",
            "pids.max": b"max\n",
            "hugetlb.2MB.usage_in_bytes": b"2097152\n",
            "hugetlb.2MB.max_usage_in_bytes": b"4194304\n",
        }
    )
    assert (detail.cpu_user, detail.cpu_system) == (1_500_000_000, 200_000_000)
    assert (detail.periods, detail.throttled_periods, detail.throttled) == (7, 3, 42000)
    assert (detail.cache, detail.mapped_file, detail.kernel_memory, detail.memory_peak) == (900, 300, 700, 6000)
    assert (detail.limit_hits, detail.own_faults, detail.own_major_faults, detail.pids_limit) == (4, 5, 2, None)
    assert detail.huge_pages == (HugePages("2MB", 2 << 20, 4 << 20),)


def test_v2_files() -> None:
    detail = parse_detail(
        {
            "cpu.stat": b"usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"
            b"nr_periods 7\nnr_throttled 3\nthrottled_usec 42\n",
            "memory.current": b"5000\n",
            "memory.stat": b"anon 1\nfile 900\nkernel 700\nfile_mapped 300\npgfault 5\npgmajfault 2\n",
            "memory.events": b"low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n",
            "memory.peak": b"6000\n",
            "pids.max": b"12\n",
            "io.stat": b"8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
            "hugetlb.1GB.current": b"0\n",
        }
    )
    assert (detail.cpu_user, detail.cpu_system, detail.throttled) == (1_000_000, 500_000, 42_000)
    assert (detail.cache, detail.mapped_file, detail.kernel_memory, detail.memory_peak) == (900, 300, 700, 6000)
    assert (detail.limit_hits, detail.pids_limit) == (4, 12)
    sizes, counts = {"Read": 4096, "Write": 8192, "Discard": 0}, {"Read": 1, "Write": 2, "Discard": 0}
    assert detail.io == (DeviceIo(8, 0, sizes, counts),)
    assert detail.huge_pages == (HugePages("1GB", 0, None),)


def test_what_the_kernel_does_not_give_is_none() -> None:
    assert parse_detail({}) == Detail()
    assert parse_detail({"cpu.stat": b"usage_usec 1\nuser_usec 1\nsystem_usec 0\n"}).periods is None


def test_io_of_v1_is_told_apart_by_device_and_operation_without_the_sum() -> None:
    sizes = b"254:0 Read 10\n254:0 Write 20\n254:0 Total 30\n8:16 Read 5\nTotal 35\n"
    devices = parse_io_v1(sizes, b"254:0 Read 1\nTotal 1\n")
    assert [(each.major, each.minor) for each in devices] == [(254, 0), (8, 16)]
    assert devices[0].bytes == {"Read": 10, "Write": 20, "Total": 30} and devices[0].requests == {"Read": 1}
    assert parse_io_v1(b"Total 0\n", None) == ()


def test_io_of_v2_leaves_out_a_device_without_figures() -> None:
    assert parse_io_v2(b"8:0\n\n8:16 rbytes=1 rios=1\n".replace(b"\n\n", b"\n")) == (
        DeviceIo(8, 16, {"Read": 1}, {"Read": 1}),
    )
