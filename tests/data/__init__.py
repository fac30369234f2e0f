"""Tests of memjax.data."""
