"""Builds every image of deploy/images on a base made here, asks their programs for help, and makes calls through them.

`python -m images FOLDER`, as root, with buildah and debootstrap. The base is Debian 12 with Python, from the mirror
that this machine's apt uses; pip asks the index that this machine's pip asks. Everything is in FOLDER, which is empty
at first and again at the end.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.processes import STOP_SECONDS, Service

ROOT = Path(__file__).parents[2]
RELEASE = "bookworm"
BASE_PACKAGES = ("python3-venv", "ca-certificates")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_SETTINGS, PIP_SETTINGS_BELOW = Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf")
"""pip reads both; the first overrides the second."""
NAMES = ("relay", "transceiver", "signaling", "backend", "antiphon")
USER = 65532
CALLS, SECONDS = 3, 3
ISOLATION = "--isolation=chroot"


class Buildah:
    """buildah with its storage in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.command = ("buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run"))

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command of buildah; return what it says."""
        command = [*self.command, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()


class Image:
    """A built image, and a container of it to run programs in."""

    def __init__(self, buildah: Buildah, name: str) -> None:
        self.name = name
        self._buildah = buildah
        self._container = buildah("from", "--pull-never", f"localhost/antiphon-{name}")
        configuration = json.loads(buildah("inspect", self._container))["OCIv1"]["config"]
        assert configuration["User"] == f"{USER}:{USER}", f"{name} runs as {configuration['User']}"
        self.entry = tuple(configuration["Entrypoint"])

    def command(self, keys: Path) -> tuple[str, ...]:
        """Return the command line of its program, without arguments. `keys` is a folder it finds at /keys."""
        volume = ("--volume", f"{keys}:/keys")
        return (*self._buildah.command, "run", ISOLATION, *volume, self._container, "--", *self.entry)


class Contained(Service):
    """A service in a container. A signal to buildah kills it; this ends it as an orchestrator does."""

    def stop(self, *, check: bool = True) -> None:
        os.kill(innermost(self.pid), signal.SIGTERM)
        self._process.wait(STOP_SECONDS)
        super().stop(check=check)


def innermost(pid: int) -> int:
    """Return the last of a chain of child processes."""
    children = [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return innermost(int(children[0])) if children else pid


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say how long something took."""
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


def make_calls(images: dict[str, Image], keys: Path) -> None:
    """Start every service from its image, on loopback, and make calls through them from the last image."""

    def command(name: str) -> tuple[str, ...]:
        return images[name].command(keys)

    secret = "--secret-file=/keys/secret"
    subprocess.run([*command("antiphon"), "keygen", "/keys/secret"], check=True)
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> str:
            *program, module = command(name)
            module = "antiphon_backend.loopback" if name == "backend" else module  # which can be heard at once
            return stack.enter_context(Contained(module, *arguments, command=tuple(program))).wait_ready().ready

        backend = start("backend", "--listen=127.0.0.1:0")
        admin, transceiver = "--admin=127.0.0.1:0", f"--backend=echo={backend}"
        control = start("transceiver", secret, "--control=127.0.0.1:0", transceiver, admin)
        media = start("relay", secret, "--media=127.0.0.1:0", f"--transceiver={control}", admin)
        told = media.split()[0].partition("=")[2]
        found = (f"--advertise={told}", f"--transceiver={control}")
        url = start("signaling", secret, "--http=127.0.0.1:0", *found, admin)
        load = [*command("antiphon"), "load", url, f"--calls={CALLS}", f"--seconds={SECONDS}"]
        report = subprocess.run(load, stdout=subprocess.PIPE, text=True, check=True).stdout
        print(report, end="")
        assert f"{CALLS} of {CALLS} good" in report


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
        with step("calls through the images"):
            make_calls(images, keys)
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
