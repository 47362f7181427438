"""A fake of the cache and a real server, for the tests of applications."""
