"""Runs the tests of Flask-Caching against ``terrace.flask_caching.TerraceCache``.

pip download --no-deps --no-binary :all: "flask-caching==2.5.1" && tar xzf flask_caching-*.tar.gz
pip install pytest-xprocess
TERRACE_BINARY=target/debug/terrace python clients/python/tests/frameworks/flask_suite.py flask_caching-2.5.1
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from framework_server import running

_MODULE = '''
"""Written by flask_suite.py."""
import os
import secrets
import time

import flask
import pytest
from terrace.flask_caching import TerraceCache
from test_backend_cache import GenericCacheTests
from test_basic_app import *
from test_cache import *
from test_memoize import *
from test_templates import *
from test_view import *

OPTIONS = {"read_timeout": 5, "write_timeout": 5}


@pytest.fixture
def app(request):
    app = flask.Flask("test_terrace", template_folder=os.path.dirname(__file__))
    app.testing = True
    app.config.update(
        CACHE_TYPE="terrace.flask_caching.TerraceCache",
        CACHE_TERRACE_TARGET=os.environ["TERRACE_TARGET"],
        CACHE_KEY_PREFIX=secrets.token_hex(4) + ":",
    )
    return app


@pytest.fixture
def clock():
    """Stand in for the clock of the backends in memory: the server has its own clock."""

    class Clock:
        @staticmethod
        def advance(seconds):
            if seconds > 3:
                pytest.skip(f"the test advances a fake clock by {seconds} s, and the server has its own clock")
            time.sleep(seconds)

    return Clock()


class TestTerraceCache(GenericCacheTests):
    _can_use_fast_sleep = False

    @pytest.fixture
    def make_cache(self):
        prefix = secrets.token_hex(4) + ":"
        return lambda *args, **kwargs: TerraceCache(
            os.environ["TERRACE_TARGET"], *args, key_prefix=prefix, **OPTIONS, **kwargs
        )
'''


def main() -> int:
    """Run the tests."""
    if len(sys.argv) != 2 or not (tests := pathlib.Path(sys.argv[1]).resolve() / "tests").is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    (tests / "test_terrace.py").write_text(_MODULE)
    with running() as server:
        paths = [str(HERE.parents[1] / "python"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "TERRACE_TARGET": server.target, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:asyncio", "test_terrace.py"]
        return subprocess.run(command, cwd=tests, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
