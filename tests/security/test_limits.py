"""What is limited in size, at the limit and one beyond it.

Bodies, headers and depth of JSON of webhooks: tests/web; numbers of attributes and sizes of
payloads: tests/engine/test_attribute_limits.py, tests/journal/test_codec_refusals.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import Codec, Run, Runtime, create_hook, step, workflow
from durable._authoring.namespaces import check_namespace
from durable._base.ids import token_hash, valid_run_id, valid_text
from durable._journal.failure import decode_failure, encode_failure
from durable.errors import SerializationError, WorkflowRunFailedError
from tests.security.rig import WAIT


async def _nothing() -> None:
    """Be a step or a workflow."""


LIMITS: dict[str, tuple[int, Callable[[str], object]]] = {
    "run id": (256, valid_run_id),
    "hook token": (256, lambda text: valid_text(text, "hook token")),
    "name of a workflow": (256, lambda text: workflow(name=text)(_nothing)),
    "name of a step": (256, lambda text: step(name=text)(_nothing)),
    "deployment": (256, lambda text: workflow(name="d")(_nothing).options(deployment_id=text)),
    "attribute": (256, lambda text: workflow(name="a")(_nothing).options(attributes={"k": text})),
    "key of one": (256, lambda text: workflow(name="k")(_nothing).options(attributes={text: "v"})),
    "namespace": (64, check_namespace),
}


@pytest.mark.parametrize("what", LIMITS)
def test_a_text_may_be_as_long_as_its_limit(what: str) -> None:
    """And not a character longer: the error says how long it may be."""
    limit, use = LIMITS[what]
    use("x" * limit)
    with pytest.raises((ValueError, TypeError)) as caught:
        use("x" * (limit + 1))
    assert str(limit) in str(caught.value)


@workflow
async def hooked(token: str) -> None:
    """Creates a hook with this token."""
    create_hook(token=token)


async def test_hooks_and_mailboxes_take_names_up_to_the_limit(journal_path: Path) -> None:
    """In a body, and from outside."""
    async with Runtime(journal_path) as runtime:
        await (await runtime.start(hooked, "x" * 256)).result(WAIT)
        run: Run[Any] = await runtime.start(hooked, "x" * 257)
        with pytest.raises(WorkflowRunFailedError, match="at most 256"):
            await run.result(WAIT)
        for name, key in (("x" * 257, None), ("box", "x" * 257)):
            with pytest.raises(ValueError, match="at most 256"):
                await runtime.send(run, name, 1, dedupe_key=key)
    assert len(token_hash("x" * 256)) == 32


@pytest.mark.parametrize("codec", [Codec(), Codec(format="json")], ids=["pickle", "json"])
def test_the_text_of_an_error_is_kept_up_to_64_kb(codec: Codec) -> None:
    """A longer one is cut, and the whole envelope stays near that size."""
    for size, whole in ((1000, True), (64 * 1024 + 1, False), (5_000_000, False)):
        payload = encode_failure(ValueError("x" * size), codec)
        message = decode_failure(payload, codec).message
        assert (message == "x" * size) == whole
        assert len(payload) < 3 * 64 * 1024 + 4096


@pytest.mark.parametrize("depth", [50, 5_000])
def test_json_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    """By the codec, without a stack overflow."""
    value: object = 1
    for _ in range(depth):
        value = [value]
    if depth == 50:
        assert Codec(format="json").decode(Codec(format="json").encode(value)) == value
        return
    for codec in (Codec(format="json"), Codec()):
        with pytest.raises(SerializationError, match="nested too deeply"):
            codec.encode(value)
