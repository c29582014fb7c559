"""Why a call ended, or never began: the vocabulary of logs, metrics, the control API and the backend."""

from enum import StrEnum


class EndReason(StrEnum):
    """Why a call ended. The first group are failed set-ups, each of which is logged with exactly one reason."""

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
