"""The Trio code that owns sockets, TLS, files and the clock: HTTP, WebSockets and requests to transceivers."""
