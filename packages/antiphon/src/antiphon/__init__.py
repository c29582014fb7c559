"""Every Antiphon service in one process, key generation, and a client that makes real calls.

Start it by `python -m antiphon`. Programs that run Trio can call `antiphon.shell.serve.serve_all`. The client is in
`antiphon.client`. Nothing is imported here, so that the client can be used without the server's dependencies.
"""
