"""Finds libopus: the system's by its soname, otherwise the one in the wheel of PyAV."""

import functools
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import cffi

from antiphon_common.errors import AntiphonError

SONAME = "libopus.so.0"

# Audio and packets are declared as `char`, so that cffi takes and returns bytes without a conversion on each call.
_DECLARATIONS = """
typedef struct OpusEncoder OpusEncoder;
typedef struct OpusDecoder OpusDecoder;
const char *opus_get_version_string(void);
const char *opus_strerror(int error);
OpusEncoder *opus_encoder_create(int32_t rate, int channels, int application, int *error);
void opus_encoder_destroy(OpusEncoder *state);
int32_t opus_encode(OpusEncoder *state, const char *pcm, int samples, char *packet, int32_t capacity);
int opus_encoder_ctl(OpusEncoder *state, int request, ...);
OpusDecoder *opus_decoder_create(int32_t rate, int channels, int *error);
void opus_decoder_destroy(OpusDecoder *state);
int opus_decode(OpusDecoder *state, const char *packet, int32_t size, char *pcm, int samples, int fec);
"""


class OpusUnavailableError(AntiphonError):
    """No libopus was found on this machine. The message names what to install."""


class Library(NamedTuple):
    """The loaded libopus: cffi's handles, and the library's version. `load` returns it."""

    ffi: cffi.FFI
    functions: Any
    version: str


@functools.cache
def load() -> Library:
    """Load libopus, once in a process. Raises OpusUnavailableError when there is none."""
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    for name in (SONAME, *bundled()):
        try:
            functions: Any = ffi.dlopen(name)
        except OSError:
            continue
        version = ffi.string(functions.opus_get_version_string())
        return Library(ffi, functions, version.decode() if isinstance(version, bytes) else version)
    raise OpusUnavailableError(f"{SONAME} is missing: install the Debian package libopus0 (or the Python package av)")


def bundled() -> list[str]:
    """Return the paths of the libopus that PyAV includes. Its file name contains a hash."""
    spec = importlib.util.find_spec("av")
    if spec is None or spec.origin is None:
        return []
    beside = Path(spec.origin).parent.parent / "av.libs"
    return sorted(str(path) for path in beside.glob("libopus*.so*"))
