"""Fuzzes one target for a limited time: `python -m fuzz.one TARGET NEW_INPUTS CORPUS [libFuzzer options]`."""

import sys

import atheris  # type: ignore[import-untyped]

OURS = [
    "antiphon",
    "antiphon_backend",
    "antiphon_common",
    "antiphon_relay",
    "antiphon_signaling",
    "antiphon_transceiver",
]


def main() -> None:
    name, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=OURS):
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *arguments], lambda data: target(bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
