"""`python -m antiphon_relay`: a relay, in one process or with workers."""

from functools import partial

from antiphon_common import logs
from antiphon_common.settings import Address, RelaySettings, SharedSettings, parse
from antiphon_common.shell.secrets import follow_keys, load_keys
from antiphon_common.shell.supervise import Drain, run_service
from antiphon_relay.shell.service import RelayPorts, serve_relay

DESCRIPTION = "Forwards the datagrams of voice calls to their owners; decrypts nothing."


def main() -> None:
    settings, shared = parse("antiphon_relay", DESCRIPTION, (RelaySettings, SharedSettings))
    logs.configure(shared.log)
    keys = load_keys(shared, {"--relay-link": settings.relay_link})
    drain = Drain(shared.drain)
    serve = partial(serve_relay, settings, shared, keys, drain=drain)
    run_service(serve, drain=drain, beside=partial(follow_keys, keys), ready=announce)


def announce(ports: RelayPorts) -> None:
    media = " ".join(f"{ingress}={Address(host, port)}" for ingress, host, port in ports.media)
    print(f"ready {media}", flush=True)


if __name__ == "__main__":
    main()
