"""Programs that tests start and that print their address."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: The line that uvicorn prints when it listens.
LISTENING = re.compile(r"running on (http://127\.0\.0\.1:\d+)")


@contextmanager
def started(command: list[str], address: re.Pattern[str], folder: Path, log: Path, **environment: str) -> Iterator[str]:
    """Run a program in a folder, and return the address that it prints."""
    with log.open("wb") as output:
        env = os.environ | environment
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        while not (found := address.search(log.read_text())):
            assert process.poll() is None, f"{command} ended: {log.read_text()}"
            # Nothing reports that a file has grown; the program ends by itself if it cannot start.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.02)
        yield found.group(1)
    finally:
        process.terminate()
        process.wait(60)
