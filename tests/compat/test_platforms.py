"""What Celery's worker does to its process and refuses to do with it."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_celery import platforms
from compat_celery.exceptions import SecurityError, SecurityWarning
from tests.peers import clean_environment

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def in_a_child(function: Callable[[], None]) -> int:
    """The exit code of a forked child that runs the function: 0 when it returned, 1 when it raised."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:  # noqa: BLE001 - told by the exit code; the child must not go on with the tests
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@as_root
def test_a_process_becomes_a_user_in_his_groups_for_good() -> None:
    user = pwd.getpwnam("nobody")

    def become() -> None:
        platforms.maybe_drop_privileges(uid="nobody")
        assert (os.getuid(), os.geteuid(), os.getgid()) == (user.pw_uid, user.pw_uid, user.pw_gid)
        assert 0 not in os.getgroups()
        with pytest.raises(PermissionError):
            os.setuid(0)

    assert in_a_child(become) == 0
    assert in_a_child(lambda: platforms.maybe_drop_privileges(uid="nobody", gid="no such group")) == 1


@as_root
def test_a_pid_file_whose_number_another_users_process_has_now_is_stale() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own cannot be looked into by others
        Path(folder).chmod(0o777)
        file = platforms.Pidfile(f"{folder}/worker.pid")
        Path(file.path).write_text(f"{os.getpid()}\n")
        assert file.read_pid() == os.getpid()  # which imports a codec: others may not look into the interpreter's folder

        def replace(user: str) -> None:
            os.setuid(pwd.getpwnam(user).pw_uid)
            assert file.remove_if_stale()

        assert in_a_child(lambda: replace("root")) == 1
        assert in_a_child(lambda: replace("nobody")) == 0


def test_users_and_groups_are_found_by_name_and_number() -> None:
    assert platforms.parse_uid("root") == platforms.parse_uid("0") == platforms.parse_gid(0) == 0
    assert platforms.parse_gid(grp.getgrgid(0).gr_name) == 0
    with pytest.raises(KeyError, match="nobody at all"):
        platforms.parse_uid("nobody at all")


@pytest.mark.parametrize(
    ("uid", "accept", "force", "expected"),
    [
        (0, {"pickle", "json"}, None, SecurityError),
        (0, {"application/group-python-serialize"}, None, SecurityError),
        (0, {"pickle"}, "1", SecurityWarning),
        (0, {"json"}, None, SecurityWarning),
        (1000, {"pickle"}, None, None),
    ],
)
def test_root_does_not_accept_pickle(
    monkeypatch: pytest.MonkeyPatch, uid: int, accept: set[str], force: str | None, expected: type | None
) -> None:
    for name in ("getuid", "geteuid", "getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: uid)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: ("users", "x", gid, []))
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)
    if force:
        monkeypatch.setenv("C_FORCE_ROOT", force)
    if expected is SecurityError:
        with pytest.raises(SecurityError, match=f"uid={uid}"):
            platforms.check_privileges(accept)
    elif expected is SecurityWarning:
        with pytest.warns(SecurityWarning, match="root"):
            platforms.check_privileges(accept)
    else:
        platforms.check_privileges(accept)


@as_root
def test_a_worker_that_would_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "rooted.py").write_text("from celery import Celery\napp = Celery(broker='memory://', accept_content=['pickle'])\n")
    command = [sys.executable, "-m", "compat_celery", "-m", "celery", "-A", "rooted", "worker", "-P", "solo"]
    env = clean_environment(PYTHONPATH=str(tmp_path))
    env.pop("C_FORCE_ROOT", None)
    ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode != 0
    assert "accepts pickle" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_descriptors_are_closed_but_for_those_that_are_kept() -> None:
    def close() -> None:
        with tempfile.TemporaryFile() as kept, tempfile.TemporaryFile() as dropped:
            number = dropped.fileno()
            assert platforms.fd_by_path([f"/proc/self/fd/{number}"]) == [number]
            platforms.close_open_fds([0, 1, 2, kept])
            os.fstat(kept.fileno())
            with pytest.raises(OSError, match="descriptor"):
                os.fstat(number)
            os._exit(0)

    assert in_a_child(close) == 0


def test_a_daemon_has_no_terminal_and_another_folder(tmp_path: Path) -> None:
    note = tmp_path / "note"

    def detach() -> None:
        with platforms.detached(workdir=str(tmp_path), umask="022"):
            note.with_suffix(".new").write_text(f"{Path.cwd()} {os.getsid(0) == os.getpid()} {os.isatty(0)}")
            note.with_suffix(".new").replace(note)

    in_a_child(detach)
    # The daemon is nobody's child here.
    for _ in range(2000):
        if note.exists():
            break
        os.sched_yield()
        subprocess.run(["true"], check=True)
    assert note.read_text() == f"{tmp_path} False False"


def test_signals_are_named_in_capitals() -> None:
    assert platforms.signals.signum("SIGTERM") == platforms.signals.signum("TERM") == 15
    with pytest.raises(TypeError, match="'term'"):
        platforms.signals.signum("term")
