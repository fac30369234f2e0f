"""Timings: `python -m benchmarks`, and its neighbours `.training`, `.addressing`, `.writing`."""
