"""The tasks that make recordings. Each is repeatable: the database says what is left to do."""
