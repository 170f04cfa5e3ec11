"""The WebSocket paths."""
