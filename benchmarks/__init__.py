"""Timings: `python -m benchmarks.training`."""
