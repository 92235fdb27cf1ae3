"""Data planes: what carries the packets of the child SAs."""
