"""Golden messages: captured from genuine Celery, kept in ``tests/wire/golden``, compared with what ours write and read.

    python -m tests.wire.golden            # capture them anew; needs a package index, redis-server and openssl

They are captured once per version of Celery, in an environment of its own, through a private Redis: ``golden_program.py`` says what
is published. Clients in other languages speak this form; so whoever changes a byte of it here finds out by a test.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.peers import CELERY_VERSION, ROOT, RedisServer, clean_environment

HERE = Path(__file__).parent
FOLDER = HERE / "golden"
PROGRAM = HERE / "golden_program.py"
PACKAGES = (
    f"celery[redis,auth]=={CELERY_VERSION}",
    "kombu==5.7.0",
    "msgpack==1.1.0",
    "pyyaml==6.0.2",
    "backports.zstd==1.0.0",
    "brotli==1.1.0",
)


class Golden(NamedTuple):
    """A message, and what it was made for."""

    kind: str
    case: str
    list: str
    raw: str

    @property
    def file(self) -> str:
        """The file that it is kept in: one for each kind, the many encodings together."""
        first, _, rest = self.kind.partition(", ")
        return f"{first}-{rest[: len('protocol 2')].replace(' ', '-')}.jsonl"


def read(text: str) -> list[Golden]:
    """Messages from lines of JSON."""
    return [Golden(**json.loads(line)) for line in text.splitlines() if line.startswith('{"kind"')]


def golden() -> Iterator[Golden]:
    """All messages that are kept."""
    for file in sorted(FOLDER.glob("*.jsonl")):
        yield from read(file.read_text("ascii"))


def published(command: list[str], url: str, **more: str) -> list[Golden]:
    """What a side publishes for the cases.

    :param command: the beginning of a command line that runs a program which imports ``celery``.
    """
    env = clean_environment(GOLDEN_URL=url, **more)
    done = subprocess.run([*command, str(PROGRAM)], env=env, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise AssertionError(f"{PROGRAM.name} failed:\n{done.stderr[-4000:]}")
    return read(done.stdout)


def _environment() -> Path:
    folder = ROOT / ".cache" / f"golden-celery-{CELERY_VERSION}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "--quiet", "install", *PACKAGES], check=True)
    return python


def _make_certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500", "-subj", "/CN=golden"]
    subprocess.run(
        [*command, "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")], check=True, capture_output=True
    )


def capture() -> None:
    """Write all files anew. The key of the signatures is thrown away; the certificate is enough to read them."""
    python = _environment()
    with tempfile.TemporaryDirectory() as scratch, RedisServer(Path(scratch) / "redis") as server:
        _make_certificate(Path(scratch))
        found = published([str(python)], server.url, GOLDEN_CERTIFICATE=scratch)
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / "cert.pem").write_bytes((Path(scratch) / "cert.pem").read_bytes())
    files: dict[str, list[Any]] = {}
    for message in found:
        files.setdefault(message.file, []).append(message)
    for name, messages in files.items():
        (FOLDER / name).write_text("".join(json.dumps(message._asdict()) + "\n" for message in messages), "ascii")
        print(f"{name}: {len(messages)} messages")


if __name__ == "__main__":
    capture()
