"""How speech arrives over networks that lose packets: our receiver beside aiortc's, on the same packets.

    python -m benchmarks.quality [--seeds N] [--first-seed S]

The same 12 s of speech are sent over `--seeds` networks of each kind, in packets of 20 ms. The way up the sender is a
browser, as Chromium is: Opus of 32 kbit/s, with in-band FEC for the loss that RTCP has told it of, and, where RED was
negotiated and preferred, as our talk page does, each packet once more in the one after it. Its libopus is that of PyAV,
as browsers have a recent one too. The way down the sender is ours, towards a caller who takes RED and says how much is
lost and whether in runs: less Opus in each packet, and one or two earlier ones repeated, from as far before as suits
that. The receiver of both is ours. aiortc's gets the browser's packets; it negotiates no RED, and gets them without.
Losses are independent, or in bursts of three on average (Gilbert-Elliott), and on each network within half a percent of
the mean; the network delays by 30 ms and up to 10 ms more, and keeps the order.

What a receiver never hands on is silence in its place, so that a jump is not judged as a shift. Delays are those of
received packets, from when the sender had them ready. STOI says how much of the speech can be understood (0 to 1),
which is what a machine needs; wideband PESQ, for people, how it sounds (ITU-T P.862.2, 1 to 4.6). Ends with 1 unless
at 15 %, for both kinds of losses, our mean STOI with RED is at least aiortc's at 3 % both ways, and so is the way down
our PESQ. The rest, and FEC alone, which is what callers get who do not ask for RED, is printed beside it.
"""

import argparse
import ctypes
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from statistics import mean
from typing import NamedTuple

import av
import numpy as np
from benchmarks.quality.score import Score, find_lag, score

from antiphon_transceiver.audio import libopus
from support.audio.listeners import Receiver, aiortc, antiphon
from support.audio.lossy_speech import Condition, carry, encode, encode_as_we_do, load_speech

AIORTC, FEC_ALONE, FEC_AND_RED, OWN_RED = "aiortc", "up, FEC", "up, FEC+RED", "down, RED"
WAYS = (AIORTC, FEC_ALONE, FEC_AND_RED, OWN_RED)
CHROMIUMS_RED = (1,)
LOSSES = (0.01, 0.03, 0.05, 0.15)
CONDITIONS = (Condition(0), *(Condition(loss, bursts) for bursts in (False, True) for loss in LOSSES))
HEADS = ("delay", "p95", "lost", "discarded", "FEC", "RED", "concealed", "STOI", "PESQ")


class Row(NamedTuple):
    """Means over all networks of a kind: delays in milliseconds, packets in percent of those sent, scores."""

    delay: float
    delay95: float
    lost: float
    discarded: float
    fec: float
    red: float
    concealed: float
    score: Score


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="networks of each kind; few scatter")
    parser.add_argument("--first-seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    print_versions()
    print(f"seeds {seeds.start} to {seeds.stop - 1}; delays in ms, packets in % of those sent\n")
    rows: dict[tuple[Condition, str], Row] = {}
    print(f"{'losses':<12} {'way':<14}" + "".join(f"{head:>10}" for head in HEADS))
    cases = list(product(CONDITIONS, WAYS))
    with ProcessPoolExecutor() as workers:
        for (condition, name), row in zip(cases, workers.map(partial(measure, seeds), cases), strict=True):
            rows[condition, name] = row
            figures = "".join(f"{figure:>10.1f}" for figure in row[:7])
            print(f"{condition!s:<12} {name:<14}{figures}{row.score.stoi:>10.3f}{row.score.pesq:>10.2f}", flush=True)
    return 0 if judge(rows) else 1


def travel(name: str, condition: Condition) -> tuple[list[bytes], Receiver]:
    """Return what is sent that way, told of these losses, and who listens."""
    if name == OWN_RED:
        packets, offsets = encode_as_we_do(load_speech(), condition)
        return packets, partial(antiphon, offsets=offsets)
    red = CHROMIUMS_RED if name == FEC_AND_RED else ()
    return encode(load_speech(), condition.loss), aiortc if name == AIORTC else partial(antiphon, offsets=red)


def measure(seeds: Iterable[int], case: tuple[Condition, str]) -> Row:
    """Have a receiver listen to the speech over all networks of a kind."""
    condition, name = case
    speech, (packets, listener), (whole, _) = load_speech(), travel(name, condition), travel(name, Condition(0))
    lag = find_lag(speech, listener(whole, carry(whole, Condition(0), 0)).sound)
    heard = [listener(packets, carry(packets, condition, seed)) for seed in seeds]
    scores = [score(speech, each.sound, lag) for each in heard]
    delays = [1000 * delay for each in heard for delay in each.delays]
    share = 100 / len(packets)
    return Row(
        mean(delays),
        float(np.percentile(delays, 95)),
        share * mean(each.lost for each in heard),
        share * mean(each.discarded for each in heard),
        share * mean(each.recovered_fec for each in heard),
        share * mean(each.recovered_red for each in heard),
        share * mean(each.concealed for each in heard),
        Score(mean(each.stoi for each in scores), mean(each.pesq for each in scores)),
    )


def judge(rows: dict[tuple[Condition, str], Row]) -> bool:
    """Say how we fare at the heaviest losses beside aiortc at a fifth of them, and whether that is what is due."""
    print()
    met = True
    for bursts, name in product((False, True), (FEC_ALONE, FEC_AND_RED, OWN_RED)):
        much, little = Condition(0.15, bursts), Condition(0.03, bursts)
        ours, theirs = rows[much, name].score, rows[little, AIORTC].score
        print(f"{much!s:<10} {name:<14} STOI {ours.stoi:.3f}, PESQ {ours.pesq:.2f}; ", end="")
        print(f"{little!s:<9} aiortc STOI {theirs.stoi:.3f}, PESQ {theirs.pesq:.2f}", end="; ")
        print(f"STOI {ours.stoi - theirs.stoi:+.3f}, PESQ {ours.pesq - theirs.pesq:+.2f}")
        met = met and (name == FEC_ALONE or ours.stoi >= theirs.stoi) and (name != OWN_RED or ours.pesq >= theirs.pesq)
    print(f"due are aiortc's STOI with RED both ways, and its PESQ the way down: {'met' if met else 'MISSED'}")
    return met


def print_versions() -> None:
    bundled = libopus.bundled()[0]
    version = ctypes.CDLL(bundled).opus_get_version_string
    version.restype = ctypes.c_char_p
    print(f"sender and aiortc: {version().decode()} of PyAV {av.__version__}; our receiver: {libopus.load().version}")


if __name__ == "__main__":
    raise SystemExit(main())
