"""PURE. The protocol of a connection: its parameters, its messages and its state machine."""
