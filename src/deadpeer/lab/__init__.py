"""Real gateways in real processes, crashed and measured."""
