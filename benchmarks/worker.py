"""The process in which one workload, or the floors, are performed once.

Started by the runner as ``python -m benchmarks.worker REQUEST`` with a JSON request;
writes the samples as JSON to the file that the request names, so that whatever the
work prints cannot spoil them. Exit code 0 means that the answer is there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import floors
from benchmarks.floors import Durability, Samples
from benchmarks.workload import Settings

FLOORS = "floors"


@dataclass(frozen=True)
class Request:
    """What to perform: a workload of a subject, or the floors when `name` says so."""

    name: str
    subject: str
    module: str
    directory: str
    durability: Durability
    loop: str
    quick: bool
    peer_seconds: float = 30.0

    @property
    def answer(self) -> Path:
        """Where the samples are written."""
        return Path(self.directory) / "answer.json"


def perform(request: Request) -> Samples:
    """Do the work in this process."""
    directory = Path(request.directory)
    if request.name == FLOORS:
        return floors.measure(directory, request.durability, request.loop, request.quick)
    from benchmarks.workloads import find  # not for floors: they must not load the engine

    settings = Settings(
        directory, request.durability, request.loop, request.quick, request.peer_seconds
    )
    return find(request.name, request.subject, request.module).perform(settings)


def main() -> None:
    """Read the request from the command line, perform, answer."""
    request = Request(**json.loads(sys.argv[1]))
    request.answer.write_text(json.dumps(perform(request)))


if __name__ == "__main__":
    main()
