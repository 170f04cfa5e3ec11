"""Fixtures for every test. The servers behind them are started by `tests/services.py`."""
