"""`python -m antiphon_transceiver`: one transceiver process."""

from functools import partial

from antiphon_common import logs
from antiphon_common.settings import SharedSettings, TransceiverSettings, parse
from antiphon_common.shell.secrets import follow_keys, load_keys
from antiphon_common.shell.supervise import Drain, run_service
from antiphon_transceiver.shell.service import TransceiverPorts, serve_transceiver

DESCRIPTION = "Owns voice calls: ICE, DTLS, SRTP, Opus, playout, and the link to the inference backend."


def main() -> None:
    settings, shared = parse("antiphon_transceiver", DESCRIPTION, (TransceiverSettings, SharedSettings))
    logs.configure(shared.log)
    keys = load_keys(shared, {"--link": settings.link, "--control": settings.control})
    drain = Drain(shared.drain)
    serve = partial(serve_transceiver, settings, shared, keys, drain=drain)
    run_service(serve, drain=drain, beside=partial(follow_keys, keys), ready=announce)


def announce(ports: TransceiverPorts) -> None:
    print(f"ready {ports.control_url}", flush=True)


if __name__ == "__main__":
    main()
