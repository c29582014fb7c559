"""The Trio code that owns sockets, processes and the clock: the packet loop, workers, discovery and Redis."""
