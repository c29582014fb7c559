"""`python -m antiphon_signaling`: signaling as a service of its own."""

from functools import partial

from antiphon_common import logs
from antiphon_common.settings import FrontSettings, SharedSettings, parse
from antiphon_common.shell.secrets import follow_keys, load_keys
from antiphon_common.shell.supervise import Drain, run_service
from antiphon_signaling.shell.service import SignalingPorts, serve_alone

DESCRIPTION = "Takes callers' offers over HTTP and WebSocket, finds a transceiver for each, and serves the talk page."


def main() -> None:
    front, shared = parse("antiphon_signaling", DESCRIPTION, (FrontSettings, SharedSettings))
    logs.configure(shared.log)
    keys = load_keys(shared, {})
    drain = Drain(shared.drain)
    follow = partial(follow_keys, keys)
    run_service(serve_alone, front, shared, keys, drain, drain=drain, beside=follow, ready=announce)


def announce(ports: SignalingPorts) -> None:
    print(f"ready {ports.url}", flush=True)


if __name__ == "__main__":
    main()
