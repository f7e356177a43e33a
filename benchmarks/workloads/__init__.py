"""The registry: every module of this package that has a `WORKLOADS` tuple.

To add a workload or a peer, add one file here; nothing else changes. A file that
measures somebody else's engine imports that engine inside its functions, and nothing of
ours: so the registry can be read where the engine is not installed, and the file alone
can be loaded by an interpreter that has nothing but that engine.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

from benchmarks.workload import Workload

OURS = "durable"


def registry() -> list[Workload]:
    """All workloads, in the order of the file names."""
    found: list[Workload] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        found += _of(module.name)
    return found


def find(name: str, subject: str = OURS, module: str | None = None) -> Workload:
    """One workload by name (any case); raises LookupError naming the ones that exist.

    No module but `module` is loaded, where it is given.
    """
    everything = registry() if module is None else _of(module)
    known = [workload for workload in everything if workload.subject == subject]
    for workload in known:
        if workload.name.lower() == name.lower():
            return workload
    names = ", ".join(workload.name for workload in known)
    raise LookupError(f"no workload {name!r} of {subject!r}; there are: {names}")


def _of(module: str) -> list[Workload]:
    loaded = importlib.import_module(f"{__name__}.{module}")
    return [replace(workload, module=module) for workload in getattr(loaded, "WORKLOADS", ())]
