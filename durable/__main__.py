"""`python -m durable`: the same as the command `durable`.

Owns nothing: arguments, output and exit codes are described in `durable._surface.cli`.
"""

from __future__ import annotations

from durable._surface.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
