"""Images, and services in containers of them that are as narrow as deploy/ has them: buildah builds, `unshare` runs."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from support.processes.services import STOP_SECONDS, Service

USER = 65532
ISOLATION = "--isolation=chroot"

CONFINE = f"""
set -eu
root=$1 keys=$2
shift 2
mount --bind "$root" "$root"
mkdir -p "$root/keys"
mount --bind -o ro "$keys" "$root/keys"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs --bounding-set=-all "$@"
"""
"""What stands for an orchestrator: in a mount and a PID namespace of its own, nothing but /dev/shm can be written, and
process 1 is the program, as a user without capabilities. The network is the machine's."""
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", CONFINE, "confine")

WORKER = b"antiphon_relay.shell.worker_process"


class Buildah:
    """buildah with its storage in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.command = ("buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run"))

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command of buildah and return its output."""
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
        self._root = buildah("mount", self._container)
        configuration = json.loads(buildah("inspect", self._container))["OCIv1"]["config"]
        assert configuration["User"] == f"{USER}:{USER}", f"{name} runs as {configuration['User']}"
        self.entry = tuple(configuration["Entrypoint"])

    def command(self, keys: Path) -> tuple[str, ...]:
        """Return the command line of its program, without arguments. `keys` is a folder it may write, at /keys."""
        volume = ("--volume", f"{keys}:/keys")
        return (*self._buildah.command, "run", ISOLATION, *volume, self._container, "--", *self.entry)

    def confined(self, keys: Path) -> tuple[str, ...]:
        """Return the same under an orchestrator, where it may read `keys` at /keys."""
        return (*UNSHARE, self._root, str(keys), *self.entry)


class Contained(Service):
    """A service in a confined container, which ends as an orchestrator ends it."""

    def stop(self, *, check: bool = True) -> None:
        for process in children(self.pid):
            os.kill(process, signal.SIGTERM)
        self._process.wait(STOP_SECONDS)
        super().stop(check=check)

    def workers(self) -> list[int]:
        """Return the relay's workers, the eldest first; the last is the spare."""
        [program] = children(self.pid)
        return [pid for pid in children(program) if WORKER in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def replace_eldest(self) -> None:
        """Kill the eldest worker, and wait until there are as many again."""
        workers = self.workers()
        ended = len(re.findall("a worker ended", self.log))
        os.kill(workers[0], signal.SIGKILL)
        self.wait_for_log(f"(?s)(a worker ended.*){{{ended + 1}}}")
        deadline = time.monotonic() + STOP_SECONDS
        while len(self.workers()) < len(workers):
            assert time.monotonic() < deadline, f"no new worker came:\n{self.log}"
            time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Return the child processes of one, the eldest first."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
