"""PURE. What is said on a connection: parameters, messages and the state machine between them."""
