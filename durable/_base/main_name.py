"""What the started program is called when another one imports it.

Python names the module of every started program ``__main__``. Names of workflows and steps,
and references to classes, are recorded under the name that an import would use, so that it
does not matter which program of a journal was started and which was imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["name_of_main"]


def name_of_main() -> str | None:
    """Return the import name of ``__main__``: that of ``python -m``, or the file's stem.

    None in a notebook, at the prompt and with ``python -c``: nobody can import these.
    """
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return Path(file).stem if file else None
