"""Fixtures and rules shared by all tests.

Gives: `journal_path`, `virtual_clock`, `seed`; both event loops for tests marked
`both_loops`; hypothesis profiles; and a check after every test that no thread which
keeps the interpreter alive and no child process is left behind.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from durable.testing import VirtualClock

LEFTOVER_SECONDS_MAX = 5.0  # how long a thread or child that is ending may take to end

# Every failure prints a blob that reproduces it. CI draws the same examples each time,
# so that it is red for a reason in the submission; elsewhere each run draws new ones.
hypothesis.settings.register_profile("local", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


# --- event loops --------------------------------------------------------------------


def _loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    try:
        import uvloop
    except ImportError:
        return factories
    return {**factories, "uvloop": uvloop.new_event_loop}


_LOOPS = _loop_factories()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run async tests on asyncio's loop, and on uvloop too where marked `both_loops`."""
    del config
    if item.get_closest_marker("both_loops"):
        return _LOOPS
    return {"asyncio": _LOOPS["asyncio"]}


# --- what the programs under test inherit -------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Have the programs under test start with Ctrl-C's default effect, and quickly."""
    # A shell starts what it runs in the background with SIGINT ignored, which is inherited.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    runs_tests = not config.getoption("numprocesses", 0)  # or starts those that do
    if runs_tests and os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        _keep_bytecode_elsewhere(config)


def _keep_bytecode_elsewhere(config: pytest.Config) -> None:
    """Write none beside the sources; yet not every program shall compile `durable` anew."""
    if (cache := getattr(config, "cache", None)) is not None:
        place = str(cache.mkdir("bytecode"))
    else:
        temporary = tempfile.TemporaryDirectory(prefix="durable-", ignore_cleanup_errors=True)
        config.add_cleanup(temporary.cleanup)
        place = temporary.name
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = place
    sys.dont_write_bytecode = False


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have no garbage collection look at the tests themselves: half a million objects."""
    gc.freeze()


# --- fixtures -----------------------------------------------------------------------


@pytest.fixture
def journal_path(tmp_path: Path) -> Path:
    """Path of a journal that does not exist yet, in a directory of this test alone."""
    return tmp_path / "app.db"


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock that stands still until the test advances it."""
    from durable.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number to seed this test's random generator with, printed when the test fails.

    It is drawn anew each time, but in CI it depends on the test's name alone. Set
    ``DURABLE_TEST_SEED`` to the number printed to repeat a failure.
    """
    drawn = int.from_bytes(os.urandom(4), "big")
    if os.environ.get("CI"):
        drawn = zlib.crc32(request.node.nodeid.encode())
    value = int(os.environ.get("DURABLE_TEST_SEED", drawn))
    request.node.add_report_section("setup", "seed", f"DURABLE_TEST_SEED={value}")
    return value


# --- nothing is left behind ---------------------------------------------------------


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon}


def _children() -> set[int]:
    """Process ids of live children, without those that multiprocessing keeps for itself."""
    found = {process.pid for process in multiprocessing.active_children() if process.pid}
    for listing in Path("/proc/self/task").glob("*/children"):
        found |= {int(pid) for pid in _read(listing).split()}
    return {pid for pid in found if not _is_multiprocessing_service(pid)}


def _is_multiprocessing_service(pid: int) -> bool:
    command = _read(Path(f"/proc/{pid}/cmdline"))
    return "resource_tracker" in command or "forkserver" in command


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the thread or process has just ended, or there is no /proc
        return ""


def _leftover_threads(before: set[threading.Thread]) -> list[str]:
    for thread in _threads() - before:
        thread.join(LEFTOVER_SECONDS_MAX)
    return [thread.name for thread in _threads() - before]


def _leftover_children(before: set[int]) -> list[str]:
    left = []
    for pid in _children() - before:
        command = _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
        left.append(f"{pid} ({command or 'ended, never waited for'})")
    return left


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Remember what was there before the test."""
    item.stash[_BEFORE] = (_threads(), _children())
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail a test that leaves a non-daemon thread or a child process behind."""
    result = yield
    threads, children = item.stash[_BEFORE]
    left = _leftover_threads(threads)
    assert not left, f"threads left behind: {left}"
    left = _leftover_children(children)
    assert not left, f"child processes left behind: {left}"
    return result


_BEFORE = pytest.StashKey[tuple[set[threading.Thread], set[int]]]()
