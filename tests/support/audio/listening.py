"""Analyses a recorded call: the delay of its audio, and the gaps in it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from support.audio.correlation import ANALYSIS_RATE, RATE, Samples, resample

WINDOW_SECONDS = 0.4
STEP_SECONDS = 0.1
LONGEST_DELAY = 1.2
"""Largest delay in seconds that the search considers."""

SURE = 0.5
"""Least correlation with which a window counts as found."""

FRAME_SECONDS = 0.01
LOUD, QUIET = 0.1, 0.01
"""Shares of the mean power: above the first speech was sent, below the second none was received."""

Curve = npt.NDArray[np.float64]


class RecordingAnalysis(NamedTuple):
    """The analysis of a recording. `delays` has the delay of each window that was found, and `times` its time.

    `gaps` are the times and lengths of intervals in which speech was sent and none received. All are in seconds.
    """

    times: Curve
    delays: Curve
    windows: int
    gaps: list[tuple[float, float]]

    @property
    def delay(self) -> float:
        """The median."""
        return float(np.median(self.delays)) if len(self.delays) else float("nan")

    @property
    def delay_p95(self) -> float:
        return float(np.percentile(self.delays, 95)) if len(self.delays) else float("nan")

    @property
    def found(self) -> float:
        """The share of windows in which the caller's speech was recognised."""
        return len(self.delays) / self.windows if self.windows else 0.0

    @property
    def longest_gap(self) -> float:
        return max((length for _, length in self.gaps), default=0.0)

    @property
    def missing(self) -> float:
        """Seconds of all gaps."""
        return sum(length for _, length in self.gaps)

    def __str__(self) -> str:
        return (
            f"delay {self.delay * 1000:.0f} ms, p95 {self.delay_p95 * 1000:.0f} ms; "
            f"{self.found:.0%} of {self.windows} windows recognised; "
            f"{len(self.gaps)} gaps, longest {self.longest_gap * 1000:.0f} ms, together {self.missing * 1000:.0f} ms"
        )


def listen(received: Samples, sent: Samples) -> RecordingAnalysis:
    """Compare the audio received with that sent meanwhile, sample for sample on one clock, at `RATE`."""
    received, sent = (resample(samples, RATE, ANALYSIS_RATE) for samples in (received, sent))
    times, delays, windows = _track(received, sent)
    analysis = RecordingAnalysis(np.array(times), np.array(delays), windows, [])
    return analysis._replace(gaps=_gaps(received, sent, analysis)) if delays else analysis


def _track(received: Samples, sent: Samples) -> tuple[list[float], list[float], int]:
    """Find each window of the received audio in the audio sent shortly before."""
    size, step = round(WINDOW_SECONDS * ANALYSIS_RATE), round(STEP_SECONDS * ANALYSIS_RATE)
    reach = round(LONGEST_DELAY * ANALYSIS_RATE)
    points = 1 << (size + reach - 1).bit_length()
    floor = LOUD * float(np.mean(sent**2)) * size
    times, delays, windows = [], [], 0
    for start in range(reach, len(received) - size, step):
        window, before = received[start : start + size], sent[start - reach : start + size]
        energy = np.concatenate([[0.0], np.cumsum(before.astype(np.float64) ** 2)])
        norms = np.sqrt(np.maximum(energy[size:] - energy[:-size], floor))
        if float(np.max(norms)) ** 2 <= floor:
            continue
        windows += 1
        spectrum = np.fft.rfft(before, points) * np.conj(np.fft.rfft(window, points))
        likeness = np.fft.irfft(spectrum, points)[: reach + 1] / (norms * (np.linalg.norm(window) + 1e-9))
        best = int(np.argmax(likeness))
        if likeness[best] >= SURE:
            times.append(start / ANALYSIS_RATE)
            delays.append((reach - best) / ANALYSIS_RATE)
    return times, delays, windows


def _gaps(received: Samples, sent: Samples, analysis: RecordingAnalysis) -> list[tuple[float, float]]:
    """Join frames in which speech was due and missing. Frames in which none was sent do not end a gap."""
    expected, present = _power(sent), _power(received)
    loud, quiet = LOUD * float(np.mean(expected)), QUIET * float(np.mean(expected))
    gaps: list[tuple[float, float]] = []
    first = last = -1
    for frame in range(round(LONGEST_DELAY / FRAME_SECONDS), len(present)):
        delay = float(np.interp(frame * FRAME_SECONDS, analysis.times, analysis.delays))
        source = frame - round(delay / FRAME_SECONDS)
        around = expected[max(0, source - 1) : source + 2]
        if present[frame] > quiet:
            if first >= 0:
                gaps.append((first * FRAME_SECONDS, (last - first + 1) * FRAME_SECONDS))
            first = -1
        elif len(around) and float(np.min(around)) > loud:
            first, last = (frame if first < 0 else first), frame
    return gaps


def _power(samples: Samples) -> Curve:
    size = round(FRAME_SECONDS * ANALYSIS_RATE)
    frames = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64)
    return np.asarray(np.mean(frames**2, axis=1))
