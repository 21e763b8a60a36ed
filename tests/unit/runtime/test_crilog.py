"""The CRI log holds every byte once, in entries that kubelet can parse."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import crilog
from runtime.errors import InvalidArgument
from tests.descriptors import open_descriptors

ENTRY = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([FP]) (.*)", re.DOTALL)


@pytest.fixture(autouse=True)
def no_leaked_descriptor() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def entries(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    """``(stream, tag, content)`` of every entry; the file must hold nothing else."""
    content = path.read_bytes()
    assert not content or content.endswith(b"\n")
    found = []
    for line in content.split(b"\n")[:-1]:
        match = ENTRY.fullmatch(line)
        assert match is not None, line[:80]
        found.append((match[2], match[3], match[4]))
    return found


def written(path: Path) -> bytes:
    """What the container wrote, as a reader of the log puts it together again."""
    return b"".join(content + (b"\n" if tag == b"F" else b"") for _, tag, content in entries(path))


def feed(path: Path | None, chunks: list[bytes], stream: str = "stdout") -> crilog.LogFile:
    """Pump each chunk on its own, then the end."""
    log = crilog.LogFile(None if path is None else str(path))
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(read, False)
    pump = crilog.LogPump(read, stream, log)
    for chunk in chunks:
        os.write(write, chunk)
        while pump.pump() > 0:
            pass
    os.close(write)
    while pump.pump() >= 0:
        pass
    pump.close()
    log.close()
    return log


def test_lines_become_full_entries(tmp_path: Path) -> None:
    feed(tmp_path / "log", [b"one\ntwo\n\nfour\n"], "stderr")
    assert entries(tmp_path / "log") == [(b"stderr", b"F", line) for line in (b"one", b"two", b"", b"four")]


def test_a_line_in_pieces_becomes_one_entry(tmp_path: Path) -> None:
    feed(tmp_path / "log", [b"on", b"e\ntw", b"o", b"\n"])
    assert entries(tmp_path / "log") == [(b"stdout", b"F", b"one"), (b"stdout", b"F", b"two")]


def test_a_last_line_without_newline_is_partial(tmp_path: Path) -> None:
    feed(tmp_path / "log", [b"one\ntwo"])
    assert entries(tmp_path / "log") == [(b"stdout", b"F", b"one"), (b"stdout", b"P", b"two")]


@pytest.mark.parametrize(
    ("length", "tags"),
    [(16384, [b"F"]), (16385, [b"P", b"F"]), (32768, [b"P", b"F"]), (100_000, [b"P"] * 6 + [b"F"])],
)
def test_a_long_line_is_cut_at_16_kib(tmp_path: Path, length: int, tags: list[bytes]) -> None:
    line = bytes(97 + n % 26 for n in range(length))
    feed(tmp_path / "log", [b"before\n" + line + b"\nafter\n"])
    found = entries(tmp_path / "log")[1:-1]
    assert [tag for _, tag, _ in found] == tags
    assert all(len(content) == crilog.LINE_LIMIT for _, tag, content in found if tag == b"P")
    assert written(tmp_path / "log") == b"before\n" + line + b"\nafter\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40_000), st.sampled_from([b"", b"\n", b"\n\n", b"\r\n"])),
        max_size=8,
    ),
    st.data(),
)
def test_every_byte_is_logged_once_however_it_arrives(
    tmp_path: Path, pieces: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    (tmp_path / "log").unlink(missing_ok=True)
    stream = b"".join(b"x" * length + end for length, end in pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    feed(tmp_path / "log", chunks)
    assert written(tmp_path / "log") == stream
    assert all(len(content) <= crilog.LINE_LIMIT for _, _, content in entries(tmp_path / "log"))


def test_both_streams_share_one_file(tmp_path: Path) -> None:
    feed(tmp_path / "log", [b"out\n"], "stdout")
    feed(tmp_path / "log", [b"err\n"], "stderr")
    assert entries(tmp_path / "log") == [(b"stdout", b"F", b"out"), (b"stderr", b"F", b"err")]


def test_without_a_path_the_output_is_drained_and_forgotten() -> None:
    assert feed(None, [b"x" * 100_000]).dropped == 0


def test_parents_are_made_and_the_file_is_not_for_everybody(tmp_path: Path) -> None:
    feed(tmp_path / "a/b/0.log", [b"x\n"])
    assert (tmp_path / "a/b/0.log").stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "log").symlink_to("target")
    with pytest.raises(InvalidArgument, match="ELOOP"):
        crilog.LogFile(str(tmp_path / "log"))
    assert (tmp_path / "target").read_text() == "mine"


def test_no_link_below_the_log_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "pods").mkdir()
    (tmp_path / "link").symlink_to("pods")
    (tmp_path / "pods/main").symlink_to("../outside")
    with pytest.raises(InvalidArgument, match="ELOOP"):
        crilog.LogFile(f"{tmp_path}/link/main/0.log", f"{tmp_path}/link")
    (tmp_path / "pods/other").symlink_to("nowhere")
    for name in ("other", "main/made"):
        with pytest.raises(InvalidArgument, match=r"ELOOP|ENOTDIR"):
            crilog.LogFile(f"{tmp_path}/link/{name}/0.log", f"{tmp_path}/link")
    crilog.LogFile(f"{tmp_path}/link/new/deeper/0.log", f"{tmp_path}/link").close()
    assert (tmp_path / "pods/new/deeper/0.log").is_file() and not os.listdir(tmp_path / "outside")


def test_a_fifo_is_refused_without_waiting_for_its_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(InvalidArgument, match="ENXIO"):
        crilog.LogFile(str(tmp_path / "log"))
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(InvalidArgument, match="not a regular file"):
        crilog.LogFile(str(tmp_path / "log"))
    os.close(reader)


def test_reopening_goes_on_in_a_new_file(tmp_path: Path) -> None:
    log = crilog.LogFile(str(tmp_path / "log"))
    log.write([b"one\n"])
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.reopen()
    assert (tmp_path / "log").exists()
    log.write([b"two\n"])
    log.close()
    assert (tmp_path / "log.1").read_bytes() == b"one\n"
    assert (tmp_path / "log").read_bytes() == b"two\n"


def test_a_path_that_is_too_long_is_the_request_s_fault(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        crilog.LogFile(f"{tmp_path}/{'x' * 256}")


def test_a_failed_reopening_keeps_the_old_file(tmp_path: Path) -> None:
    log = crilog.LogFile(str(tmp_path / "log"))
    (tmp_path / "log").rename(tmp_path / "log.1")
    (tmp_path / "log").mkdir()
    with pytest.raises(InvalidArgument, match="EISDIR"):
        log.reopen()
    log.write([b"still\n"])
    log.close()
    assert (tmp_path / "log.1").read_bytes() == b"still\n"


def test_a_full_disk_drops_whole_entries_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = crilog.LogFile(str(tmp_path / "log"))

    def almost_full(descriptor: int, parts: list[bytes]) -> int:
        return os.write(descriptor, b"".join(parts)[:6])

    monkeypatch.setattr(os, "writev", almost_full)
    log.write([b"one\n", b"two\n", b"three\n"])
    log.close()
    assert (tmp_path / "log").read_bytes() == b"one\n"
    assert log.dropped == 2


def test_a_disk_that_takes_nothing_is_no_error_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    log = crilog.LogFile(str(tmp_path / "log"), lost=lambda: told.append(log.dropped))
    log.write([b"zero\n"])

    def full(descriptor: int, parts: list[bytes]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    log.write([b"one\n", b"two\n"])
    log.write([b"three\n"])
    log.close()
    log.write([b"four\n"])
    assert log.dropped == 3 and told == [2, 3]


def test_a_real_full_disk_never_blocks_the_writer() -> None:
    # /dev/full is no regular file, hence opened past the check.
    log = crilog.LogFile(None)
    log._descriptor = os.open("/dev/full", os.O_WRONLY)
    log.write([b"one\n"])
    assert log.dropped == 1
    log.close()


def test_a_closed_terminal_is_the_end(tmp_path: Path) -> None:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    log = crilog.LogFile(str(tmp_path / "log"))
    pump = crilog.LogPump(master, "stdout", log)
    os.write(slave, b"hello\n")
    assert pump.pump() > 0
    assert pump.pump() == 0
    os.close(slave)
    assert pump.pump() == -1
    pump.close()
    pump.close()
    assert pump.pump() == -1
    log.close()
    assert written(tmp_path / "log") == b"hello\r\n"


def test_timestamps_are_rfc_3339_with_nanoseconds() -> None:
    assert crilog.timestamp(1_700_000_000_000_000_007) == b"2023-11-14T22:13:20.000000007Z"
    assert crilog.timestamp(1_700_000_000_999_999_999) == b"2023-11-14T22:13:20.999999999Z"
    assert crilog.timestamp(1_700_000_001_000_000_000) == b"2023-11-14T22:13:21.000000000Z"


def test_a_hundred_megabytes_take_less_than_a_second_of_cpu(tmp_path: Path) -> None:
    log = crilog.LogFile("/dev/shm/crisp-test-throughput.log")
    read, write = os.pipe()
    os.set_blocking(read, False)
    pump = crilog.LogPump(read, "stdout", log)
    chunk = (b"y" * 99 + b"\n") * 655
    spent = 0.0
    for _ in range(100 * 1024 * 1024 // len(chunk)):
        os.write(write, chunk)
        began = time.thread_time()
        while pump.pump() > 0:
            pass
        spent += time.thread_time() - began
    os.close(write)
    assert pump.pump() == -1
    pump.close()
    log.close()
    os.unlink("/dev/shm/crisp-test-throughput.log")
    assert spent < 1.0


def test_whoever_hears_a_stream_gets_each_byte_as_it_was_read(tmp_path: Path) -> None:
    log, heard = crilog.LogFile(str(tmp_path / "log")), []
    read, write = os.pipe()
    os.set_blocking(read, False)
    pump = crilog.LogPump(read, "stdout", log)
    os.write(write, b"not heard, ")
    assert pump.pump() > 0
    pump.hear = lambda view: heard.append(bytes(view))
    for chunk in (b"heard", b" on\nand", b" on\n"):
        os.write(write, chunk)
        assert pump.pump() == len(chunk)
    os.close(write)
    pump.close()
    log.close()
    assert heard == [b"heard", b" on\nand", b" on\n"]
    assert written(tmp_path / "log") == b"not heard, heard on\nand on\n"
