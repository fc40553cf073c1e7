"""A process that trains other projects' agents, in a Python environment where these projects are installed."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from report import PROJECT


class PeerProcess:
    """A script that reads a JSON line for each training and answers with a JSON line.

    :param python: the interpreter of an environment that has the projects
    :param script: name of a file beside this one
    """

    def __init__(self, python: str, script: str) -> None:
        command = [python, str(PROJECT / "benchmarks" / script)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._read_answer()

    def train(self, *request: Any) -> dict[str, Any]:
        """Train once, and return the outcome."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read_answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peers' process ended with status {self._process.wait()}; are they installed?")
        answer: dict[str, Any] = json.loads(line)
        return answer
