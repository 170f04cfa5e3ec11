"""Upkeep: sweeps that find in the database what the queue lost, and the removal of sessions."""
