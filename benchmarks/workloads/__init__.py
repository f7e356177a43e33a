"""The registry: every module of this package that has a `WORKLOADS` tuple.

To add a workload or a peer, add one file here; nothing else changes. A file that
measures somebody else's engine imports that engine inside its functions, so that
the registry can be read where it is not installed.
"""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.workload import Workload

OURS = "durable"


def registry() -> list[Workload]:
    """All workloads, in the order of the file names."""
    found: list[Workload] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        found.extend(getattr(loaded, "WORKLOADS", ()))
    return found


def find(name: str, subject: str = OURS) -> Workload:
    """One workload by name (any case); raises LookupError naming the ones that exist."""
    known = [workload for workload in registry() if workload.subject == subject]
    for workload in known:
        if workload.name.lower() == name.lower():
            return workload
    names = ", ".join(workload.name for workload in known)
    raise LookupError(f"no workload {name!r} of {subject!r}; there are: {names}")
