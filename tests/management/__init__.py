"""Tests of the supervisor and what it runs."""
