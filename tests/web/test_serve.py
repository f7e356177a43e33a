"""`durable serve` as people run it: what it serves, how it ends, what it says when it cannot."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.surface.programs import WAIT, Process, Program, spawn

MAIN = "from durable._surface.cli import main; raise SystemExit(main())"
MAIN_FOR_EACH = """
import sys
from durable._surface.cli import main
for target in sys.argv[1:]:
    print(main(["serve", target, "--port", "0"]))
"""
UNSERVABLE = {
    "nothing_here": "no module 'nothing_here'",
    ":app": "no module ''",
    ".shop": "no module '.shop'",
    "shop:nothing": "shop:nothing is None",
    "shop:number": "shop:number is 7",
}

SHOP = """
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from durable import Runtime, create_webhook, get_run, start, step, workflow
from durable.asgi import webhooks

@step
async def publish(url: str) -> None:
    print("url", url, flush=True)

@workflow
async def collect(count: int) -> list[str]:
    webhook = create_webhook()
    await publish(webhook.url)
    return [(await webhook).text() for _ in range(count)]

@workflow
async def echo() -> None:
    webhook = create_webhook(respond_with="manual")
    await publish(webhook.url)
    async for request in webhook:
        await shout(request)

@step
async def shout(request) -> None:
    await request.respond_with(request.text().upper())

async def begin(request):
    name = request.path_params["name"]
    run = await start(globals()[name], *([2] if name == "collect" else []))
    return PlainTextResponse(run.run_id)

async def status(request):
    return PlainTextResponse(await get_run(request.path_params["run"]).status())

routes = [
    Route("/start/{name}", begin, methods=["POST"]), Route("/status/{run}", status),
    Mount("/", webhooks()),
]
app = Starlette(routes=routes)

async def plain(scope, receive, send):
    assert scope["type"] == "http"
    await app(scope, receive, send)

@asynccontextmanager
async def lifespan(app):
    async with Runtime("own.db"):
        print("own runtime", flush=True)
        yield
    print("own end", flush=True)

mine = Starlette(routes=routes, lifespan=lifespan)
runtime = Runtime("third.db")
number = 7
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a module to serve."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@contextmanager
def serve(folder: Path, *arguments: str) -> Iterator[tuple[Process, httpx.Client]]:
    """Run the command until it serves; give the process and a client of its address."""
    with spawn(Program(folder, MAIN, "durable_main.py"), "serve", *arguments) as process:
        address = process.until("durable serves").split()[-1]
        with httpx.Client(base_url=address, timeout=WAIT) as client:
            yield process, client


def path_in(line: str) -> str:
    """Return the path of the URL that a program tells."""
    return httpx.URL(line.rsplit(maxsplit=1)[-1]).path


@pytest.mark.parametrize("app", ["app", "plain"])
def test_application_is_served_with_a_runtime_beside_it(shop: Path, app: str) -> None:
    """Also one that knows nothing of a beginning and an end; its URLs name the server."""
    with serve(shop, f"shop:{app}", "--port", "0", "--db", "jobs.db") as (process, client):
        run_id = client.post("/start/collect").text
        url = process.until("url ").split()[-1]
        assert url.startswith(str(client.base_url).rstrip("/") + "/.well-known/workflow/")
        assert client.post(httpx.URL(url).path, content="one").status_code == 202
        assert client.post(httpx.URL(url).path, content="two").status_code == 202
        while client.get(f"/status/{run_id}").text != "completed":
            pass
        assert client.get("/nowhere").status_code == 404
    assert (shop / "jobs.db").exists()


def test_application_may_bring_its_own_runtime(shop: Path) -> None:
    """Then no other one is opened."""
    with serve(shop, "shop:mine", "--port", "0") as (process, client):
        client.post("/start/collect")
        assert client.post(path_in(process.until("url "))).status_code == 202
        process.signal(signal.SIGTERM)
        process.until("own end")
        assert process.end() == -signal.SIGTERM
    assert (shop / "own.db").exists()
    assert not (shop / "durable.db").exists()


def test_runtime_of_a_module_is_served(shop: Path) -> None:
    """It is opened and closed with the server."""
    with serve(shop, "shop:runtime", "--port", "0") as (process, client):
        assert client.get("/").status_code == 404
        assert (shop / "third.db").exists()
        process.signal(signal.SIGTERM)
        assert process.end() == -signal.SIGTERM
    assert not (shop / "third.db-wal").exists()


def test_module_is_served_for_its_workflows(shop: Path) -> None:
    """Runs of an earlier process go on, under the URLs that were given away then."""
    with serve(shop, "shop:app", "--port", "0") as (process, client):
        client.post("/start/echo")
        path = path_in(process.until("url "))
    with serve(shop, "shop", "--port", "0") as (_process, client):
        answer = client.post(path, content="hello")
        assert (answer.status_code, answer.text) == (200, "HELLO")
        assert client.post("/start/echo").status_code == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_in_good_order(shop: Path, number: int) -> None:
    """Requests that are under way are answered or cut off in time; the journal is closed."""
    with serve(shop, "shop:app", "--port", "0") as (process, client):
        client.post("/start/collect")
        path = path_in(process.until("url "))
        assert client.post(path, content="one").status_code == 202
        process.signal(number)
        code = process.ends_within(15)
        assert code == (130 if number == signal.SIGINT else -number), process.lines
        assert not any("Traceback" in line for line in process.lines), process.lines
    # What a journal that was closed leaves behind: no log to be recovered.
    assert not (shop / "durable.db-wal").exists()


def test_token_is_in_no_line_that_it_writes(shop: Path) -> None:
    """Neither of requests that are taken nor of those that are refused."""
    with serve(shop, "shop:app", "--port", "0") as (process, client):
        client.post("/start/collect")
        told = process.until("url ")
        path = path_in(told)
        client.post(path, content="one")
        client.post(path, content=b"x" * 2_000_000)
        client.request("BREW", path)
        process.signal(signal.SIGTERM)
        process.end()
        token = path.rpartition("/")[2]
        assert not any(token in line for line in process.lines if line != told)


def test_what_cannot_be_served_is_told_in_one_line(shop: Path) -> None:
    """With exit code 1."""
    with spawn(Program(shop, MAIN_FOR_EACH, "durable_main.py"), *UNSERVABLE) as process:
        assert process.end() == 0
    assert process.lines[1::2] == ["1"] * len(UNSERVABLE), process.lines
    for line, named in zip(process.lines[::2], UNSERVABLE.values(), strict=True):
        assert named in line


def test_address_that_is_taken_is_told(shop: Path) -> None:
    """Before the journal is opened."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program = Program(shop, MAIN, "durable_main.py")
        with spawn(program, "serve", "shop", "--port", port) as process:
            assert process.end() == 1
            assert f"cannot listen at 127.0.0.1, port {port}" in process.lines[0]
    assert not (shop / "durable.db").exists()


def test_journal_that_cannot_be_opened_is_told(shop: Path) -> None:
    """In one line, and not as a server that is up."""
    (shop / "broken.db").write_text("this is no journal, but text of some length" * 100)
    program = Program(shop, MAIN, "durable_main.py")
    with spawn(program, "serve", "shop:app", "--port", "0", "--db", "broken.db") as process:
        assert process.end() == 1
        assert "broken.db" in process.lines[-1]
        assert not any("serves" in line or "Traceback" in line for line in process.lines)


def test_missing_uvicorn_is_told_with_the_cure(shop: Path) -> None:
    """It is an extra, named in the message."""
    hidden = "import sys; sys.modules['uvicorn'] = None\n" + MAIN
    with spawn(Program(shop, hidden, "durable_main.py"), "serve", "shop") as process:
        assert process.end() == 1
        assert "pip install 'durable[web]'" in process.lines[0]


def test_base_url_may_be_given(shop: Path) -> None:
    """For a server behind another one."""
    base = "https://example.org/hooks"
    with serve(shop, "shop:app", "--port", "0", "--base-url", base) as (process, client):
        client.post("/start/collect")
        assert process.until("url ").split()[-1].startswith(base + "/.well-known/workflow/")
