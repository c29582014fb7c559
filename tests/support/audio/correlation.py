"""How well, and how late, a recording repeats a looped known sound."""

import wave
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

RATE = 48_000
"""Hz of everything that is recorded; Opus in WebRTC runs at it."""

ANALYSIS_RATE = 24_000
"""Hz at which recordings are compared: the speech is below 8 kHz, and the rest of the cost is spared."""

SILENCE = 0.01
"""Root mean square below which a window of one second says nothing of how it was carried."""

ALIKE = 0.5
"""Peak above which a window is the known sound, and tells of the delay."""


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
    """Return the speech that test clients say, from -1 to 1."""
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
    """Change the rate by cutting or padding the spectrum; the sound counts as looped."""
    if given == wanted or not len(samples):
        return samples
    count = round(len(samples) * wanted / given)
    spectrum = np.fft.rfft(samples)
    fitted = np.zeros(count // 2 + 1, spectrum.dtype)
    shared = min(len(spectrum), len(fitted))
    fitted[:shared] = spectrum[:shared]
    return (np.fft.irfft(fitted, count) * count / len(samples)).astype(np.float32)


def compare(recording: Samples, known: Samples) -> list[Window]:
    """Find each whole second of a recording in the known sound, which is looped. Both are at `RATE`; silence is left
    out."""
    size = ANALYSIS_RATE
    whole = recording[: len(recording) // RATE * RATE]
    heard, loop = resample(whole, RATE, size), resample(known, RATE, size)
    unrolled = np.concatenate([loop, loop[: size - 1]])
    energy = np.concatenate([[0.0], np.cumsum(unrolled**2, dtype=np.float64)])
    silent = SILENCE * size**0.5
    norms = np.sqrt(np.maximum(energy[size:] - energy[:-size], silent**2))
    points = 1 << (len(unrolled) - 1).bit_length()
    spectrum = np.fft.rfft(unrolled, points)
    windows = []
    for start in range(0, len(heard), size):
        window = heard[start : start + size]
        norm = float(np.linalg.norm(window))
        if norm < silent:
            continue
        products = np.fft.irfft(spectrum * np.conj(np.fft.rfft(window, points)), points)[: len(loop)]
        likeness = products / (norms * norm)
        best = int(np.argmax(likeness))
        windows.append(Window(start / size, float(likeness[best]), best / size))
    return windows


def judge(heard: Samples, said: Samples, known: Samples) -> Likeness:
    """Compare what came back with the known sound. `said` was recorded beside it on the same clock: the delay is how
    far the two are apart."""
    period = len(known) / RATE
    mouth = [window for window in compare(said, known) if window.peak > ALIKE]
    windows = compare(heard, known)
    assert windows, "only silence came back"
    peaks = [window.peak for window in windows]
    delays = []
    for window in windows:
        if window.peak > ALIKE:
            beside = min(mouth, key=lambda other: abs(other.start - window.start))
            delays.append((window.start - window.position - (beside.start - beside.position)) % period)
    delay = float(np.median(delays)) if delays else float("nan")
    return Likeness(len(windows), float(np.median(peaks)), min(peaks), max(peaks), delay)
