"""Measures how well, and with which delay, a recording repeats a looped known sound."""

import wave
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

RATE = 48_000
"""Sampling rate of all recordings in Hz, that of Opus in WebRTC."""

ANALYSIS_RATE = 24_000
"""Sampling rate in Hz at which recordings are compared. The speech is below 8 kHz, so this loses nothing."""

SILENCE = 0.01
"""Root mean square below which a window of one second is too quiet to be compared."""

ALIKE = 0.5
"""Peak above which a window is the known sound, so that its delay is valid."""


class Window(NamedTuple):
    """One second of a recording: its peak of the normalised cross-correlation, and where in the known sound that is."""

    start: float
    peak: float
    position: float


class Likeness(NamedTuple):
    """A whole recording: how many windows were loud enough, their peaks, and the median delay in seconds."""

    windows: int
    median: float
    worst: float
    best: float
    delay: float

    def __str__(self) -> str:
        return (
            f"correlation {self.median:.3f} (worst {self.worst:.3f}) over {self.windows} windows, "
            f"delay {self.delay * 1000:.0f} ms"
        )


def known_speech(rate: int = RATE) -> Samples:
    """Return the speech that test clients send, from -1 to 1."""
    with files("antiphon.client").joinpath("speech.wav").open("rb") as file, wave.open(file) as recording:
        pcm = np.frombuffer(recording.readframes(recording.getnframes()), "<i2")
        return resample((pcm / 32768).astype(np.float32), recording.getframerate(), rate)


def write_wav(path: Path, samples: Samples, rate: int = RATE) -> Path:
    """Write mono 16-bit PCM, as a browser's fake microphone reads it."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def resample(samples: Samples, given: int, wanted: int) -> Samples:
    """Change the sampling rate by cutting or padding the spectrum. The sound is taken as looped."""
    if given == wanted or not len(samples):
        return samples
    count = round(len(samples) * wanted / given)
    spectrum = np.fft.rfft(samples)
    fitted = np.zeros(count // 2 + 1, spectrum.dtype)
    shared = min(len(spectrum), len(fitted))
    fitted[:shared] = spectrum[:shared]
    return (np.fft.irfft(fitted, count) * count / len(samples)).astype(np.float32)


def compare(recording: Samples, known: Samples) -> list[Window]:
    """Find each whole second of a recording in the looped known sound. Both are at `RATE`; silence is skipped."""
    size = ANALYSIS_RATE
    whole = recording[: len(recording) // RATE * RATE]
    received, loop = resample(whole, RATE, size), resample(known, RATE, size)
    unrolled = np.concatenate([loop, loop[: size - 1]])
    energy = np.concatenate([[0.0], np.cumsum(unrolled**2, dtype=np.float64)])
    silent = SILENCE * size**0.5
    norms = np.sqrt(np.maximum(energy[size:] - energy[:-size], silent**2))
    points = 1 << (len(unrolled) - 1).bit_length()
    spectrum = np.fft.rfft(unrolled, points)
    windows = []
    for start in range(0, len(received), size):
        window = received[start : start + size]
        norm = float(np.linalg.norm(window))
        if norm < silent:
            continue
        products = np.fft.irfft(spectrum * np.conj(np.fft.rfft(window, points)), points)[: len(loop)]
        likeness = products / (norms * norm)
        best = int(np.argmax(likeness))
        windows.append(Window(start / size, float(likeness[best]), best / size))
    return windows


def measure(received: Samples, sent: Samples, known: Samples) -> Likeness:
    """Compare the audio received with the known sound. `sent` was recorded on the same clock and gives the delay."""
    period = len(known) / RATE
    sent_windows = [window for window in compare(sent, known) if window.peak > ALIKE]
    windows = compare(received, known)
    assert windows, "only silence came back"
    peaks = [window.peak for window in windows]
    delays = []
    for window in windows:
        if window.peak > ALIKE:
            beside = min(sent_windows, key=lambda other: abs(other.start - window.start))
            delays.append((window.start - window.position - (beside.start - beside.position)) % period)
    delay = float(np.median(delays)) if delays else float("nan")
    return Likeness(len(windows), float(np.median(peaks)), min(peaks), max(peaks), delay)
