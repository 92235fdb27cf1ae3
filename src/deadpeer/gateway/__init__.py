"""The asyncio runtime: sockets, timers, configuration, state directory, control socket, logs."""
