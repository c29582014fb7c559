"""The counters of the call router."""


class CallRouterCounters:
    """Counters of link datagrams and of route changes, exported as metrics. The call router increments them.

    Of dropped datagrams, `foreign_host` came from a host outside the relay network. `downlink` had a header of the
    other direction. `throttled` exceeded the budget of their call. `disowned` counts messages to relays that the call
    of a token has ended. `rerouted` counts paths that use another relay since theirs stopped sending. `diverted` counts
    calls that use another ingress since theirs was lost.
    """

    __slots__ = (
        "bad_tag",
        "disowned",
        "diverted",
        "downlink",
        "foreign_host",
        "foreign_path",
        "malformed_messages",
        "messages",
        "received",
        "rerouted",
        "sent",
        "skipped_messages",
        "throttled",
        "too_short",
        "unknown_path",
        "unknown_ufrag",
    )

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.messages = 0
        self.malformed_messages = 0
        self.skipped_messages = 0
        self.rerouted = 0
        self.diverted = 0
        self.foreign_host = 0
        self.too_short = 0
        self.bad_tag = 0
        self.downlink = 0
        self.unknown_ufrag = 0
        self.disowned = 0
        self.unknown_path = 0
        self.foreign_path = 0
        self.throttled = 0
