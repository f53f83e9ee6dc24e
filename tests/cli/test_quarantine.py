"""``jumpstarter quarantine`` and ``celery quarantine``: what they show, what they do, and that no stranger's bytes get through."""

from __future__ import annotations

import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import time

import pytest

from jumpstarter.brokers.sqlite import SqliteBroker
from jumpstarter.cli import report
from jumpstarter.jobs import REQUEUE, Envelope, Quarantine, Quarantined, Settlement
from tests.peers import clean_environment

pytestmark = pytest.mark.timeout(60)

STACK = 'Fatal Python error: Segmentation fault\n\nThread 0x7f (most recent call first):\n  File "shop.py", line 12 in send\n'
#: Clears a screen, sets a window's title, turns the direction of writing, and begins a line of its own.
EVIL = "evil\x1b[2J\x1b]0;owned\x07\u202e\n\r\u2028end"


@pytest.fixture
def folder(tmp_path):
    """A working directory whose embedded broker is empty."""
    (tmp_path / ".jumpstarter").mkdir()
    with SqliteBroker(url_in(tmp_path)) as broker:
        broker.ping()
    return tmp_path


@pytest.fixture
def broker(folder):
    with SqliteBroker(url_in(folder)) as broker:
        yield broker


def url_in(folder):
    return f"sqlite:///{folder}/.jumpstarter/jumpstarter.db"


def put(
    broker,
    task="shop.send",
    *,
    queue="celery",
    reason="signal 9 (SIGKILL)",
    evidence=(),
    attempts=1,
    body=b'[["\xc3\xa4"], {}, {}]',
):
    """Put a message into quarantine in its last attempt."""
    broker.publish([Envelope(queue=queue, body=body, headers={"task": task, "id": "3f0c", "lang": "py"})])
    for attempt in range(1, attempts + 1):
        settle(broker, queue, REQUEUE if attempt < attempts else Quarantine(reason, dict(evidence)))


def settle(broker, queue, action):
    (delivery,) = broker.claim([queue], 1, incarnation="a", lease=30)
    assert broker.settle([Settlement(delivery, action)], incarnation="a") == [True]


def put_rubbish(broker, raw=b"not \xffJSON\x1b[1m"):
    """Put bytes that are no message into quarantine."""
    connection = sqlite3.connect(broker.server.removeprefix("sqlite:"))
    connection.execute(
        "INSERT INTO jumpstarter_messages (queue, priority, state, attempt, head, body) VALUES ('celery', 0, 'ready', 1, ?, ?)",
        (raw, b""),
    )
    connection.commit()
    connection.close()
    settle(broker, "celery", Quarantine("no message"))


def run(folder, *arguments, answer=None, **environment):
    """Run the command in the folder, to its end, with an answer on its standard input."""
    return subprocess.run(
        [sys.executable, "-c", "import sys; from jumpstarter.cli import main; sys.exit(main())", *arguments],
        cwd=folder,
        env={**clean_environment(), **environment},
        input=answer,
        stdin=subprocess.DEVNULL if answer is None else None,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def quarantine(folder, *arguments, **rest):
    return run(folder, "quarantine", *arguments, **rest)


# Looking


def test_list_shows_what_rests_in_a_table(folder, broker):
    put(broker, attempts=3)
    put(broker, "shop.refund", queue="money", reason="no task is registered under the name 'shop.refund'")
    put_rubbish(broker)
    done = quarantine(folder, "list")
    assert (done.returncode, done.stderr) == (0, "")
    title, *rows = done.stdout.splitlines()
    assert title.split() == ["ID", "AGE", "QUEUE", "TASK", "ATTEMPTS", "REASON"]
    assert [re.split(r"\s{2,}", row) for row in rows] == [
        ["1", rows[0].split()[1], "celery", "shop.send", "3", "signal 9 (SIGKILL)"],
        ["2", rows[1].split()[1], "money", "shop.refund", "1", "no task is registered under the name 'shop.refund'"],
        ["3", rows[2].split()[1], "celery", "(no message)", "1", "no message"],
    ]
    assert re.fullmatch(r"\d+s", rows[0].split()[1])


def test_an_empty_quarantine_is_told(folder):
    done = quarantine(folder, "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing rests in quarantine\n")
    assert json.loads(quarantine(folder, "list", "--json").stdout) == []


def test_list_as_json_can_be_read_by_programs(folder, broker):
    put(broker, EVIL, evidence={"signal": 9, "stack": STACK}, attempts=2)
    put_rubbish(broker)
    done = quarantine(folder, "list", "--json")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    one, two = json.loads(done.stdout)
    assert one.pop("at") == pytest.approx(time.time(), abs=60)
    assert one == {
        "id": "1",
        "queue": "celery",
        "task": EVIL,
        "task_id": "3f0c",
        "attempts": 2,
        "reason": "signal 9 (SIGKILL)",
        "evidence": {"signal": 9, "stack": STACK},
        "is_message": True,
    }
    assert (two["task"], two["is_message"]) == (None, False)


def test_a_long_list_is_shown_in_part_and_whole_when_asked_for(folder, broker):
    for number in range(205):
        put(broker, f"task-{number}")
    done = quarantine(folder, "list")
    assert len(done.stdout.splitlines()) == 101
    assert done.stderr == "there is more: these are the first 100, see --limit\n"
    done = quarantine(folder, "list", "--limit", "0")
    assert (len(done.stdout.splitlines()), done.stderr) == (206, "")
    done = quarantine(folder, "list", "--limit", "205")
    assert (len(done.stdout.splitlines()), done.stderr) == (206, "")


def test_list_may_be_narrowed_to_a_task_or_a_queue(folder, broker):
    put(broker, "shop.send")
    put(broker, "shop.send", queue="money")
    put(broker, "shop.refund", queue="money")
    ids = [
        [one["id"] for one in json.loads(quarantine(folder, "list", "--json", *narrowed).stdout)]
        for narrowed in (["--task", "shop.send"], ["--queue", "money"], ["--task", "shop.send", "--queue", "money"])
    ]
    assert ids == [["1", "2"], ["2", "3"], ["2"]]


def test_show_tells_everything_with_the_stack_as_it_was(folder, broker):
    put(broker, evidence={"signal": 11, "stack": STACK}, attempts=2)
    done = quarantine(folder, "show", "1")
    assert (done.returncode, done.stderr) == (0, "")
    for said in (
        "id        1\n",
        "task      shop.send\n",
        "task id   3f0c\n",
        "reason    signal 9 (SIGKILL)\n",
        "attempts  2\n",
        "evidence\n  signal  11\n  stack\n    Fatal Python error: Segmentation fault\n\n    Thread 0x7f",
        '    Thread 0x7f (most recent call first):\n      File "shop.py", line 12 in send\n',
        "headers\n  task  shop.send\n",
        'body (application/json, utf-8, 16 bytes)\n  [["ä"], {}, {}]\n',
    ):
        assert said in done.stdout
    assert re.search(r"since     20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\+00:00 \(\d+s ago\)\n", done.stdout)


def test_show_cuts_long_bodies_unless_all_is_asked_for(folder, broker):
    put(broker, body=b"x" * 10_000)
    assert "x" * 4000 + "… (6,000 more characters; --full shows them)\n" in quarantine(folder, "show", "1").stdout
    assert "x" * 10_000 + "\n" in quarantine(folder, "show", "1", "--full").stdout


def test_show_as_json_holds_the_message(folder, broker):
    put(broker)
    put(broker, body=b"\xff\x00")
    put_rubbish(broker)
    one, two, three = json.loads(quarantine(folder, "show", "1", "2", "3", "--json").stdout)
    assert one["body"] == '[["ä"], {}, {}]'
    assert (one["headers"]["task"], one["content_type"], one["priority"]) == ("shop.send", "application/json", 0)
    assert (two["body_base64"], three["raw_base64"]) == ("/wA=", "bm90IP9KU09OG1sxbQ==")


def test_show_of_bytes_that_are_no_message(folder, broker):
    put_rubbish(broker)
    done = quarantine(folder, "show", "1")
    assert "bytes that are no message (13)\n  not \\xffJSON\\x1b[1m\n" in done.stdout


def test_show_of_something_that_is_not_there_shows_the_rest_and_fails(folder, broker):
    put(broker)
    done = quarantine(folder, "show", "99", "1", f"x{EVIL}")
    assert done.returncode == 1
    assert "task      shop.send\n" in done.stdout
    assert done.stderr.startswith("Error: nothing rests under this id: 99, xevil\\x1b[2J")


@pytest.mark.parametrize("arguments", [("list",), ("show", "1", "2", "--full"), ("list", "--json"), ("show", "1", "2", "--json")])
def test_control_characters_of_strangers_never_reach_the_terminal(folder, broker, arguments):
    put(
        broker,
        EVIL,
        reason=f"because of {EVIL}",
        evidence={EVIL: EVIL, "stack": f"{EVIL}\n{EVIL}"},
        body=EVIL.encode() + b"\x9b\xff",
    )
    put_rubbish(broker, EVIL.encode())
    done = quarantine(folder, *arguments)
    assert done.returncode == 0
    assert [one for one in done.stdout if not one.isprintable() and one != "\n"] == []
    assert "evil" in done.stdout


# On a terminal


def on_a_terminal(folder, columns, *arguments):
    """What the command writes to a terminal of so many columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update(clean_environment(), COLUMNS=str(columns))
        command = "import sys; from jumpstarter.cli import main; sys.exit(main())"
        os.execv(sys.executable, [sys.executable, "-c", command, *arguments])
    said = b""
    try:
        while more := os.read(terminal, 65536):
            said += more
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    return said.decode().replace("\r\n", "\n")


def test_on_a_terminal_lines_are_cut_to_its_width_and_reasons_still_seen(folder, broker):
    put(broker, "a.very.long.name.of.a.module.that.nobody.ever.types", queue="a-very-long-queue-name", reason="because " * 30)
    title, row = on_a_terminal(folder, 80, "quarantine", "list").splitlines()
    assert len(title) <= 80
    assert len(row) == 80
    assert row.endswith("…")
    assert "because because because" in row
    wide = on_a_terminal(folder, 200, "quarantine", "list").splitlines()[1]
    assert "a-very-long-queue-name " in wide


# Doing something about it


def test_requeue_sends_what_was_named_to_its_queue_again(folder, broker):
    put(broker, "one", attempts=3)
    put(broker, "two")
    done = quarantine(folder, "requeue", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 message requeued\n", "")
    (delivery,) = broker.claim(["celery"], 9, incarnation="b", lease=30)
    assert (delivery.envelope.headers["task"], delivery.attempt) == ("one", 1)
    assert [one.id for one in broker.quarantined()] == ["2"]


def test_drop_forgets_what_was_named(folder, broker):
    put(broker, "one")
    put_rubbish(broker)
    done = quarantine(folder, "drop", "2", "1", "2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 messages dropped\n", "")
    assert broker.quarantined() == []
    assert broker.depth("celery") == 0


@pytest.mark.parametrize("verb", ["requeue", "drop"])
def test_what_was_not_found_is_named_and_the_rest_is_done(folder, broker, verb):
    put(broker)
    done = quarantine(folder, verb, "7", "1", "none")
    assert (done.returncode, done.stderr) == (1, "Error: nothing rests under this id: 7, none.\n")
    assert broker.quarantined() == []


def test_what_is_no_message_cannot_be_requeued_and_stays(folder, broker):
    put_rubbish(broker)
    put(broker)
    done = quarantine(folder, "requeue", "1", "2", "3")
    assert done.returncode == 1
    assert done.stdout == "1 message requeued\n"
    assert done.stderr == (
        "Error: no message, so no queue takes it (show it, or drop it): 1.\n       nothing rests under this id: 3.\n"
    )
    assert [one.id for one in broker.quarantined()] == ["1"]


@pytest.mark.parametrize(("verb", "past"), [("requeue", "requeued"), ("drop", "dropped")])
def test_all_asks_first(folder, broker, verb, past):
    for number in range(210):
        put(broker, f"task-{number}")
    question = f"{verb.capitalize()} 210 messages? [y/N]: "
    for answer in ("n\n", "", None):
        done = quarantine(folder, verb, "--all", answer=answer)
        assert done.returncode == 1
        assert done.stdout.startswith(question)
        assert "nothing was done" in done.stderr
        assert len(broker.quarantined(limit=1000)) == 210
    done = quarantine(folder, verb, "--all", answer="y\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{question}210 messages {past}\n", "")
    assert broker.quarantined() == []
    assert broker.depth("celery") == (210 if verb == "requeue" else 0)


def test_yes_answers_before_it_is_asked(folder, broker):
    put(broker)
    done = quarantine(folder, "drop", "--all", "--yes")
    assert (done.returncode, done.stdout) == (0, "1 message dropped\n")
    done = quarantine(folder, "drop", "--all")
    assert (done.returncode, done.stdout) == (0, "0 messages dropped\n")


def test_all_of_one_task_or_queue_may_be_meant(folder, broker):
    put(broker, "shop.send")
    put(broker, "shop.refund")
    put(broker, "shop.refund", queue="money")
    done = quarantine(folder, "requeue", "--all", "--task", "shop.refund", "--queue", "celery", "-y")
    assert (done.returncode, done.stdout) == (0, "1 message requeued\n")
    assert [one.id for one in broker.quarantined()] == ["1", "3"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("requeue",), "name the messages by their ids, or say --all: one of the two."),
        (("drop", "1", "--all"), "name the messages by their ids, or say --all: one of the two."),
        (("drop", "1", "--task", "shop.send"), "--task and --queue choose among --all; ids are taken as they are."),
        (("show",), "Missing argument 'ID…'."),
        (("burn", "1"), "No such command 'burn'."),
        (("list", "--limit", "-3"), "Invalid value for '-n' / '--limit'"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, broker, arguments, complaint):
    put(broker)
    done = quarantine(folder, *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(broker.quarantined()) == 1


# Which broker


def test_the_broker_is_named_by_an_option_or_the_environment(folder, broker, tmp_path_factory):
    put(broker)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    url = url_in(folder)
    for done in (
        quarantine(elsewhere, "--broker", url, "list"),
        quarantine(elsewhere, "-b", url, "list"),
        quarantine(elsewhere, "list", JUMPSTARTER_BROKER=url),
        quarantine(elsewhere, "list", JUMPSTARTER_HOME=str(folder / ".jumpstarter")),
    ):
        assert (done.returncode, done.stderr) == (0, "")
        assert "shop.send" in done.stdout


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "no broker is named, and there is no embedded one at"),
        ("sqlite:///missing.db", "there is no file at sqlite:///missing.db."),
        ("sqlite://host", "names no SQLite file"),
        ("memory://shop", "nobody else can look into it"),
        ("carrier-pigeon://shop", "no broker has the scheme 'carrier-pigeon'"),
        ("redis://127.0.0.1:1/0", "cannot be reached"),
    ],
)
def test_a_broker_that_is_not_there_is_told_and_nothing_is_made(tmp_path, url, complaint):
    done = quarantine(tmp_path, "list", JUMPSTARTER_BROKER=url)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_apps_own_broker_is_found_by_celery_quarantine(folder, broker):
    put(broker)
    (folder / "shop.py").write_text(f"from celery import Celery\napp = Celery('shop', broker={url_in(folder)!r})\n")
    done = run(folder, "celery", "-A", "shop", "quarantine", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "shop.send" in done.stdout
    done = run(folder, "celery", "-A", "shop", "quarantine", "drop", "1", "2")
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "1 message dropped\n",
        "Error: nothing rests under this id: 2.\n",
    )
    assert "quarantine" in run(folder, "celery", "--help").stdout


def test_help_names_the_command(folder):
    assert "  quarantine\n" in run(folder, "--help").stdout
    done = quarantine(folder, "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("list", "show", "requeue", "drop", "--broker"))


def test_a_reader_that_goes_away_ends_it_quietly(folder, broker):
    for _ in range(100):
        put(broker, reason="x" * 3000)
    command = f"{sys.executable} -c 'import sys; from jumpstarter.cli import main; sys.exit(main())' quarantine list | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.startswith("ID ")
    assert done.stderr == ""


# The words


@pytest.mark.parametrize(
    ("seconds", "word"),
    [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1min"), (3599, "59min"), (3600, "1h"), (86_399, "23h"), (86_400 * 400, "400d")],
)
def test_ages_are_short(seconds, word):
    assert report.age(seconds) == word


def test_texts_keep_what_prints_and_show_what_does_not():
    assert report.plain("ä ñ 日本 🙂 \\ ok") == "ä ñ 日本 🙂 \\ ok"
    assert report.plain("a\tb\nc\x00\x7f\x9b\udc80\u200f") == "a\\tb\\nc\\x00\\x7f\\x9b\\udc80\\u200f"
    assert report.plain("a\tb\nc\r", lines=True) == "a\tb\nc\\r"


def test_a_time_that_no_calendar_knows_is_shown_as_a_number():
    one = Quarantined(id="1", queue="q", reason="r", evidence={}, at=1e300, attempt=1, envelope=None, raw=b"x")
    assert "since     1e+300\n" in report.page(one, now=0.0, full=False)
