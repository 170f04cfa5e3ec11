"""The product: receive chunks durably, keep sessions, make recordings. See `docs/architecture.md`."""
