"""The audio formats a backend may speak, as `Hello` and `Started` name them."""

from typing import Final

from antiphon_common.errors import LocalProtocolError

OPUS: Final = "opus"

SAMPLE_RATES: Final = {"pcm16": 24_000, "pcm16/16000": 16_000, "pcm16/24000": 24_000, "pcm16/48000": 48_000}
"""The PCM formats; where no rate is named it is 24 kHz."""


def sample_rate(format: str) -> int | None:
    """Return the samples a second of a PCM format, None for Opus; raise LocalProtocolError for any other."""
    if format == OPUS:
        return None
    try:
        return SAMPLE_RATES[format]
    except KeyError:
        raise LocalProtocolError(f"no audio format {format!r}: opus, {', '.join(SAMPLE_RATES)}") from None
