"""System checks: what would make a start pointless or a promise void. Each has a stable id and a hint."""
