"""Tests that run what README.md and docs/ say."""
