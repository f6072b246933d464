"""Measurements of what docs/reliability.md promises: `python -m benchmarks.reliability kills --n 200`."""
