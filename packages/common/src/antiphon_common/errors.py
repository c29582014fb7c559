"""The errors of protocol cores: malformed bytes, a bug of our caller, or a fault of the peer."""


class AntiphonError(Exception):
    """The base class of all exceptions that Antiphon raises. Catch it to catch all of them."""


class DecodeError(AntiphonError, ValueError):
    """Bytes do not follow their format. Decoders raise nothing else; machines count it and drop the bytes."""


class LocalProtocolError(AntiphonError):
    """Our own caller requested something that the state does not allow. It is a bug in this process."""


class RemoteProtocolError(AntiphonError):
    """The peer violated its protocol. The machine that raised it is closed."""
