"""SDP offers for tests: recorded ones, edited ones, and small ones made of lines."""

from pathlib import Path

from antiphon_common.control import CallAccepted, Fingerprint, IceParameters
from antiphon_common.rtp_extensions import MID

OFFERS = Path(__file__).parents[2] / "signaling" / "offers"
DIGEST = ":".join(["AB"] * 32)
ACCEPTED = CallAccepted(
    ice=IceParameters("Aabcdefghijklmnopqrstuv", "p" * 24),
    setup="active",
    fingerprint=Fingerprint("sha-256", ":".join(["CD"] * 32)),
    ssrc=0x12345678,
    cname="call",
)
ADDRESSES = [("203.0.113.10", 3478), ("2001:db8::10", 3478)]


def recorded(name: str) -> bytes:
    return (OFFERS / f"{name}.sdp").read_bytes()


def edited(old: str, new: str = "", name: str = "chromium-156") -> bytes:
    """Return a recorded offer with `old` replaced in every line. Lines that become empty are removed."""
    lines = (line.replace(old, new) for line in recorded(name).decode().splitlines())
    return "".join(f"{line}\r\n" for line in lines if line).encode()


def without(prefix: str, name: str = "chromium-156") -> bytes:
    lines = recorded(name).decode().splitlines()
    return "".join(f"{line}\r\n" for line in lines if not line.startswith(prefix)).encode()


def audio_only(*attributes: str, session: str = "", codec: str = "96 opus/48000/2") -> bytes:
    """Return a small complete offer of one audio section with additional attributes."""
    lines = [
        *("v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", *session.splitlines()),
        *(f"m=audio 9 UDP/TLS/RTP/SAVPF {codec.split()[0]}", f"a=rtpmap:{codec}", "a=rtcp-mux", "a=setup:actpass"),
        *("a=ice-ufrag:abcd", f"a=ice-pwd:{'x' * 22}", *attributes),
    ]
    if not any("fingerprint" in line for line in lines):
        lines.append(f"a=fingerprint:sha-256 {DIGEST}")
    return "".join(f"{line}\r\n" for line in lines).encode()


def sections(*given: tuple[str, str], codec: str = "111 opus/48000/2", group: bool = True, ports: str = "") -> bytes:
    """Return an offer of audio sections, each with a mid and a direction. A 0 in `ports` rejects a section."""
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=fingerprint:sha-256 {DIGEST}", "a=setup:actpass"]
    lines += ["a=ice-ufrag:abcd", f"a=ice-pwd:{'x' * 22}"]
    lines += ["a=group:BUNDLE " + " ".join(mid for mid, _ in given)] if group else []
    for (mid, direction), port in zip(given, ports.ljust(len(given), "9"), strict=True):
        lines += [f"m=audio {port} UDP/TLS/RTP/SAVPF {codec.split()[0]}", f"a=mid:{mid}", f"a=rtpmap:{codec}"]
        lines += [f"a={direction}", "a=rtcp-mux", f"a=extmap:4 {MID}", f"a=rtcp-fb:{codec.split()[0]} nack"]
    return "".join(f"{line}\r\n" for line in lines).encode()
