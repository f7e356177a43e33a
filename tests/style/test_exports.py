"""The public face: what `durable` exports, how it is documented, and its errors."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pytest

import durable
import durable.asgi
import durable.errors
import durable.testing

PUBLIC = (durable, durable.asgi, durable.errors, durable.testing)

ERRORS = [
    value
    for _, value in inspect.getmembers(durable.errors, inspect.isclass)
    if issubclass(value, durable.errors.DurableError)
]


# --- names ----------------------------------------------------------------------------


def test_every_exported_name_exists_once() -> None:
    """`__all__` names what is there, each once and none private."""
    names = durable.__all__
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(durable, name)] == []
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []


def test_nothing_public_is_missing_from_all() -> None:
    """What can be reached as `durable.x` is either in `__all__` or a public module."""
    names = {name for name in vars(durable) if not name.startswith("_")}
    found = {name for name in names if not inspect.ismodule(getattr(durable, name))}
    assert found - set(durable.__all__) - {"annotations"} == set()


def test_every_public_name_has_a_docstring() -> None:
    """Functions, classes and their public methods, in all public modules."""
    missing = [name for module in PUBLIC for name in _undocumented(module)]
    assert missing == []


def test_errors_used_by_callers_are_exported_at_the_top() -> None:
    """The errors that users raise themselves are next to `step`."""
    assert {"FatalError", "RetryableError"} <= set(durable.__all__)


def test_import_brings_only_what_every_program_needs() -> None:
    """Starting must be cheap: the sync facade, webhooks and the like come when asked for."""
    program = "import sys, durable; print(*sorted(sys.modules))"
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    )
    later = """
    cloudpickle uvloop uuid decimal tempfile shutil pkgutil
    durable._surface.sync durable._surface.webhooks durable._surface.messages
    durable._surface.signatures durable._surface.http_request durable._surface.webhook_app
    durable._surface.cli durable._surface.verifying durable._journal.care.verifying
    durable._surface.restoring durable._journal.care.restoring
    durable._authoring.fitting durable.testing durable.asgi
    """.split()
    assert set(later) & set(said.stdout.split()) == set()


def test_what_is_imported_later_is_found_like_the_rest() -> None:
    """By name, by `dir` and by a star import."""
    assert set(durable.__all__) <= set(dir(durable))
    program = "from durable import *; print(SyncRuntime.__name__, create_webhook.__name__)"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = durable.no_such_name


def test_type_information_is_shipped() -> None:
    """The marker that makes type checkers read our annotations lies in the package."""
    assert (Path(durable.__file__).parent / "py.typed").is_file()


def test_import_needs_no_uvloop() -> None:
    """Without uvloop everything can be imported; it is used where it is there."""
    program = "import sys; sys.modules['uvloop'] = None; import durable, durable.testing"
    subprocess.run([sys.executable, "-c", program], check=True)


def _undocumented(module: ModuleType) -> Iterator[str]:
    for name, value in _public_members(module):
        if not inspect.getdoc(value):
            yield f"{module.__name__}.{name}"
        if inspect.isclass(value):
            yield from (f"{module.__name__}.{name}.{part}" for part in _bare_methods(value))


def _public_members(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
        value = getattr(module, name)
        owner = getattr(value, "__module__", "") or ""
        if callable(value) and owner.split(".")[0] == "durable":
            yield name, value


def _bare_methods(cls: type) -> Iterator[str]:
    for name, value in vars(cls).items():
        is_method = inspect.isfunction(value) or isinstance(
            value, (property, classmethod, staticmethod)
        )
        if is_method and not name.startswith("_") and not inspect.getdoc(getattr(cls, name)):
            yield name


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_errors_survive_pickling(cls: type[durable.errors.DurableError]) -> None:
    """Type, message and fields are the same after a round trip between processes."""
    error = cls(*_arguments(cls))
    error.add_note("a note")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (cls, str(error), vars(error))


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_errors_say_something(cls: type[durable.errors.DurableError]) -> None:
    """Each has a docstring of its own, and a message even when none is given."""
    assert cls.__doc__
    assert str(cls(*_arguments(cls)))


def _arguments(cls: type) -> list[object]:
    samples = {"int": 7, "str": "text", "datetime": datetime(2024, 1, 1)}  # noqa: DTZ001
    required = [
        parameter
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    return [samples[str(parameter.annotation).split(" ")[0]] for parameter in required]
