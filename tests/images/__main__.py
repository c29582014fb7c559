"""Builds every image of deploy/images on a base made here, asks their programs for help, and makes calls through them.

`python -m images FOLDER`, as root, with buildah and debootstrap. The base is Debian 12 with Python, from the mirror
that this machine's apt uses; pip asks the index that this machine's pip asks. Everything is in FOLDER, which is empty
at first and again at the end.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from images.containers import ISOLATION, USER, Buildah, Contained, Image

ROOT = Path(__file__).parents[2]
RELEASE = "bookworm"
BASE_PACKAGES = ("python3-venv", "ca-certificates")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_SETTINGS, PIP_SETTINGS_BELOW = Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf")
"""pip reads both; the first overrides the second."""
NAMES = ("relay", "transceiver", "signaling", "backend", "antiphon")
WORKERS = 2
CALLS, SECONDS = 6, 5
HEARD = 90
"""Per cent of the packets that have to come back, also past a worker that dies; loopback returns them all, but a busy
machine is late for a few."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print how long a step took."""
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def make_base(buildah: Buildah, folder: Path) -> None:
    """Make the image `base`: Debian with Python, and the certificates that this machine trusts."""
    root = folder / "base"
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", RELEASE, str(root), mirror()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"debootstrap failed:\n{done.stdout[-2000:]}")
    shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    container = buildah("from", "scratch")
    buildah("copy", container, root, "/")
    buildah("commit", container, "base")
    buildah("rm", container)
    shutil.rmtree(root)


def mirror() -> str:
    """Return where this machine's apt gets the release from."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Identifier: Packages", f"Codename: {RELEASE}"]
    sites = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if not sites:
        raise SystemExit(f"apt on this machine knows no mirror of {RELEASE}: run apt-get update, or use such a machine")
    return sites[0]


def build(buildah: Buildah, folder: Path, name: str) -> None:
    """Build one image from its Dockerfile."""
    settings = folder / "pip.conf"  # of the environment, above those of the machine
    if not settings.exists():
        given = {key.removeprefix("PIP_").lower().replace("_", "-"): value for key, value in os.environ.items()
                 if key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")}  # fmt: skip
        settings.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in given.items()))
    volumes = {settings: PIP_SETTINGS} | ({PIP_SETTINGS: PIP_SETTINGS_BELOW} if PIP_SETTINGS.exists() else {})
    buildah(
        "bud", ISOLATION, "--quiet", "--layers", "--pull-never", "--build-arg", "BASE=localhost/base",
        *(word for here, there in volumes.items() for word in ("--volume", f"{here}:{there}:ro")),
        "--file", ROOT / f"deploy/images/{name}.Dockerfile", "--tag", f"antiphon-{name}", ROOT,
    )  # fmt: skip


@contextmanager
def deployment(images: dict[str, Image], keys: Path, *relay: str) -> Iterator[tuple[str, Contained]]:
    """Start every service from its image, on loopback, the relay with more arguments. Yield the URL for offers, and
    that relay."""
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> Contained:
            *program, module = images[name].confined(keys)
            module = "antiphon_backend.loopback" if name == "backend" else module  # which can be heard at once
            service = stack.enter_context(Contained(module, *arguments, command=tuple(program)))
            service.wait_ready()
            return service

        secret, admin = "--secret-file=/keys/secret", "--admin=127.0.0.1:0"
        backend = f"--backend=echo={start('backend', '--listen=127.0.0.1:0').ready}"
        found = f"--transceiver={start('transceiver', secret, '--control=127.0.0.1:0', backend, admin).ready}"
        media = start("relay", secret, "--media=127.0.0.1:0", found, admin, *relay)
        told = f"--advertise={media.ready.split()[0].partition('=')[2]}"
        yield start("signaling", secret, "--http=127.0.0.1:0", told, found, admin).ready, media


def make_calls(image: Image, keys: Path, url: str, meanwhile: Callable[[], None] | None = None) -> None:
    """Make calls from an image, run `meanwhile` during them, and check that their audio came back."""
    command = [*image.confined(keys), "load", url, f"--calls={CALLS}", f"--seconds={SECONDS}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:
        assert load.stdout is not None
        lines = []
        for line in load.stdout:
            print(line, end="", flush=True)
            lines.append(line)
            if meanwhile is not None and "calls connected" in line:
                meanwhile()
    report = "".join(lines)
    heard = re.search(r"received \(([\d.]+)%\)", report)
    assert load.returncode == 0
    assert f"{CALLS} of {CALLS} good" in report
    assert heard is not None
    assert float(heard[1]) >= HEARD


def call_through(images: dict[str, Image], keys: Path) -> None:
    """Make calls through all images: by a relay in one process, and by one whose workers die beside the calls."""
    caller = images["antiphon"]
    with step("calls through the images"), deployment(images, keys) as (url, _):
        make_calls(caller, keys, url)
    with step("calls through workers"), deployment(images, keys, f"--workers={WORKERS}") as (url, relay):

        def lose_workers() -> None:
            for _ in range(WORKERS):
                relay.replace_eldest()

        make_calls(caller, keys, url, lose_workers)
        make_calls(caller, keys, url)


def main(folder: Path) -> None:
    buildah = Buildah(folder)
    try:
        with step("base"):
            make_base(buildah, folder)
        for name in NAMES:
            with step(f"image {name}"):
                build(buildah, folder, name)
        images = {name: Image(buildah, name) for name in NAMES}
        keys = folder / "keys"
        keys.mkdir()
        os.chown(keys, USER, USER)
        with step("help of each"):
            for image in images.values():
                help_text = subprocess.run(
                    [*image.command(keys), "--help"], capture_output=True, text=True, check=True
                ).stdout
                assert "usage:" in help_text, f"{image.name} gives no help"
        subprocess.run([*images["antiphon"].command(keys), "keygen", "/keys/secret"], check=True)
        call_through(images, keys)
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
