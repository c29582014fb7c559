"""Checks, measures and runs this repository: `nox -l` lists the sessions, plain `nox` runs those of CI.

Sessions that measure time (abuse, load, network, bench, quality) need a machine of their own and are started by name.

Arguments after `--` are passed to the program of the session: `nox -s relay -- -k flood -x`.
"""

import ctypes
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent
PACKAGES = ("common", "relay", "transceiver", "signaling", "backend", "antiphon")
CONSTRAINTS = ("-c", "constraints.txt")
TEST_TOOLS = ("pytest", "pytest-timeout", "pytest-trio")
SYSTEM = ROOT / ".nox" / "system"
SYSTEM_TOOLS = (
    *(*TEST_TOOLS, "aiortc", "playwright", "numpy", "mypy", "nox", "types-cffi", "atheris", "coverage"),
    *("kubernetes-validate", "pyyaml", "types-pyyaml"),
)
"""Peers of the tests, and tools that check and measure the whole repository."""

QUALITY_TOOLS = ("aiortc", "numpy", "pesq", "pystoi")
"""A peer for comparison, and measures of speech quality. Installing PESQ compiles it."""

RELEASED = ("relay", "transceiver", "signaling", "backend")
"""Services whose last release `compat` runs: the last commit that changed the version of the package."""

PEERS_LIMIT, MEASURING_LIMIT = "--timeout=300", "--timeout=1800"
"""Time limits of one test: of those that start other implementations, and of those that measure for minutes."""

PROGRAMS = (
    "antiphon",
    "antiphon_relay",
    "antiphon_transceiver",
    "antiphon_signaling",
    "antiphon_backend.echo",
    "antiphon_backend.loopback",
)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and imports: cores without IO, services apart."""
    session.install(*CONSTRAINTS, "ruff", "import-linter")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = ":".join(str(ROOT / "packages" / name / "src") for name in PACKAGES)
    session.run("lint-imports", env={"PYTHONPATH": sources})


@nox.session
def common(session: nox.Session) -> None:
    """Test the parts that all services share: codecs, route token, link, frames, keys, settings, registry."""
    need(session, "redis-server")
    test_package(session)


@nox.session
def relay(session: nox.Session) -> None:
    """Test the relay with nothing else installed."""
    need(session, "redis-server")
    test_package(session)


@nox.session
def transceiver(session: nox.Session) -> None:
    """Test the transceiver: ICE, DTLS, SRTP, RTP, audio, backends."""
    need(session, "libopus0")
    test_package(session, "trio-websocket")


@nox.session
def signaling(session: nox.Session) -> None:
    """Test offers and answers, credentials and the HTTP and WebSocket interfaces."""
    test_package(session)


@nox.session
def backend(session: nox.Session) -> None:
    """Test the backend SDK and the shipped backends."""
    test_package(session, "trio-websocket")


@nox.session
def antiphon(session: nox.Session) -> None:
    """Test all in one, the services as processes, the command line and the test client."""
    need(session, "redis-server")
    test_package(session)


@nox.session(reuse_venv=True, default=False)
def system(session: nox.Session) -> None:
    """Install every package into the environment that the sessions below share; they require it."""
    install(session, PACKAGES, SYSTEM_TOOLS)


@nox.session(venv_backend="none", requires=["system"])
def types(session: nox.Session) -> None:
    """Check types: mypy --strict over sources, tests, benchmarks, examples and this file."""
    session.run(str(SYSTEM / "bin" / "mypy"), *session.posargs, external=True)


@nox.session(venv_backend="none", requires=["system"])
def simulation(session: nox.Session) -> None:
    """Run whole calls in memory, under virtual time, over a seeded bad network."""
    need(session, "libopus0")
    run_tests(session, "simulation")


@nox.session(venv_backend="none", requires=["system"])
def simulate(session: nox.Session) -> None:
    """Simulate calls from a seed, `-- --calls N --seed S`, with faults and attackers, and check their invariants."""
    need(session, "libopus0")
    python, path = str(SYSTEM / "bin" / "python"), str(ROOT / "tests")
    session.run(python, "-m", "support.sim.simulate", *session.posargs, env={"PYTHONPATH": path}, external=True)


@nox.session(venv_backend="none", requires=["system"])
def fuzz(session: nox.Session) -> None:
    """Fuzz every decoder and every core, guided by coverage: `-- --seconds N`; prints inputs and lines covered."""
    need(session, "libopus0")
    session.run(str(SYSTEM / "bin" / "pytest"), "tests/fuzz", external=True)
    python, path = str(SYSTEM / "bin" / "python"), str(ROOT / "tests")
    session.run(python, "-m", "fuzz", *session.posargs, env={"PYTHONPATH": path}, external=True)


@nox.session(venv_backend="none", requires=["system"], default=False)
def mutants(session: nox.Session) -> None:
    """Plant each bug of tests/mutants and fail if its tests pass: `-- NAME …`, `--area`, `--sample`, `--check`."""
    plant(session, *session.posargs)


@nox.session(venv_backend="none", requires=["system"])
def mutants_sample(session: nox.Session) -> None:
    """Plant ten of those bugs, drawn by a seed that it prints, and check that all fit their sources."""
    session.run(str(SYSTEM / "bin" / "pytest"), "tests/mutants", external=True)
    plant(session, "--check")
    plant(session, "--sample", "10", *session.posargs)


@nox.session(venv_backend="none", requires=["system"])
def cost(session: nox.Session) -> None:
    """Search every decoder and core for expensive inputs, `-- --seconds N`; prints the worst and its cost."""
    need(session, "libopus0")
    session.run(str(SYSTEM / "bin" / "pytest"), "tests/cost", external=True)
    python, path = str(SYSTEM / "bin" / "python"), str(ROOT / "tests")
    session.run(python, "-m", "cost", *session.posargs, env={"PYTHONPATH": path}, external=True)


@nox.session(venv_backend="none", requires=["system"])
def deploy(session: nox.Session) -> None:
    """Check the manifests of deploy/ (valid, unprivileged, existing flags and metrics) and the files named in docs."""
    need(session, "libopus0")
    run_tests(session, "deploy")


@nox.session(venv_backend="none", requires=["system"])
def images(session: nox.Session) -> None:
    """Build every image with buildah on a Debian made by debootstrap, and make calls through them. Needs root."""
    need(session, "buildah", "debootstrap")
    if os.geteuid():
        session.error("images makes a Debian in a folder: run it as root")
    python, folder = str(SYSTEM / "bin" / "python"), Path(session.create_tmp()) / "images"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    session.run(python, "-m", "images", str(folder), env={"PYTHONPATH": str(ROOT / "tests")}, external=True)


@nox.session(venv_backend="none", requires=["system"])
def interop(session: nox.Session) -> None:
    """Test against other implementations: OpenSSL, aiortc, aioice, pylibsrtp, Chromium, Pion, GStreamer, Node."""
    need(session, "chromium", "libopus0", "nodejs", "npm", "openssl", *PION, *GSTREAMER)
    run_tests(session, "interop", PEERS_LIMIT)


@nox.session(venv_backend="none", requires=["system"])
def e2e(session: nox.Session) -> None:
    """Make calls from Chromium and aiortc and compare the audio that comes back; prints delay and correlation."""
    need(session, "chromium", "libopus0")
    run_tests(session, "e2e", "-s", PEERS_LIMIT)


@nox.session(venv_backend="none", requires=["system"])
def compat(session: nox.Session) -> None:
    """Make calls through the services released last beside those of this tree, in each pairing; needs git history."""
    need(session, "libopus0")
    folder = Path(session.create_tmp()) / "released"
    install_releases(session, folder)
    run_tests(session, "compat", env={"ANTIPHON_RELEASED": str(folder)})


@nox.session(venv_backend="none", requires=["system"], default=False)
def network(session: nox.Session) -> None:
    """Call from Chromium over bad networks between namespaces, `-- --minutes N`; prints gaps and delays; needs root."""
    need(session, "chromium", "iproute2", "libopus0")
    need_namespaces(session)
    run_tests(session, "network", "-s", MEASURING_LIMIT)


@nox.session(venv_backend="none", requires=["system"])
def fleet(session: nox.Session) -> None:
    """Kill the members of a cluster one by one during twenty calls; prints gaps. Needs root."""
    need(session, "chromium", "iproute2", "keepalived", "libopus0", "nftables", "redis-server")
    need_namespaces(session)
    run_tests(session, "fleet", "-s", MEASURING_LIMIT)


@nox.session(venv_backend="none", requires=["system"], default=False)
def abuse(session: nox.Session) -> None:
    """Flood all services during ten live calls, from outside and from one of the callers; needs CAP_NET_RAW."""
    need(session, "gcc", "libc6-dev", "libopus0")
    run_tests(session, "abuse", "-s", MEASURING_LIMIT)


@nox.session(venv_backend="none", requires=["system"], default=False)
def load(session: nox.Session) -> None:
    """Make 100 calls at once, then more until a process is busy; prints their number."""
    need(session, "libopus0")
    run_tests(session, "load", "-s", MEASURING_LIMIT)


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel of each package, install them into empty environments and run their programs."""
    session.install(*CONSTRAINTS, "build", "hatchling", "virtualenv")
    made = Path(session.create_tmp()) / "dist"
    shutil.rmtree(made, ignore_errors=True)
    for name in PACKAGES:
        session.run("pyproject-build", "--no-isolation", "--outdir", str(made), f"packages/{name}", silent=True)
    for pattern in ("*.whl", "*.tar.gz"):
        try_archives(session, sorted(made.glob(pattern)))


@nox.session(venv_backend="none", requires=["system"], default=False)
def bench(session: nox.Session) -> None:
    """Print the cost of a packet and of a call, beside those of a C forwarder and aiortc."""
    need(session, "gcc", "libc6-dev", "libopus0")
    names = session.posargs[:1] or sorted(
        {file.parent.name for file in ROOT.glob("benchmarks/*/__main__.py")} - {"quality"}
    )
    for name in names:
        arguments = ("-m", f"benchmarks.{name}", *session.posargs[1:])
        session.run(str(SYSTEM / "bin" / "python"), *arguments, external=True, env={"PYTHONPATH": str(ROOT / "tests")})


@nox.session(default=False)
def quality(session: nox.Session) -> None:
    """Print the quality of speech under packet loss, beside that of aiortc's receiver on the same packets."""
    need(session, "gcc", "libc6-dev", "libopus0")
    install(session, with_siblings("transceiver"), QUALITY_TOOLS)
    session.run("python", "-m", "benchmarks.quality", *session.posargs, env={"PYTHONPATH": str(ROOT / "tests")})


@nox.session(venv_backend="none", requires=["system"], default=False)
def serve(session: nox.Session) -> None:
    """Run every service in one process, as `python -m antiphon` does."""
    need(session, "libopus0")
    session.run(str(SYSTEM / "bin" / "python"), "-m", "antiphon", *session.posargs, external=True)


def test_package(session: nox.Session, *peers: str) -> None:
    """Install the package of the session's name with its dependencies, and run its tests. `peers` are libraries with
    which the tests connect to it."""
    install(session, with_siblings(session.name), (*TEST_TOOLS, *peers))
    session.run("pytest", f"tests/{session.name}", *session.posargs)


def run_tests(session: nox.Session, folder: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    session.run(str(SYSTEM / "bin" / "pytest"), f"tests/{folder}", *arguments, *session.posargs, external=True, env=env)


def plant(session: nox.Session, *arguments: str) -> None:
    need(session, "libopus0", "redis-server")
    python, path = str(SYSTEM / "bin" / "python"), str(ROOT / "tests")
    session.run(python, "-m", "mutants", *arguments, env={"PYTHONPATH": path}, external=True)


def install_releases(session: nox.Session, folder: Path) -> None:
    """Make a folder with an environment for each released service. Those of one commit share an environment."""
    shallow = ("git", "rev-parse", "--is-shallow-repository")
    if str(session.run(*shallow, external=True, silent=True, log=False)).strip() == "true":
        session.error("compat takes released services out of git history: git fetch --unshallow")
    shutil.rmtree(folder, ignore_errors=True)
    for name in RELEASED:
        changes = ("git", "log", "--format=%h", '-G^version = "', "--", f"packages/{name}/pyproject.toml")
        commit = str(session.run(*changes, external=True, silent=True, log=False)).split()[0]
        if not (folder / commit).exists():
            install_commit(session, commit, folder / commit)
        session.log(f"{name} as of {commit}")
        (folder / name).symlink_to(commit)


def install_commit(session: nox.Session, commit: str, environment: Path) -> None:
    """Install the services as of a commit, with the versions of other packages that it names, into an environment."""
    sources = environment / "sources"
    session.run(str(SYSTEM / "bin" / "python"), "-m", "venv", str(environment), external=True, silent=True)
    sources.mkdir()
    archive = sources / "packages.tar"
    git = ("git", "archive", f"--output={archive}", commit, "packages", "constraints.txt")
    session.run(*git, external=True, log=False)
    shutil.unpack_archive(archive, sources)
    python = str(environment / "bin" / "python")
    pip = ("-m", "pip", "install", "-q", "-c", str(sources / "constraints.txt"))
    session.run(python, *pip, "hatchling", external=True)
    packages = [str(sources / "packages" / name) for name in ("common", *RELEASED)]
    session.run(python, *pip, "--no-build-isolation", *packages, external=True)


def install(session: nox.Session, packages: Iterable[str], tools: Iterable[str]) -> None:
    """Install packages from their folders. They share one hatchling, since fetching it for each takes long."""
    session.install(*CONSTRAINTS, "hatchling", *tools)
    session.install(*CONSTRAINTS, "--no-build-isolation", *(f"./packages/{name}" for name in packages))


def with_siblings(name: str) -> list[str]:
    """Return the package and all packages of this repository on which it depends, directly or not."""
    declared = nox.project.load_toml(ROOT / "packages" / name / "pyproject.toml")["project"]["dependencies"]
    siblings = {other for other in PACKAGES for line in declared if line.startswith(f"antiphon-{other}")}
    return [name, *sorted({below for other in siblings for below in with_siblings(other)})]


def try_archives(session: nox.Session, archives: list[Path]) -> None:
    """Install archives into a new environment, and run every program in them with --help."""
    empty = archives[0].parent / f"environment-{archives[0].suffix[1:]}"
    session.run("virtualenv", str(empty), silent=True)
    python = str(empty / "bin" / "python")
    session.run(python, "-m", "pip", "install", "-q", *CONSTRAINTS, *map(str, archives), external=True)
    for program in PROGRAMS:
        session.run(python, "-I", "-m", program, "--help", external=True, silent=True)


def need(session: nox.Session, *debian_packages: str) -> None:
    """Fail with one line that names the missing packages, before a test fails for lack of them."""
    missing = [package for package in debian_packages if not DETECT[package]()]
    if missing:
        session.error(f"{session.name} needs Debian packages that are missing: apt-get install {' '.join(missing)}")


def need_namespaces(session: nox.Session) -> None:
    if os.geteuid() or not Path("/dev/net/tun").exists():
        session.error(f"{session.name} makes network namespaces: run it as root, where /dev/net/tun is")


def has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


PION = ("golang-go", "golang-github-pion-webrtc.v3-dev")
GSTREAMER = (
    "gir1.2-gst-plugins-bad-1.0",
    "gstreamer1.0-nice",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-tools",
    "python3-gst-1.0",
)
GST_PLUGINS, TYPELIBS = "/usr/lib/*/gstreamer-1.0", "/usr/lib/*/girepository-1.0"


def has_file(pattern: str) -> bool:
    return any(Path("/").glob(pattern.removeprefix("/")))


DETECT: dict[str, Callable[[], object]] = {
    "buildah": lambda: shutil.which("buildah"),
    "chromium": lambda: shutil.which("chromium"),
    "debootstrap": lambda: shutil.which("debootstrap"),
    "gir1.2-gst-plugins-bad-1.0": lambda: has_file(f"{TYPELIBS}/GstWebRTC-1.0.typelib"),
    "golang-github-pion-webrtc.v3-dev": lambda: has_file("/usr/share/gocode/src/github.com/pion/webrtc"),
    "golang-go": lambda: shutil.which("go"),
    "gstreamer1.0-nice": lambda: has_file(f"{GST_PLUGINS}/libgstnice.so"),
    "gstreamer1.0-plugins-bad": lambda: has_file(f"{GST_PLUGINS}/libgstwebrtc.so"),
    "gstreamer1.0-plugins-good": lambda: has_file(f"{GST_PLUGINS}/libgstrtp.so"),
    "gstreamer1.0-tools": lambda: shutil.which("gst-inspect-1.0"),
    "gcc": lambda: shutil.which("gcc"),
    "iproute2": lambda: shutil.which("ip"),
    "keepalived": lambda: shutil.which("keepalived"),
    "libc6-dev": lambda: Path("/usr/include/stdio.h").exists(),
    "libopus0": lambda: has_library("libopus.so.0"),
    "nftables": lambda: shutil.which("nft"),
    "nodejs": lambda: shutil.which("node"),
    "npm": lambda: shutil.which("npm"),
    "openssl": lambda: shutil.which("openssl"),
    "redis-server": lambda: shutil.which("redis-server"),
    "python3-gst-1.0": lambda: has_file("/usr/lib/python3/dist-packages/gi/overrides/Gst.py"),
}
