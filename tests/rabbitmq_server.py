"""A private RabbitMQ for tests, beside any other on the machine: ports, folders, cookie and epmd of its own, ended by process id.

``rabbitmq_server`` is a fixture for modules that import it: one server for the whole run, without queues at the start of each test.
Starting takes about ten seconds, so commands go to a helper node that stays (``erl``, 2 ms each) rather than to ``rabbitmqctl``
(1.5 s each).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Self

import pytest

#: Where packages put the server. The wrapper on PATH switches the user; the script in the library's folder does not.
LIBRARIES = ("/usr/lib/rabbitmq/bin", "/usr/local/lib/rabbitmq/bin", "/opt/rabbitmq/sbin")
START_DEADLINE = 300.0
COMMAND_DEADLINE = 60.0

# Reads one expression a line, has the server evaluate it, prints the value on one line.
_HELPER = """
Ask = fun(Line) ->
    {ok, Tokens, _} = erl_scan:string(Line),
    {ok, Parsed} = erl_parse:parse_exprs(Tokens),
    case rpc:call('%s', erl_eval, exprs, [Parsed, []]) of
        {value, Value, _} -> {ok, Value};
        Other -> {error, Other}
    end
end,
Loop = fun(Loop) ->
    case io:get_line("") of
        eof -> halt(0);
        Line ->
            Answer = try Ask(Line) catch _:Why -> {error, Why} end,
            io:format("~0tp~n", [Answer]),
            Loop(Loop)
    end
end,
io:setopts([{encoding, unicode}]),
Loop(Loop).
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_script() -> str | None:
    """The server's start script; None where RabbitMQ is not installed."""
    folders = [folder for folder in LIBRARIES if Path(folder, "rabbitmq-server").exists()]
    return str(Path(folders[0], "rabbitmq-server")) if folders else shutil.which("rabbitmq-server")


class RabbitServer:
    """A RabbitMQ node. Can be stopped (SIGSTOP), killed, started again on what it stored, and told Erlang expressions.

    :param settings: lines of ``rabbitmq.conf``.
    :ivar port: AMQP on the loopback interface.
    """

    def __init__(self, *settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jumpstarter-rabbit-"))
        self.port = free_port()
        self._settings = settings
        self._epmd_port = free_port()
        self._node = f"jumpstarter{self.port}@localhost"
        self._cookie = uuid.uuid4().hex
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._helper: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def _environment(self) -> dict[str, str]:
        folder = self.folder
        return {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def start(self) -> Self:
        """Return when it takes connections."""
        script = server_script()
        if script is None:
            raise FileNotFoundError("rabbitmq-server is not installed; on Debian: apt-get install rabbitmq-server")
        (self.folder / "rabbitmq.conf").write_text("\n".join(["log.console.level = warning", *self._settings]) + "\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(self._cookie)
            cookie.chmod(0o400)
        if self._epmd is None:
            # In the foreground: one that the node started for itself would outlive it.
            epmd = shutil.which("epmd")
            assert epmd
            self._epmd = subprocess.Popen([epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"], env=self._environment)
        with (self.folder / "output").open("ab") as output:
            self._server = subprocess.Popen(
                [script], env=self._environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._wait_until_ready()
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                if probe.recv(1) == b"\x01":
                    return
            assert self._server is not None
            assert self._server.poll() is None, (self.folder / "output").read_text()
            time.sleep(0.02)
        raise AssertionError(f"RabbitMQ did not start within {START_DEADLINE:g} s: {(self.folder / 'output').read_text()}")

    def ask(self, expression: str) -> str:
        """Have the server evaluate an Erlang expression (without the final full stop); its value, printed on one line."""
        if self._helper is None:
            erl = shutil.which("erl")
            assert erl
            self._helper = subprocess.Popen(
                [
                    *(erl, "-noshell", "-sname", f"helper{self.port}@localhost", "-hidden", "-setcookie", self._cookie),
                    *("-eval", _HELPER % self._node),
                ],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._helper.stdin
        assert self._helper.stdout
        self._helper.stdin.write(" ".join(expression.split()) + ".\n")
        self._helper.stdin.flush()
        answer = self._helper.stdout.readline().strip()
        assert answer.startswith("{ok,"), f"{expression}: {answer}"
        return answer[len("{ok,") : -1]

    # What the tests do to it

    def delete_queues(self) -> None:
        """Delete every queue, every binding with them, and all exchanges but the predefined."""
        self.ask('[catch rabbit_amqqueue:delete(Q, false, false, <<"tests">>) || Q <- rabbit_amqqueue:list(<<"/">>)]')
        self.ask(
            '[catch rabbit_exchange:delete(element(2, X), false, <<"tests">>) || X <- rabbit_exchange:list(<<"/">>), '
            'case element(4, element(2, X)) of <<>> -> false; <<"amq.", _/binary>> -> false; _ -> true end]'
        )

    def close_all_connections(self) -> None:
        """As ``rabbitmqctl close_all_connections`` does."""
        self.ask('rabbit_networking:close_connections(rabbit_networking:connections(), "by the tests")')

    def connections(self) -> int:
        """How many clients are connected."""
        return int(self.ask("length(rabbit_networking:connections())"))

    def unacked(self, queue: str) -> int:
        """How many messages of a queue are with consumers."""
        return self._number(queue, "messages_unacknowledged")

    def ready(self, queue: str) -> int:
        """How many messages of a queue wait."""
        return self._number(queue, "messages_ready")

    def _number(self, queue: str, what: str) -> int:
        answer = self.ask(
            f"""case rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)) of
                {{ok, Q}} -> proplists:get_value({what}, rabbit_amqqueue:info(Q, [{what}])); _ -> 0 end"""
        )
        return int(answer)

    def stop_app(self) -> None:
        """Stop RabbitMQ, but not its Erlang node."""
        self.ask("rabbit:stop()")

    def start_app(self) -> None:
        """Start RabbitMQ again on the running node."""
        self.ask("rabbit:start()")
        self._wait_until_ready()

    def set_memory_alarm(self) -> None:
        """Make the server believe that it has too little memory: it reads no more from publishing connections."""
        self.ask("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})")

    def clear_memory_alarm(self) -> None:
        self.ask("rabbit_alarm:clear_alarm({resource_limit, memory, node()})")

    def set_consumer_timeout(self, seconds: float | None) -> None:
        """Deliveries that are not acked in time cost their channel; looked at every ``seconds`` (channels begun from now on)."""
        milliseconds = int((seconds or 1800) * 1000)
        self.ask(f"application:set_env(rabbit, consumer_timeout, {milliseconds})")
        self.ask(f"application:set_env(rabbit, channel_tick_interval, {min(60_000, milliseconds)})")

    @property
    def _pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def freeze(self) -> None:
        """Stop the process (SIGSTOP): connections stay open and nobody answers."""
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would. ``start`` brings it back on what was stored."""
        self._end(self._helper)
        self._helper = None
        self._end(self._server)
        self._server = None

    def _end(self, process: subprocess.Popen[bytes] | subprocess.Popen[str] | None) -> None:
        if process is None:
            return
        # The scripts leave children behind: the whole group, which nobody else is in.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def close(self) -> None:
        self.kill()
        if self._epmd is not None:
            # It ignores SIGTERM.
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *error: object) -> None:
        self.close()


@functools.cache
def _running() -> RabbitServer:
    """One for all modules: a fixture that several modules import is made for each of them."""
    server = RabbitServer().__enter__()
    atexit.register(server.close)
    return server


@pytest.fixture
def rabbitmq_server() -> RabbitServer:
    """A running server without queues. One for all tests: those that kill it start their own."""
    if server_script() is None:
        pytest.skip("rabbitmq-server is not installed")
    server = _running()
    server.delete_queues()
    return server
