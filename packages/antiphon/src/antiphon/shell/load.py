"""`antiphon load`: makes real calls, and prints a report on them."""

import argparse
import sys
from collections.abc import Sequence

import trio

from antiphon.client.report import format_report
from antiphon.shell.load_run import LoadError, LoadSettings, run_load

DESCRIPTION = """Make real calls to an Antiphon server, with ICE, DTLS, SRTP and Opus speech, and print a report. If
the server returns packets unchanged (`--backend loopback --audio opus`), the report includes the delay of the whole
path."""


def main(arguments: Sequence[str]) -> None:
    """Make the calls and print the report.

    Raises:
        SystemExit: with 1 if a call failed or the server cannot be reached.
    """
    settings = _parse(arguments)
    try:
        report = trio.run(run_load, settings, _progress)
    except LoadError as error:
        raise SystemExit(f"antiphon load: {error}") from None
    print(format_report(report))
    if any(call.failure is not None for call in report.calls):
        raise SystemExit(1)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str]) -> LoadSettings:
    defaults = LoadSettings("http://127.0.0.1:8080")
    parser = argparse.ArgumentParser(
        prog="antiphon load", description=DESCRIPTION, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("url", nargs="?", default=defaults.url, help="URL of the signaling server")
    parser.add_argument("--calls", type=int, default=defaults.calls, help="number of calls at the same time")
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="seconds of speech after all calls are set up"
    )
    parser.add_argument("--rate", type=float, default=defaults.rate, help="calls set up per second")
    parser.add_argument("--key", help="API key, if the server requires one")
    parser.add_argument("--model", help="name of the backend, if the server has several")
    parser.add_argument("--no-verify", action="store_true", help="accept any certificate, such as a self-signed one")
    given = parser.parse_args(arguments)
    if given.calls < 1 or given.seconds <= 0 or given.rate <= 0:
        parser.error("--calls, --seconds and --rate must be above zero")
    return LoadSettings(
        given.url, given.calls, given.seconds, given.rate, given.key, given.model, verify_tls=not given.no_verify
    )
