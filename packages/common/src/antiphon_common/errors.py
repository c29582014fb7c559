"""The errors of protocol cores: bad bytes, our caller's bug, the peer's fault."""


class AntiphonError(Exception):
    """Root of everything Antiphon raises on purpose."""


class DecodeError(AntiphonError, ValueError):
    """Bytes that do not follow their format: the only thing bad bytes can raise."""


class LocalProtocolError(AntiphonError):
    """Our own caller asked for what the state does not allow."""


class RemoteProtocolError(AntiphonError):
    """The peer broke its protocol; the machine that raised this is closed."""
