"""Messages of 64 KiB between Chromium and a backend, over a path of ours with an MTU of 1200."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Playwright

from support.net.impairment import PERFECT, Impairment
from support.net.internet import Internet, internet

SIZE = 65_536
ROUNDS = 9
SECONDS = 2.0

SEND_AND_TIME = """
async (length) => {
  const { dataChannel } = window.antiphon;
  const began = performance.now();
  const answered = new Promise((resolve, reject) => {
    dataChannel.addEventListener("message", resolve, { once: true });
    setTimeout(() => reject(new Error("no answer")), 20000);
  });
  dataChannel.send(JSON.stringify({ type: "test", text: "x".repeat(length) }));
  const { data } = await answered;
  return [(performance.now() - began) / 1000, JSON.parse(data).to.text.length];
}
"""


@pytest.fixture(scope="module")
def impaired(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with internet(playwright, tmp_path_factory.mktemp("caller"), "support.processes.answering_backend") as impaired:
        yield impaired


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_messages_of_64_kib_pass_a_narrow_path_in_both_directions(impaired: Internet, loss: float) -> None:
    """Each round sends a message and waits for its answer, 128 KiB in all."""
    impaired.impair(PERFECT)
    tab = impaired.call()
    tab.page.wait_for_function("() => window.antiphon.dataChannel.readyState === 'open'")
    impaired.impair(Impairment(delay=0.01, loss=loss, mtu=1200))
    too_long = impaired.too_long
    rounds = [tab.page.evaluate(SEND_AND_TIME, SIZE) for _ in range(ROUNDS)]
    durations = sorted(seconds for seconds, _ in rounds)
    print(
        f"\n64 KiB and back at {loss:.0%} loss, MTU 1200, 20 ms: {', '.join(f'{s:.2f}' for s in durations)} s", end=""
    )
    assert [length for _, length in rounds] == [SIZE] * ROUNDS
    assert durations[ROUNDS // 2] < SECONDS
    assert impaired.too_long == too_long
    tab.hang_up()
    tab.page.close()
