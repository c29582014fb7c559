"""Messages of 64 KiB between Chromium and a backend, over a narrow path in user space that may lose datagrams.

tests/network has the same between namespaces, with IP fragments, where there is root.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, write_wav
from support.fakes.backend_calls import serving_in_thread
from support.net.impairment import Impairment
from support.net.rerouting import Rerouting, rerouting
from support.peers.browser import TalkPage, chromium
from support.processes.answering_backend import answer_events
from support.processes.ports import free_udp_port
from support.processes.services import all_in_one

SIZE = 65_536
ROUNDS = 9
SECONDS = 2.0
MTU = 1200
UDP_AND_IPV4 = 28

SEND_AND_TIME = """
async (length) => {
  const { dataChannel } = window.antiphon;
  const began = performance.now();
  const answered = new Promise((resolve) => dataChannel.addEventListener("message", resolve, { once: true }));
  dataChannel.send(JSON.stringify({ type: "test", text: "x".repeat(length) }));
  const { data } = await answered;
  return [(performance.now() - began) / 1000, JSON.parse(data).to.text.length];
}
"""


@pytest.fixture(params=[0.0, 0.05], ids=["clean", "5 % loss"])
def path(request: pytest.FixtureRequest) -> Iterator[Rerouting]:
    impairment = Impairment(delay=0.01, loss=request.param, mtu=MTU - UDP_AND_IPV4)
    with rerouting(("127.0.0.1", free_udp_port()), impairment) as path:
        yield path


@pytest.fixture
def tab(path: Rerouting, playwright: Playwright, tmp_path: Path) -> Iterator[TalkPage]:
    """Return the page in a call whose channel is open."""
    microphone = write_wav(tmp_path / "speech.wav", known_speech())
    settings = ("--media", f"127.0.0.1:{path.relay[1]}", "--advertise", f"127.0.0.1:{path.address[1]}")
    with (
        serving_in_thread(answer_events) as url,
        all_in_one(*settings, backend=f"test={url}") as deployment,
        chromium(playwright, microphone) as new_tab,
    ):
        tab = new_tab()
        tab.open(deployment.url)
        tab.talk()
        tab.page.wait_for_function("() => window.antiphon.dataChannel.readyState === 'open'")
        yield tab


def test_messages_of_64_kib_pass_in_both_directions(path: Rerouting, tab: TalkPage) -> None:
    """Each round sends a message and waits for its answer, 128 KiB in all. With losses, a round may wait for a datagram
    that was lost twice, but most rounds do not."""
    rounds = [tab.page.evaluate(SEND_AND_TIME, SIZE) for _ in range(ROUNDS)]
    durations = sorted(seconds for seconds, _ in rounds)
    loss = path.down.impairment.loss
    print(f"\nChromium: 64 KiB and back at {loss:.0%} loss: {', '.join(f'{s:.2f}' for s in durations)} s", end="")
    assert [length for _, length in rounds] == [SIZE] * ROUNDS
    assert durations[ROUNDS // 2 if loss else -1] < SECONDS
    assert path.down.too_long == 0
    assert bool(loss) == bool(path.down.lost)
