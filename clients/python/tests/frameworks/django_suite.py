"""Runs the cache tests of Django against ``terrace.django.TerraceCache``.

    pip download --no-deps --no-binary :all: "django==$(python -m django --version)" && tar xzf django-*.tar.gz
    TERRACE_BINARY=target/debug/terrace python clients/python/tests/frameworks/django_suite.py django-5.2.19

The classes ``BaseCacheTests`` and the tests of the middleware, decorators and templates run with this backend.
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
"""Written by django_suite.py."""
import os
from unittest import mock

from django.conf import settings
from django.core.cache import cache, caches
from django.test import TestCase, override_settings

from . import tests as suite
from .tests import BaseCacheTests, caches_setting_for_tests

PARAMS = settings.CACHES["default"]


@override_settings(CACHES=caches_setting_for_tests(base=PARAMS, exclude={"cull", "zero_cull"}))
class TerraceCacheTests(BaseCacheTests, TestCase):
    pass


def with_backend(name):
    """Return a test class of Django with this backend instead of its LocMemCache."""
    base = getattr(suite, name)
    replaced = {
        alias: {**params, **({"BACKEND": PARAMS["BACKEND"], "LOCATION": PARAMS["LOCATION"],
                              "OPTIONS": {**PARAMS["OPTIONS"], "prefix": f"{name}:{params.get('LOCATION', '')}:"}})}
        for alias, params in (getattr(base, "_overridden_settings", None) or {}).get("CACHES", {}).items()
    }
    if not replaced:
        return base
    return override_settings(CACHES=replaced)(type("Terrace" + name, (base,), {"__module__": __name__}))


for _name in ("CacheUtils", "PrefixedCacheUtils", "CacheHEADTest", "CacheI18nTest", "PrefixedCacheI18nTest",
              "CacheMiddlewareTest", "TestWithTemplateResponse"):
    globals()["Terrace" + _name] = with_backend(_name)
'''


def main() -> int:
    """Run the tests."""
    if len(sys.argv) != 2 or not (tests := pathlib.Path(sys.argv[1]).resolve() / "tests").is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    (tests / "cache" / "test_terrace.py").write_text(_MODULE)
    with running() as server:
        paths = [str(HERE), str(HERE.parents[1] / "python"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "TERRACE_TARGET": server.target, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "runtests.py", "--settings=django_settings", "--parallel=1", "-v", "2"]
        return subprocess.run([*command, "cache.test_terrace"], cwd=tests, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
