"""What a body must not do is refused at the call, with the way out in the message."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import datetime as dt
import http.client
import importlib
import linecache
import logging
import math
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zoneinfo
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from durable import sleep
from durable.errors import DurationError
from tests.replay.rig import Recording, check_replays, perform
from tests.replay.zoo_steps import fetch


def attempt(call: Callable[[], Any]) -> Recording:
    """Run a body that makes one call, awaits what it gives, and reports what it raised."""

    async def body() -> object:
        try:
            made = call()
            if asyncio.iscoroutine(made):
                made = await made
        except Exception as error:
            return type(error), str(error), await fetch("after")
        return "allowed", repr(made)

    recording = perform(body)
    assert recording.outcome is not None and recording.outcome.payload is not None
    return recording


def refusal(call: Callable[[], Any]) -> str:
    """Return the message with which `call` is refused in a body."""
    told = str(attempt(call).result)
    assert "NotInBodyError" in told, told
    return told


LOOP_CALLS: dict[str, Callable[[], Any]] = {
    "to_thread": lambda: asyncio.to_thread(print),
    "run_in_executor": lambda: loop().run_in_executor(None, print),
    "open_connection": lambda: asyncio.open_connection("localhost", 1),
    "start_server": lambda: asyncio.start_server(print, "localhost", 0),
    "getaddrinfo": lambda: loop().getaddrinfo("localhost", 1),
    "sock_recv": lambda: loop().sock_recv(None, 1),
    "create_subprocess_exec": lambda: asyncio.create_subprocess_exec("true"),
    "create_subprocess_shell": lambda: asyncio.create_subprocess_shell("true"),
    "add_signal_handler": lambda: loop().add_signal_handler(signal.SIGTERM, print),
    "add_reader": lambda: loop().add_reader(0, print),
    "call_soon_threadsafe": lambda: loop().call_soon_threadsafe(print),
    "set_task_factory": lambda: loop().set_task_factory(None),
    "set_exception_handler": lambda: loop().set_exception_handler(None),
    "stop": lambda: loop().stop(),
    "close": lambda: loop().close(),
    "run_forever": lambda: loop().run_forever(),
}


def loop() -> asyncio.AbstractEventLoop:
    """Return the body's loop."""
    return asyncio.get_running_loop()


@pytest.mark.parametrize("name", LOOP_CALLS)
def test_loop_call_that_needs_the_world_is_refused(name: str) -> None:
    """The error names the call and says to use a step; the body may go on after it."""
    told = refusal(LOOP_CALLS[name])
    assert "put this work in a @step" in told
    assert "'after'" in told


PROCESS_CALLS: dict[str, Callable[[], Any]] = {
    "open": lambda: open(__file__),  # noqa: SIM115 - it is not opened
    "os.open": lambda: os.open(__file__, os.O_RDONLY),
    "read_text": lambda: pathlib.Path(__file__).read_text(),
    "listdir": lambda: os.listdir("/"),
    "remove": lambda: os.remove("/nonexistent"),
    "mkdir": lambda: os.mkdir("/nonexistent/x"),
    "copyfile": lambda: shutil.copyfile("/nonexistent", "/nonexistent2"),
    "mkstemp": tempfile.mkstemp,
    "socket": socket.socket,
    "getaddrinfo": lambda: socket.getaddrinfo("localhost", 1),
    "http": lambda: http.client.HTTPConnection("localhost", 1).request("GET", "/"),
    "urlopen": lambda: urllib.request.urlopen("http://localhost:1"),
    "Popen": lambda: subprocess.Popen(["true"]),
    "subprocess.run": lambda: subprocess.run(["true"], check=False),
    "os.system": lambda: os.system("true"),
    "fork": os.fork,
    "Thread": lambda: threading.Thread(target=print).start(),
    "Timer": lambda: threading.Timer(1, print).start(),
    "ThreadPoolExecutor": lambda: concurrent.futures.ThreadPoolExecutor().submit(print),
    "sqlite3": lambda: sqlite3.connect(":memory:"),
    "input": builtins.input,
}


@pytest.mark.parametrize("name", PROCESS_CALLS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_file_socket_process_or_thread_is_refused(name: str) -> None:
    """The interpreter announces these, wherever in a library they happen."""
    told = refusal(PROCESS_CALLS[name])
    assert "put this work in a @step" in told


@pytest.mark.skipif(sys.version_info < (3, 13), reason="time.sleep is announced from 3.13 on")
def test_blocking_sleep_is_refused_where_the_interpreter_announces_it() -> None:
    """`time.sleep` stops the whole host; the message leads to a step."""
    assert "time.sleep" in refusal(lambda: time.sleep(0))  # sleeps: it is refused


def test_open_says_which_file() -> None:
    """The value is named."""
    assert __file__ in refusal(lambda: open(__file__))  # noqa: SIM115 - it is not opened


def test_same_calls_work_outside_of_bodies() -> None:
    """The guard looks at the running loop alone."""
    perform(lambda: fetch(1))
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert pathlib.Path(__file__).read_text(encoding="utf-8")


async def test_same_calls_work_on_the_host_loop() -> None:
    """A body that exists beside does not restrict the host."""
    perform(lambda: fetch(1))
    assert await asyncio.to_thread(lambda: 7) == 7
    asyncio.get_running_loop().call_soon_threadsafe(lambda: None)


def _log_with_traceback() -> None:
    linecache.clearcache()
    try:
        raise ValueError("shown with its source line")
    except ValueError:
        logging.getLogger("test").exception("in a body")


def _import() -> str:
    sys.modules.pop("colorsys", None)
    return importlib.import_module("colorsys").__name__


@pytest.mark.parametrize(
    "call",
    [
        _log_with_traceback,
        _import,
        lambda: zoneinfo.ZoneInfo.no_cache("Europe/Berlin"),
        lambda: dt.datetime.now(dt.UTC),
        lambda: print("a body may print"),
    ],
)
def test_innocent_statement_is_allowed(call: Callable[[], Any]) -> None:
    """Imports, tracebacks, log records and time zones read files; a body may cause that."""
    assert "allowed" in str(attempt(call).result)


def test_file_of_a_user_whose_folder_is_called_logging_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is innocent is known by its exact place, not by a part of its path."""
    (tmp_path / "logging").mkdir()
    module = tmp_path / "logging" / "my_reader.py"
    module.write_text("def read():\n    return open(__file__).read()\n")
    monkeypatch.syspath_prepend(str(module.parent))
    refusal(importlib.import_module("my_reader").read)


def test_running_another_loop_inside_is_refused() -> None:
    """`asyncio.run` in a body is asyncio's own error, since a loop is running."""
    inner = fetch(1)
    told = str(attempt(lambda: asyncio.run(inner)).result)
    inner.close()
    assert "cannot be called from a running event loop" in told


def _as_completed(given: Any) -> Callable[[], Coroutine[Any, Any, Any]]:
    async def body() -> object:
        return [await each for each in asyncio.as_completed(given())]

    return body


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize(
    "given",
    [
        lambda: {fetch(n) for n in range(2)},
        lambda: frozenset([fetch(1)]),
        lambda: iter([fetch(1), fetch(2)]),
        lambda: map(fetch, [1, 2]),
    ],
)
def test_as_completed_of_coroutines_without_order_is_refused(given: Callable[[], Any]) -> None:
    """asyncio would issue their steps in the order of their addresses."""
    assert "as_completed([step(x) for x in items])" in refusal(_as_completed(given))


@pytest.mark.parametrize(
    "given",
    [
        lambda: map(asyncio.create_task, [fetch(n) for n in range(3)]),
        lambda: {asyncio.create_task(fetch(n)) for n in range(3)},
        lambda: tuple(fetch(n) for n in range(3)),
        lambda: dict.fromkeys(fetch(n) for n in range(3)).keys(),
    ],
)
def test_as_completed_of_tasks_or_of_coroutines_in_order_is_allowed(
    given: Callable[[], Any],
) -> None:
    """Tasks have an order of their own; so have lists, tuples and dictionaries."""
    body = _as_completed(given)
    recording = perform(body)
    check_replays(body, recording)
    assert str(recording.result).startswith("run_completed")


async def _awaits(future: Any) -> object:
    return await future


async def _gathers(future: Any) -> object:
    return await asyncio.gather(future, fetch(1))


async def _shields(future: Any) -> object:
    return await asyncio.shield(future)


async def _waits(future: Any) -> object:
    return await asyncio.wait({asyncio.create_task(fetch(1)), future})


FOREIGN: dict[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "await": _awaits,
    "gather": _gathers,
    "wait_for": lambda future: asyncio.wait_for(future, 1),
    "shield": _shields,
    "wait": _waits,
}


@pytest.mark.both_loops
@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_awaiting_something_of_the_host_explains_itself(name: str) -> None:
    """A future of the host cannot be replayed; the run fails and says what to do."""
    future = asyncio.get_running_loop().create_future()
    told = str(perform(lambda: FOREIGN[name](future)).result)
    assert told.startswith("run_failed: NotInBodyError")
    assert "host's event loop" in told and "@step" in told
    future.cancel()


def test_awaiting_the_work_of_a_pool_explains_itself() -> None:
    """Its threads may be idle, and then nothing announces that one of them is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        work = pool.submit(time.sleep, 0)
        told = str(attempt(lambda: asyncio.wrap_future(work)).result)
    assert "NotInBodyError" in told and "thread or process" in told and "@step" in told


async def test_contended_lock_of_the_host_explains_itself() -> None:
    """A lock shared with the host, or with another run, belongs to one loop."""
    lock = asyncio.Lock()
    await lock.acquire()
    waiting = asyncio.create_task(lock.acquire())
    await asyncio.sleep(0)

    async def body() -> None:
        async with lock:
            pass

    told = str(perform(body).result)
    waiting.cancel()
    assert "NotInBodyError" in told and "@step" in told


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e12])
def test_absurd_timer_is_refused_at_the_call(seconds: float) -> None:
    """A wait of more than a century is a mistake, and so is one that is no number."""
    told = str(attempt(lambda: loop().call_later(seconds, print)).result)
    assert DurationError.__name__ in told and repr(seconds) in told


def test_refused_durable_sleep_records_nothing() -> None:
    """The body may catch the error and go on."""
    recording = attempt(lambda: sleep("soon"))
    assert DurationError.__name__ in str(recording.result)
    assert recording.commands() == ["step_created fetch"]
