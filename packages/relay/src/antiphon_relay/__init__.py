"""The relay: takes any packet of any call to its owner, and the owner's packets to the client.

The service is in `antiphon_relay.shell.service`. Nothing is imported here, so that a worker, which starts while calls
wait, loads no HTTP server.
"""
