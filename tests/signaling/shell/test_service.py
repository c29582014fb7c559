import io
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import trio

from antiphon_common.settings import Address, FrontSettings, SettingsError
from antiphon_signaling import SignalingPorts
from antiphon_signaling.shell.service import advertised_addresses, announced_key
from antiphon_signaling.shell.tls import make_tls
from support.fakes.transceiver import FakeTransceiver

CALLS = "/v1/realtime/calls"
SDP = {"Content-Type": "application/sdp"}
StartSignaling = Callable[..., Awaitable[SignalingPorts]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_tenants_do_not_see_each_others_calls(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, tmp_path: Path, offer: bytes
) -> None:
    file = tmp_path / "keys"
    file.write_text("acme:one-of-16-characters\nother:two-of-16-characters\n")
    file.chmod(0o600)
    ports = await start_signaling(transceiver, api_key_file=str(file))
    mine, theirs = ({"Authorization": f"Bearer {key}"} for key in ("one-of-16-characters", "two-of-16-characters"))
    async with httpx.AsyncClient(base_url=ports.url, trust_env=False) as client:
        assert (await client.post(CALLS, content=offer, headers=SDP)).status_code == 401
        assert (await client.get("/")).status_code != 401
        location = (await client.post(CALLS, content=offer, headers=SDP | mine)).headers["location"]
        assert [call.tenant for call in transceiver.calls.values()] == ["acme"]
        for method, path in (("GET", "/stats"), ("POST", "/hangup"), ("DELETE", "")):
            assert (await client.request(method, location + path, headers=theirs)).status_code == 404
            assert (await client.request(method, location + path)).status_code == 401
        assert (await client.get(f"{location}/stats", headers=mine)).json()["state"] == "connected"
        assert (await client.delete(location, headers=mine)).status_code == 200


async def test_self_signed_tls_names_the_addresses_and_prints_its_fingerprint(
    start_signaling: StartSignaling, transceiver: FakeTransceiver, offer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = await start_signaling(transceiver, tls="self-signed")
    assert ports.url.startswith("https://127.0.0.1:")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    stream = await trio.open_ssl_over_tcp_stream(*ports.address, ssl_context=context)
    async with stream:
        await stream.do_handshake()
        certificate = stream.getpeercert(binary_form=True)
        assert stream.selected_alpn_protocol() == "http/1.1"
    trusted = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(certificate))
    async with httpx.AsyncClient(base_url=ports.url, verify=trusted, trust_env=False) as client:
        response = await client.post(CALLS, content=offer, headers=SDP)
        assert response.status_code == 201
        assert (await client.get(f"https://localhost:{ports.address.port}/")).status_code != 400
    printed = capsys.readouterr().err
    assert re.search(r"SHA-256 ([0-9A-F]{2}:){31}[0-9A-F]{2}$", printed, re.MULTILINE)
    assert "203.0.113.10" in printed


def test_invalid_certificate_files_are_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read --tls-cert"):
        make_tls(FrontSettings(tls_cert=str(tmp_path / "a"), tls_key=str(tmp_path / "b")), [])
    (tmp_path / "a").write_text("nonsense")
    with pytest.raises(SettingsError, match=r"--tls-key .*mode 0644"):
        make_tls(FrontSettings(tls_cert=str(tmp_path / "a"), tls_key=str(tmp_path / "a")), [])
    (tmp_path / "a").chmod(0o600)
    with pytest.raises(SettingsError, match="do not fit"):
        make_tls(FrontSettings(tls_cert=str(tmp_path / "a"), tls_key=str(tmp_path / "a")), [])


def test_a_generated_key_is_shown_on_terminals_only() -> None:
    terminal = Terminal()
    with announced_key("http://192.0.2.7:8080/", "made", terminal):
        assert terminal.getvalue() == "open http://192.0.2.7:8080/#key=made\n"
    log = io.StringIO()
    with announced_key("http://192.0.2.7:8080/", "made", log):
        file = Path(log.getvalue().split()[-1])
        assert "made" not in log.getvalue()
        assert (file.read_text(), file.stat().st_mode & 0o777) == ("made\n", 0o600)
    assert not file.exists()


@pytest.mark.parametrize(
    ("advertise", "ingresses", "expected"),
    [
        ((), [("192.0.2.7", 3478), ("192.0.2.7", 3478)], ["192.0.2.7:3478"]),
        ((Address("203.0.113.1", 0),), [("192.0.2.7", 5000)], ["203.0.113.1:5000"]),
        ((Address("203.0.113.1", 0), Address("2001:db8::1", 7)), [], ["203.0.113.1:3478", "[2001:db8::1]:7"]),
    ],
)
def test_advertised_addresses_follow_settings_and_ingresses(
    advertise: tuple[Address, ...], ingresses: list[tuple[str, int]], expected: list[str]
) -> None:
    assert [str(address) for address in advertised_addresses(FrontSettings(advertise=advertise), ingresses)] == expected


def test_without_settings_loopback_is_advertised_last() -> None:
    assert str(advertised_addresses(FrontSettings(), [])[-1]) == "127.0.0.1:3478"


def test_the_program_prints_ready_and_exits_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "antiphon_signaling", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        assert re.fullmatch(r"ready http://127\.0\.0\.1:\d+/\n", line)
        assert process.wait(10) == 0
