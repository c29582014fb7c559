"""The code with sockets, files, nurseries and the clock: the commands, and the client's driver."""
