"""One file per exchange, both roles in it; `dispatch.respond` picks the responder's side."""
