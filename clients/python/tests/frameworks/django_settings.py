"""Settings for the cache tests of Django, which run against this backend in place of its backend for Redis."""

from __future__ import annotations

import os

CACHES = {
    "default": {
        "BACKEND": "terrace.django.TerraceCache",
        "LOCATION": os.environ["TERRACE_TARGET"],
        # Deadlines for a debug build on a busy machine.
        "OPTIONS": {"read_timeout": 5, "write_timeout": 5},
    }
}
DATABASES = {name: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"} for name in ("default", "other")}
SECRET_KEY = "tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
