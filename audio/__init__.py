"""The product: receive chunks durably, keep sessions, make recordings. `docs/architecture.md` is the map."""
