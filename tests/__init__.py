"""The tests; `linear_gaussian.py`, `tiny.py` and `runs.py` are what they share."""
