"""One file per exchange, both roles in it."""
