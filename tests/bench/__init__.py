"""Benchmarks: `make bench`. Ratios against a yardstick in the same run; nothing here is a test."""
