"""The Trio code that owns sockets, nurseries and the clock: the link, the control API and backend connections."""
