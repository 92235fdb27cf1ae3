"""Attackers in the lab: what each of them does, what must hold all the same, and what was measured."""
