"""The code that owns sockets, task groups and the clock, on Trio or asyncio."""
