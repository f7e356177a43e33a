"""The process pool runs functions elsewhere, survives their death and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable._engine.processes import ProcessPool
from durable._engine.threads import ThreadPool, Ticket
from durable.errors import (
    PayloadDecodeError,
    RemoteError,
    SerializationError,
    StepWorkerDiedError,
)

WAIT = 30.0  # seconds until a test gives up


class Bench:
    """A process pool with its threads, and a way to await calls."""

    def __init__(self, workers: int) -> None:
        self.threads = ThreadPool(4)
        self.pool = ProcessPool(workers)
        self.delivered: list[object] = []

    def submit(
        self, fn: Callable[..., object], *args: object, **kwargs: object
    ) -> tuple[asyncio.Future[tuple[object, BaseException | None]], Ticket]:
        """Submit and return (future, ticket)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()

        def done(value: object, error: BaseException | None) -> None:
            self.delivered.append(error if error is not None else value)
            future.set_result((value, error))

        return future, self.pool.submit(fn, args, kwargs, done, loop, threads=self.threads)

    async def call(self, fn: Callable[..., object], *args: object, **kwargs: object) -> object:
        """Submit and await the value; what the function raised is raised."""
        value, error = await asyncio.wait_for(self.submit(fn, *args, **kwargs)[0], WAIT)
        if error is not None:
            raise error
        return value


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A pool of one worker."""
    made = Bench(1)
    yield made
    made.pool.close()
    made.threads.close()


async def until(condition: Callable[[], bool]) -> None:
    """Yield to the loop until the condition holds."""
    async with asyncio.timeout(WAIT):
        while not condition():  # processes end without an event
            await asyncio.sleep(0)


def is_running(pid: int) -> bool:
    """Tell whether a process exists and is no zombie of another parent's."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX" or pid in own_children()


def own_children() -> set[int]:
    """Return the children of this process, zombies included."""
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found |= {int(pid) for pid in listing.read_text().split()}
    return found


def blocks_body(path: str) -> None:
    """Write the pid into a file, then block for ever."""
    import os
    import threading

    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    threading.Event().wait()


async def pid_in(path: Path) -> int:
    """Wait until a pid has been written to a file."""
    await until(path.exists)
    return int(path.read_text())


# --- the ordinary way ---------------------------------------------------------------


@pytest.mark.both_loops
async def test_function_runs_in_another_process_which_is_used_again(bench: Bench) -> None:
    """Three calls, one worker."""
    pids = {await bench.call(os.getpid) for _ in range(3)}
    assert len(pids) == 1
    assert pids != {os.getpid()}


async def test_arguments_and_results_cross_by_value(bench: Bench) -> None:
    """Large ones too, and closures."""
    data = bytes(5_000_000)
    assert await bench.call(lambda given, *, suffix: given + suffix, data, suffix=b"x") == (
        data + b"x"
    )


async def test_coroutine_function_is_run_to_its_end(bench: Bench) -> None:
    """An async step may run in a process as well."""

    async def fn(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    assert await bench.call(fn, 1) == 2


async def test_no_more_workers_than_allowed(tmp_path: Path) -> None:
    """The third call of two workers waits, visibly, until one is free."""
    bench = Bench(2)
    tickets = [bench.submit(blocks_body, str(tmp_path / str(n)))[1] for n in range(2)]
    third, _ = bench.submit(os.getpid)
    assert (bench.pool.running, bench.pool.queued) == (2, 1)
    pids = {await pid_in(tmp_path / str(n)) for n in range(2)}
    assert own_children() >= pids
    tickets[0].abandon()
    assert (await asyncio.wait_for(third, WAIT))[1] is None
    bench.pool.close()
    bench.threads.close()
    await until(lambda: not any(map(is_running, pids)))


async def test_function_of_a_decorated_name_goes_by_name(bench: Bench, tmp_path: Path) -> None:
    """Its module is imported in the worker, so module state is what the module made it."""
    (tmp_path / "decorated_steps.py").write_text(
        "import sys\n"
        "class Wrapper:\n"
        "    def __init__(self, fn): self.fn = fn\n"
        "lock = __import__('threading').Lock()  # does not pickle\n"
        "@Wrapper\n"
        "def work():\n"
        "    return lock.locked(), sys.modules[__name__].work.fn is Wrapper and None\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import decorated_steps  # type: ignore[import-not-found]

        assert await bench.call(decorated_steps.work.fn) == (False, False)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("decorated_steps", None)


# --- exceptions ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, KeyError, SystemExit, KeyboardInterrupt])
async def test_exception_crosses_with_its_notes_and_the_workers_traceback(
    bench: Bench, kind: type[BaseException]
) -> None:
    """Type, arguments and notes are kept, and the worker lives on."""

    def fail() -> None:
        error = kind("x", 1)
        error.add_note("mine")
        raise error

    pid = await bench.call(os.getpid)
    future, _ = bench.submit(fail)
    _, error = await asyncio.wait_for(future, WAIT)
    assert type(error) is kind
    assert error.args == ("x", 1)
    mine, trace = error.__notes__
    assert mine == "mine"
    assert "in fail" in trace
    assert await bench.call(os.getpid) == pid


async def test_exception_crosses_whatever_its_init_wants(bench: Bench) -> None:
    """With its type, text and attributes, but for those that cannot be sent."""

    def fail() -> None:
        import threading

        class OddError(Exception):
            def __init__(self, one: int, *, two: int) -> None:
                super().__init__(f"{one} and {two}")
                self.two, self.lock = two, threading.Lock()

        raise OddError(1, two=2)

    future, _ = bench.submit(fail)
    _, error = await asyncio.wait_for(future, WAIT)
    assert (type(error).__name__, str(error)) == ("OddError", "1 and 2")
    assert vars(error).keys() == {"two", "__notes__"}


async def test_exception_that_cannot_be_rebuilt_arrives_as_remote_error(bench: Bench) -> None:
    """Its name, message and traceback are kept."""

    def fail() -> None:
        class OddError(Exception):
            def __reduce__(self) -> str:
                raise LookupError("not me")

        raise OddError("1 and 2")

    with pytest.raises(RemoteError) as caught:
        await bench.call(fail)
    assert caught.value.error_type.endswith("OddError")
    assert caught.value.error_message == "1 and 2"
    assert "in fail" in caught.value.traceback_text


async def test_what_does_not_pickle_is_an_error_of_the_call_alone(bench: Bench) -> None:
    """Argument or result: the worker is still the same afterwards."""
    pid = await bench.call(os.getpid)
    with pytest.raises(TypeError, match="pickle"):
        await bench.call(print, threading.Lock())
    with pytest.raises(SerializationError, match=r"result cannot be sent .*pickle"):
        await bench.call(threading.Lock)
    assert await bench.call(os.getpid) == pid


async def test_result_that_cannot_be_loaded_here_says_so(bench: Bench) -> None:
    """For instance an instance of a class that refuses."""

    def make() -> object:
        class Refuses:
            def __reduce__(self) -> tuple[object, ...]:
                return exec, ("raise LookupError('only there')",)

        return Refuses()

    with pytest.raises(PayloadDecodeError, match="only there"):
        await bench.call(make)


# --- death --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "args", "text"),
    [
        (os._exit, (3,), "ended with exit code 3"),
        (os.abort, (), r"killed by signal 6 \(SIGABRT\)"),
        (signal.raise_signal, (signal.SIGKILL,), r"signal 9 \(SIGKILL\); .*out of memory"),
    ],
)
async def test_death_of_the_worker_is_told_and_the_next_call_gets_another(
    bench: Bench, fn: Callable[..., object], args: tuple[object, ...], text: str
) -> None:
    """Exit code or signal are named; nothing is left of the process."""
    before = await bench.call(os.getpid)
    with pytest.raises(StepWorkerDiedError, match=text):
        await bench.call(fn, *args)
    assert before not in own_children()
    assert await bench.call(os.getpid) != before


async def test_worker_that_died_between_calls_is_replaced(bench: Bench) -> None:
    """The call that follows does not suffer from it."""
    before = await bench.call(os.getpid)
    assert isinstance(before, int)
    os.kill(before, signal.SIGKILL)
    await until(lambda: Path(f"/proc/{before}/stat").read_text().split()[2] == "Z")
    assert await bench.call(os.getpid) != before


async def test_abandoned_call_is_killed_with_its_children(bench: Bench, tmp_path: Path) -> None:
    """The worker and what it started are gone, and `done` is not called."""

    def with_child_body(folder: str) -> None:
        import subprocess
        import sys

        code = "import sys, threading; print(flush=True); threading.Event().wait()"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        with open(folder + "/child", "w") as file:
            file.write(str(child.pid))
        blocks_body(folder + "/worker")

    _, ticket = bench.submit(with_child_body, str(tmp_path))
    worker = await pid_in(tmp_path / "worker")
    child = await pid_in(tmp_path / "child")
    ticket.abandon()
    ticket.abandon()
    await until(lambda: not is_running(worker) and not is_running(child))
    assert await bench.call(os.getpid) != worker
    assert len(bench.delivered) == 1
    await until(lambda: bench.threads.stuck == 0)


async def test_call_abandoned_in_the_queue_never_runs(bench: Bench, tmp_path: Path) -> None:
    """It leaves the queue, the others keep their order."""
    _, first = bench.submit(blocks_body, str(tmp_path / "pid"))
    _, second = bench.submit(os.mkdir, str(tmp_path / "made"))
    third, _ = bench.submit(os.getpid)
    second.abandon()
    assert bench.pool.queued == 1
    first.abandon()
    await asyncio.wait_for(third, WAIT)
    assert not (tmp_path / "made").exists()


async def test_call_abandoned_at_once_leaves_a_usable_pool(bench: Bench) -> None:
    """Whether or not its process had started by then."""
    for _ in range(10):
        bench.submit(os.getpid)[1].abandon()
    assert isinstance(await bench.call(os.getpid), int)
    assert len(bench.delivered) == 1


async def test_pool_leaves_neither_processes_nor_descriptors() -> None:
    """Five pools with idle, running and dead workers."""

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    children, before = own_children(), descriptors()
    for _ in range(5):
        bench = Bench(2)
        with pytest.raises(StepWorkerDiedError):
            await bench.call(os._exit, 1)
        await bench.call(os.getpid)
        bench.submit(signal.pause)
        bench.submit(os.getpid)
        bench.pool.close()
        assert own_children() == children
        with pytest.raises(RuntimeError, match="closed"):
            bench.submit(os.getpid)
        bench.threads.close()
    await until(lambda: descriptors() == before)


# --- whole programs -----------------------------------------------------------------

PROGRAM = """
import asyncio, os, signal, sys, threading
print("main module is run")
from durable._engine.processes import ProcessPool
from durable._engine.threads import ThreadPool

class Point:
    def __init__(self, x): self.x = x

def step(point):
    print("printed by the step", sys.stdin.read())
    return Point(point.x + 1)

def stuck():
    print("stuck", os.getpid(), file=sys.stderr, flush=True)
    signal.pause()

async def main(fn, *args):
    loop = asyncio.get_running_loop()
    result = loop.create_future()
    ProcessPool().submit(fn, args, {}, lambda *both: result.set_result(both), loop,
                         threads=ThreadPool())
    return await result

async def until_told(fn, *args):
    call = asyncio.create_task(main(fn, *args))
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, told.set)
    await told.wait()
    asyncio.get_running_loop().remove_reader(0)
    os.read(0, 1)
"""


def run_program(end: str) -> subprocess.Popen[str]:
    """Start a script that has no `__main__` guard, and may fork."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM + end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_functions_of_main_go_by_value_and_main_is_not_run_again() -> None:
    """Also classes of `__main__`, there and back; prints of the step go to stderr."""
    program = run_program(
        "value, error = asyncio.run(main(step, Point(1)))\n"
        "print(type(value) is Point, value.x, error)\n"
    )
    out, err = program.communicate(timeout=WAIT)
    assert out == "main module is run\nTrue 2 None\n"
    assert err == "printed by the step \n"


async def _worker_of(program: subprocess.Popen[str]) -> int:
    """Return the pid of the stuck worker, and tell the program that it is stuck."""
    assert program.stderr is not None
    assert program.stdin is not None
    word, pid = (await asyncio.to_thread(program.stderr.readline)).split()
    assert word == "stuck"
    program.stdin.write("\n")
    program.stdin.flush()
    return int(pid)


async def test_worker_ends_when_the_program_is_killed_in_the_middle_of_a_call() -> None:
    """Even while a fork of the program lives on: it holds no pipe of the worker's."""
    program = run_program(
        "async def then_fork():\n"
        "    await until_told(stuck)\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os.read(0, 1)\n"
        "        os._exit(0)\n"
        "    print(child, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(then_fork())\n"
    )
    worker = await _worker_of(program)
    assert program.stdout is not None
    lines = [await asyncio.to_thread(program.stdout.readline) for _ in range(2)]
    child = int(lines[1])
    assert is_running(worker)
    program.kill()
    await until(lambda: not is_running(worker))
    assert is_running(child)
    program.communicate(timeout=WAIT)


async def test_program_ends_although_a_call_is_stuck() -> None:
    """Without closing anything, and the worker ends with it."""
    program = run_program("asyncio.run(until_told(stuck))\nprint('end')\n")
    worker = await _worker_of(program)
    out, _ = program.communicate(timeout=WAIT)
    assert out == "main module is run\nend\n"
    assert program.returncode == 0
    await until(lambda: not is_running(worker))


def test_program_without_an_interpreter_is_told_to_use_threads() -> None:
    """A frozen application would start itself again."""
    program = run_program("sys.frozen = True\nasyncio.run(main(stuck))\n")
    _, err = program.communicate(timeout=WAIT)
    assert 'use executor="thread" for this step' in err


def test_pool_without_workers_is_refused() -> None:
    """The number and the cure are named."""
    with pytest.raises(ValueError, match="max_workers is 0: give at least 1"):
        ProcessPool(0)
