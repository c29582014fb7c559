"""The reasons for which calls end or fail, as logs, metrics, the control API and backends receive them."""

from enum import StrEnum


class EndReason(StrEnum):
    """Why a call ended. The members before `HANGUP` are failed set-ups; each failed set-up is logged with one of them.

    `Terminated` events carry it. Its values are labels of metrics and appear in logs.
    """

    NO_STUN = "no_stun_seen"
    BAD_CREDENTIALS = "bad_credentials"
    DTLS_ALERT = "dtls_alert"
    DTLS_TIMEOUT = "dtls_timeout"
    CERTIFICATE_MISMATCH = "certificate_mismatch"
    NO_MEDIA = "no_media"
    BACKEND_REFUSED = "backend_refused"
    FULL = "full"
    DRAINING = "draining"

    HANGUP = "hangup"
    CLOSE_NOTIFY = "close_notify"
    PEER_SILENT = "peer_silent"
    BACKEND_ENDED = "backend_ended"
    BACKEND_LOST = "backend_lost"
    BACKEND_ERROR = "backend_error"
    OVER_BUDGET = "over_budget"
    INTERNAL_ERROR = "internal_error"
    DRAINED = "drained"
    SHUTDOWN = "shutdown"
