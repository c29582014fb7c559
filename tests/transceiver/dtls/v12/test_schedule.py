import json
from pathlib import Path

import pytest

from antiphon_transceiver.dtls.v12.schedule import prf

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "tls12_prf.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["hash"])
def test_prf_gives_the_published_output(vector: dict[str, str]) -> None:
    expected = bytes.fromhex(vector["output"])
    secret, seed = bytes.fromhex(vector["secret"]), bytes.fromhex(vector["seed"])
    assert prf(vector["hash"], secret, vector["label"].encode(), seed, len(expected)) == expected
