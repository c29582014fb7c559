"""Every Antiphon service in one process, key generation, and a client that makes real calls.

`python -m antiphon` is the way in. A program of your own that runs Trio takes `antiphon.shell.serve.serve_all`; what
makes calls is in `antiphon.client`. Nothing is imported here: the client alone needs no server.
"""
