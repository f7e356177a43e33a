"""What the sources must not do, for safety: SQL made of values, the network, weak secrets."""

from __future__ import annotations

import ast
import tomllib

from tests.style.sources import ROOT, calls, dotted, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _is_constant(node: ast.expr) -> bool:
    """Whether a statement is a name for a constant of the module, or a text."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.JoinedStr):  # a PRAGMA; what is put in are numbers and our own names
        first = node.values[0]
        return isinstance(first, ast.Constant) and str(first.value).startswith("PRAGMA ")
    if isinstance(node, ast.Subscript):
        return dotted(node.value) in {"QUERIES", "EXAMINING"}
    return isinstance(node, ast.Name | ast.Attribute)


# Where a statement comes in a variable, and where that comes from.
PASSED_ON = {
    ("durable/_journal/batch.py", "statement"): "for_rows(QUERIES[...], n)",
    ("durable/_journal/chunks.py", "query"): "a constant",
    ("durable/_journal/migrations.py", "statement"): "schema.sql",
    ("durable/_journal/migrations.py", "script"): "schema.sql",
    ("durable/_journal/reader.py", "query"): "_fetch(name)",
    ("durable/_journal/retention.py", "delete_some"): "QUERIES[...]",
    ("durable/_journal/retention.py", "has_some"): "QUERIES[...]",
    ("durable/_journal/selection.py", "statement.text"): "pieces of selection.sql",
}


def test_every_statement_is_a_constant_or_comes_from_an_sql_file() -> None:
    """Names in capitals are set once, from QUERIES or a text; the others are listed here."""
    odd, seen = [], set()
    for source in sources("durable"):
        for node, name in calls(source):
            if name.rsplit(".", 1)[-1] not in {"execute", "executemany", "executescript"}:
                continue
            statement = node.args[0]
            if not _is_constant(statement):
                odd.append(source.at(node, ast.unparse(statement)))
            elif isinstance(statement, ast.Name | ast.Attribute):
                word = dotted(statement)
                if (source.path, word) in PASSED_ON:
                    seen.add((source.path, word))
                elif not (word.isupper() and _is_set_once(source.tree, word)):
                    odd.append(source.at(node, word))
    assert odd == []
    assert seen == set(PASSED_ON)


def _is_set_once(tree: ast.Module, word: str) -> bool:
    """Whether a module sets a name once, at its top, from QUERIES or a text."""
    found = []
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        (target,) = node.targets
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple):
            assert isinstance(node.value, ast.Tuple)
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        found += [value for name, value in pairs if ast.unparse(name) == word]
    text = ast.unparse(found[0]) if len(found) == 1 else ""
    return text.startswith(("QUERIES[", "sql.QUERIES[", "_fetch('", "'"))


# What could open a connection, and the one module that listens to the network.
OUTWARD = {"urllib.request", "http.client", "ftplib", "smtplib", "requests", "httpx", "aiohttp"}
LISTENS = {"durable/_surface/serve.py"}
CONNECTS = {"durable/_journal/sockets.py", "durable/_journal/control_client.py"}  # AF_UNIX


def test_the_library_connects_to_nothing_but_its_own_socket() -> None:
    """No module imports a client of the network; sockets are used in two rooms."""
    for source in sources("durable"):
        names: set[str] = set()
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
        assert not names & OUTWARD, source.path
        if "socket" in names:
            assert source.path in LISTENS | CONNECTS or "AF_INET" not in source.text, source.path
        if source.path not in LISTENS:
            assert "AF_INET" not in source.text, source.path
            assert "open_connection" not in source.text, source.path


def test_the_packages_that_are_always_installed_are_three() -> None:
    """All others are extras that their users ask for."""
    names = {requirement.split(">")[0] for requirement in PROJECT["dependencies"]}
    assert names == {"aiosqlite", "cloudpickle", "uvloop"}
    assert set(PROJECT["optional-dependencies"]) >= {"crypto", "web", "test", "dev"}
    for extra in PROJECT["optional-dependencies"].values():
        assert all(any(sign in each for sign in (">=", "~=", "<=", "durable[")) for each in extra)


def test_no_secret_is_drawn_from_a_generator_that_can_be_guessed() -> None:
    """`random` is for pauses and for bodies; keys, tokens and ids come from the system."""
    users = {s.path for s in sources("durable") if "import random" in s.text}
    assert users.isdisjoint({
        "durable/_base/ids.py", "durable/_journal/keys.py", "durable/_journal/seals.py",
    })  # fmt: skip
    for path in ("durable/_base/ids.py", "durable/_journal/keys.py"):
        assert "secrets." in (ROOT / path).read_text()
    assert "os.urandom(" in (ROOT / "durable/_journal/seals.py").read_text()
