"""The command `durable`: look at a journal, act on its runs, see a demonstration.

Owns arguments, output and exit codes: 0 done, 1 an error told in one line on stderr,
2 wrong usage, 130 interrupted. It never executes a run: reading goes through `Bystander`,
commands go to the owner of the journal or are written in its absence (see `bystander`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence

from durable._base.clock import SystemClock
from durable._base.ids import new_run_id, new_token, token_hash, valid_text
from durable._base.words import counted
from durable._journal.codec import Codec
from durable._journal.records import BLOCKED, FINISHED
from durable._surface.bystander import CommandPort, command
from durable._surface.cli_doctor import add_doctor
from durable._surface.cli_files import add_files
from durable._surface.cli_keys import add_keys
from durable._surface.cli_repair import add_repair
from durable._surface.cli_runs import add_journal, add_key_file, add_runs, bystander, keys_of
from durable._surface.given import check_reason
from durable._surface.history import read_events, waiting_for
from durable._surface.lifecycle import checked_id, pause, rerun, retry
from durable._surface.listing import event_facts, history_lines, plain, run_facts
from durable._surface.manual import add_docs
from durable._surface.run import Run
from durable._surface.stream_view import show_stream
from durable.errors import DurableError, HookNotFoundError, WorkflowRunNotFoundError

_LATER = "when a program that has its code opens the journal"


def main(argv: Sequence[str] | None = None) -> int:
    """Perform one command line and return the exit code.

    Args:
        argv: the arguments; default those of the process.
    """
    arguments = _parser().parse_args(argv)
    _never_fail_to_print()
    logging.basicConfig(format="%(message)s")  # warnings of the library, on stderr
    try:
        code: int = arguments.perform(arguments)
        sys.stdout.flush()
    except (DurableError, OSError, ValueError) as error:
        return _told(error, arguments)
    except KeyboardInterrupt:
        return 130
    return code


def _told(error: Exception, arguments: argparse.Namespace) -> int:
    if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    text = str(error)
    if isinstance(error, FileExistsError) and error.filename is not None:
        over = ", or give --overwrite" if "overwrite" in arguments else ""
        text = f"{error.filename} exists already: choose another path{over}"
    print(f"durable: {plain(text)}", file=sys.stderr)
    return 1


def _never_fail_to_print() -> None:
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")


# --- arguments --------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    from durable import __version__

    parser = argparse.ArgumentParser(
        prog="durable", description="Look at a journal of durable runs, and act on them."
    )
    parser.add_argument("--version", action="version", version=f"durable {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands.add_parser("demo", help="see a process killed and its run go on"))
    add_runs(commands.add_parser("runs", help="list runs, newest first"))
    _add_serve(commands.add_parser("serve", help="receive webhooks, and execute the runs"))
    add_docs(commands.add_parser("docs", help="list the documentation, or print a page of it"))
    _add_show(commands.add_parser("show", help="show one run with its history"))
    _add_stream(commands.add_parser("stream", help="show what a run emits"))
    cancel = _add_command(commands.add_parser("cancel", help="cancel a run"), _cancel)
    cancel.add_argument("--reason", help="kept with the run and shown to its waiters")
    _add_command(commands.add_parser("wake", help="end a run's pending sleeps now"), _wake)
    _add_lifecycle(commands)
    answer = commands.add_parser("resume-hook", help="give an open hook its next payload")
    answer.add_argument("token", metavar="TOKEN")
    _add_payload(answer, _resume_hook)
    send = commands.add_parser("send", help="send a payload to a mailbox of a run")
    send.add_argument("run_id", metavar="RUN_ID")
    send.add_argument("name", metavar="NAME")
    _add_payload(send, _send)
    add_files(commands.add_parser)
    add_doctor(commands.add_parser)
    add_keys(commands.add_parser)
    add_repair(commands.add_parser)
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", metavar="DIR", help="leave the journal and the ledger in DIR")
    parser.set_defaults(perform=_demo)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serve TARGET until Ctrl-C or SIGTERM. TARGET is a module, whose workflows then run from "
        "the journal; or MODULE:NAME of a Runtime, or of an ASGI application that has mounted "
        "durable.asgi.webhooks() itself. Needs uvicorn: pip install 'durable[web]'."
    )
    parser.add_argument("target", metavar="TARGET", help="a module, or MODULE:NAME")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8787, help="0 for any free one (8787)")
    parser.add_argument("--db", metavar="PATH", help="the journal ($DURABLE_JOURNAL, durable.db)")
    parser.add_argument(
        "--base-url", metavar="URL",
        help="what webhook URLs begin with ($DURABLE_WEBHOOK_BASE_URL, the server's address)",
    )  # fmt: skip
    add_key_file(parser)
    parser.set_defaults(perform=_serve)


def _add_show(parser: argparse.ArgumentParser) -> None:
    add_journal(parser, _show)
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("--json", action="store_true", help="as a JSON object")


def _add_stream(parser: argparse.ArgumentParser) -> None:
    add_journal(parser, _stream)
    parser.add_argument("run_id", metavar="RUN_ID")
    parser.add_argument("--namespace", metavar="NAME", help="the stream (default: the default one)")
    parser.add_argument(
        "--start", type=int, default=0, metavar="INDEX", help="from here on; negative: the last"
    )
    parser.add_argument("--follow", action="store_true", help="wait for what is still to come")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")


Ask = Callable[[CommandPort, argparse.Namespace], Awaitable[str]]


def _add_lifecycle(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pause = _add_command(commands.add_parser("pause", help="keep a run from going on"), _pause)
    pause.add_argument("--reason", help="shown with the run's status")
    resume = commands.add_parser("resume", help="let a paused or blocked run go on")
    _add_command(resume, _resume)
    retry = commands.add_parser("retry", help="let a failed run go on from its failed step")
    _add_command(retry, _retry, on_ended=True)
    rerun = commands.add_parser("rerun", help="start a new run with the same input")
    _add_command(rerun, _rerun, on_ended=True)
    fork = commands.add_parser("fork", help="start a new run that shares a run's history")
    _add_command(fork, _fork, on_ended=True)
    fork.add_argument(
        "--at", help="last event to share (its number), or first step to attempt again (its name)"
    )
    for parser in (rerun, fork):
        parser.add_argument("--run-id", dest="new_id", help="of the new run")


def _add_command(
    parser: argparse.ArgumentParser, ask: Ask, *, on_ended: bool = False
) -> argparse.ArgumentParser:
    add_journal(parser, lambda arguments: asyncio.run(_command(arguments, ask, on_ended)))
    parser.add_argument("run_id", metavar="RUN_ID")
    return parser


def _add_payload(parser: argparse.ArgumentParser, ask: Ask) -> None:
    add_journal(parser, lambda arguments: _hand_in(arguments, ask))
    parser.add_argument("payload", metavar="JSON", type=_json, nargs="?", help="default null")
    parser.add_argument("--key", help="a second payload under the same key has no effect")


def _json(text: str) -> bytes:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is not JSON: {error}; a text needs double quotes of its own"
        ) from None
    return Codec(format="json").encode(value, "payload")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


# --- looking ------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    print(asyncio.run(_shown(arguments)))
    return 0


async def _shown(arguments: argparse.Namespace) -> str:
    async with bystander(arguments) as access:
        row = await access.reader.run_by_id(arguments.run_id)
        if row is None:
            raise WorkflowRunNotFoundError(arguments.run_id)
        events = await read_events(access, row)
        waiting = await waiting_for(access, row)
    if not arguments.json:
        return "\n".join(history_lines(row, events, waiting))
    facts = run_facts(row) | {"waiting_for": waiting, "events": [event_facts(e) for e in events]}
    return json.dumps(facts, indent=2)


def _stream(arguments: argparse.Namespace) -> int:
    showing = show_stream(
        arguments.db, arguments.run_id, arguments.namespace, arguments.start,
        follow=arguments.follow, as_json=arguments.json, encryption=keys_of(arguments),
    )  # fmt: skip
    asyncio.run(showing)
    return 0


# --- acting -------------------------------------------------------------------------------


async def _command(arguments: argparse.Namespace, ask: Ask, on_ended: bool) -> int:
    status = await _status(arguments)
    if status in FINISHED and not on_ended:
        print(f"{arguments.run_id} is {status} already: nothing to do")
        return 0
    done = await _ask(arguments, ask)
    outlook = f"it is {await _status(arguments)} now"
    if arguments.created is not None:
        outlook = f"see `durable show {arguments.created}`"
    print(f"{arguments.run_id}: {done}; {outlook}")
    return 0


async def _ask(arguments: argparse.Namespace, ask: Ask) -> str:
    arguments.request = new_run_id(SystemClock().wall_us())  # the same, however often it is made
    arguments.created = None
    keys = keys_of(arguments)
    return await command(arguments.db, lambda port: ask(port, arguments), encryption=keys)


async def _status(arguments: argparse.Namespace) -> str:
    async with bystander(arguments) as access:
        return await Run(arguments.run_id, access).status()


async def _cancel(port: CommandPort, arguments: argparse.Namespace) -> str:
    check_reason(arguments.reason)
    done = await port.cancel(arguments.run_id, arguments.reason)
    return "the cancellation is recorded" if done is not False else f"to be cancelled {_LATER}"


async def _wake(port: CommandPort, arguments: argparse.Namespace) -> str:
    count = await port.wake_up(arguments.run_id, None)
    if count is None:
        return f"to be woken {_LATER}"
    return f"{counted(count, 'sleep')} ended"


async def _resume(port: CommandPort, arguments: argparse.Namespace) -> str:
    if await _status(arguments) != BLOCKED:
        return "it is not blocked, so there was nothing to resume"
    await port.resume(arguments.run_id)
    return "it may try again"


def _hand_in(arguments: argparse.Namespace, ask: Ask) -> int:
    # One key for all tries: an owner may have recorded the payload and gone away.
    given = arguments.key
    arguments.key = new_token() if given is None else valid_text(given, "dedupe key")
    arguments.payload = arguments.payload or _json("null")
    print(asyncio.run(_ask(arguments, ask)))
    return 0


async def _resume_hook(port: CommandPort, arguments: argparse.Namespace) -> str:
    async with bystander(arguments) as access:
        hook = await access.reader.hook(token_hash(arguments.token))
    if hook is None:
        raise HookNotFoundError(arguments.token)
    run_id = await port.ask(
        "resume_hook", token=arguments.token, payload=arguments.payload, key=arguments.key,
        run_id=hook.run_id,
    )  # fmt: skip
    return f"{run_id}: the payload is recorded"


async def _send(port: CommandPort, arguments: argparse.Namespace) -> str:
    await port.ask(
        "send", run_id=arguments.run_id, name=valid_text(arguments.name, "mailbox name"),
        payload=arguments.payload, key=arguments.key,
    )  # fmt: skip
    return f"{arguments.run_id}: the payload is recorded"


async def _pause(port: CommandPort, arguments: argparse.Namespace) -> str:
    check_reason(arguments.reason)
    await pause(port, arguments.run_id, arguments.reason)
    return "it is paused"


async def _retry(port: CommandPort, arguments: argparse.Namespace) -> str:
    await retry(port, arguments.run_id, arguments.request)
    return "it goes on from where it failed"


async def _rerun(port: CommandPort, arguments: argparse.Namespace) -> str:
    async with bystander(arguments) as access:
        row = await access.reader.run_by_id(arguments.run_id)
        if row is None:
            raise WorkflowRunNotFoundError(arguments.run_id)
        wanted = checked_id(arguments.new_id, arguments.request)
        new_id = await rerun(access.reader, port, row, wanted)
    arguments.created = new_id
    return f"started anew as {new_id}"


async def _fork(port: CommandPort, arguments: argparse.Namespace) -> str:
    at, new_id = arguments.at, checked_id(arguments.new_id, arguments.request)
    place = int(at) if at is not None and at.isdecimal() else at
    await port.ask("fork", run_id=arguments.run_id, new_id=new_id, at=place, results=[])
    arguments.created = new_id
    return f"forked as {new_id}"


def _demo(arguments: argparse.Namespace) -> int:
    from durable._surface.demo import demonstrate

    return demonstrate(arguments.keep)


def _serve(arguments: argparse.Namespace) -> int:
    from durable._surface.serve import serve

    return serve(
        arguments.target, host=arguments.host, port=arguments.port, journal=arguments.db,
        base_url=arguments.base_url, key_file=arguments.key_file,
    )  # fmt: skip
