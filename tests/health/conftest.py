"""A journal with one of everything, made once and copied for each test that damages it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.health.rig import make_journal


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal that the others are copies of."""
    path = tmp_path_factory.mktemp("template") / "app.db"
    make_journal(path)
    return path


@pytest.fixture
def journal(template: Path, journal_path: Path) -> Path:
    """A journal with one of everything, to be damaged."""
    shutil.copy(template, journal_path)
    return journal_path
