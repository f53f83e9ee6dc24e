"""Which guard is against which pain, how it is taken out, and which test must then fail. Read by: guards. The numbers are those of
the table in docs/explanation/how-reliability-is-tested.md; those with # are of the rivals' issues."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("REMOVALS", "Edit", "Removal")


@dataclass(frozen=True, slots=True)
class Edit:
    """A piece of source, which is there once, and what stands in its place without the guard."""

    file: str
    old: str
    new: str

    def applied_to(self, text: str) -> str:
        """The text without the guard.

        :raises AssertionError: the source has changed, and the table must follow.
        """
        assert text.count(self.old) == 1, f"{self.file} has {text.count(self.old)} times, not once: {self.old!r}"
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Removal:
    """:ivar number: of the pain. :ivar what: is taken out, in words. :ivar tests: of which one must fail."""

    number: str
    what: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


PAINS = "tests/reliability/test_pains.py::"
PUBLISHING = "tests/reliability/test_publishing.py::"
LIMITS = "tests/worker/test_limits.py::"
AMQP = "tests/brokers/test_kombu_faults.py::"
OWNERSHIP = "tests/brokers/test_redis_ownership.py::"

NODES = "jumpstarter/nodes.py"
ADMIT, BURY = "jumpstarter/worker/admit.py", "jumpstarter/worker/bury.py"
CHILDREN, WATCH = "jumpstarter/worker/children.py", "jumpstarter/worker/watch.py"
EXECUTE, CAPACITY = "jumpstarter/worker/execute.py", "jumpstarter/worker/capacity.py"
LEASE, RECEIVE = "jumpstarter/worker/lease.py", "jumpstarter/worker/receive.py"
BROKER, LINKS = "jumpstarter/brokers/redis/broker.py", "jumpstarter/_redis.py"
LUA = "jumpstarter/brokers/redis/lua/"

_NO_RENEWAL = Edit(LEASE, "self._broker.renew(list(self._incarnations()), self._lease)", "list(self._incarnations())")
_NO_REAPER = Edit(LEASE, "reaped = self._broker.reap()", "reaped = type('No', (), {'returned': 0, 'next_due': None})()")
_NO_NODE_LIMITS = Edit(CHILDREN, "        if not self._condemned(child):\n            return", "        return")

REMOVALS: tuple[Removal, ...] = (
    Removal(
        "1",
        "nobody renews leases",
        (_NO_RENEWAL,),
        ("tests/ownership/test_ownership.py::test_tasks_longer_than_the_visibility_timeout_start_exactly_once",),
    ),
    Removal(
        "2",
        "a child whose connection broke waits for long before it connects again",
        (
            Edit(
                "jumpstarter/brokers/redis/waiter.py",
                "        except LinkDown:\n            self._abandon()\n            raise\n\n    def suspects",
                "        except LinkDown:\n            time.sleep(timeout * 20)\n            raise\n\n    def suspects",
            ),
        ),
        (f"{PAINS}test_2_a_worker_is_not_deaf_after_its_connections_broke",),
    ),
    Removal(
        "3",
        "nobody returns what dead nodes held",
        (_NO_REAPER,),
        (f"{PAINS}test_3_a_node_killed_in_the_midst_of_its_work_loses_nothing",),
    ),
    Removal(
        "4",
        "deliveries are not counted",
        (
            Edit(BURY, "if delivery.attempt >= max_attempts:", "if False:"),
            Edit(ADMIT, "job.due is not None or delivery.attempt > max_attempts:", "job.due is not None:"),
        ),
        (f"{PAINS}test_4_a_task_that_kills_its_process_ends_in_quarantine_and_hurts_no_other",),
    ),
    Removal(
        "4",
        "what ran in a child that died is acked",
        (Edit(BURY, 'return Outcome(delivery, job, "LOST", REQUEUE)', 'return Outcome(delivery, job, "LOST")'),),
        (f"{PAINS}test_4_a_task_that_kills_its_process_ends_in_quarantine_and_hurts_no_other",),
    ),
    Removal(
        "5",
        "a child that was killed is not replaced",
        (Edit(CHILDREN, "if self._current(child.index) is None:", "if exited.code == 0 and self._current(child.index) is None:"),),
        (f"{PAINS}test_5_children_for_one_task_each_with_large_arguments_under_a_storm_of_kills_never_stall",),
    ),
    Removal(
        "6",
        "claims whose answer was lost are not given back",
        (Edit(BROKER, 'known, claimant.doubtful = claimant.epoch if claimant.doubtful else "", True', 'known = ""'),),
        (f"{PAINS}test_6_a_claim_whose_answer_is_cut_off_loses_nothing",),
    ),
    Removal(
        "7",
        "tasks with an ETA are kept in the worker, as Celery does",
        (
            Edit(
                ADMIT,
                'return Outcome(delivery, job, "PARKED", Park(job.due))',
                'judge.__dict__.setdefault("kept", []).append(job)\n        return Outcome(delivery, job, "PARKED", Park(job.due))',
            ),
        ),
        (f"{PAINS}test_7_a_flood_of_etas_stays_in_the_broker_and_is_on_time",),
    ),
    Removal(
        "7",
        "claims that bring nothing to run stay small",
        (Edit(CAPACITY, "max(self.look_ahead(place), self._fruitless)", "self.look_ahead(place)"),),
        (f"{PAINS}test_7_a_flood_of_etas_is_parked_in_batches_and_what_follows_is_not_hoarded",),
    ),
    Removal(
        "7",
        "tasks with an ETA begin at once",
        (Edit(ADMIT, "if job.due is not None and job.due > now:", "if False:"),),
        (f"{PAINS}test_7_a_flood_of_etas_stays_in_the_broker_and_is_on_time",),
    ),
    Removal(
        "8",
        "long claims are not refreshed on RabbitMQ",
        (Edit("jumpstarter/brokers/kombu/refresh.py", "every = self._broker.consumer_timeout / 3", "every = 0"),),
        (f"{AMQP}test_a_worker_outlives_consumer_timeout_and_runs_a_long_job_once",),
    ),
    Removal(
        "10",
        "a chord's member that died with its process is given up",
        (
            Edit(
                BURY,
                'return Outcome(delivery, job, "LOST", REQUEUE)',
                "return application.lose(job, death.evidence, quarantine=False)",
            ),
        ),
        (f"{PAINS}test_10_a_chord_whose_header_loses_every_process_once_has_its_body_run_once",),
    ),
    Removal(
        "10",
        "jobs that had ended are blamed for the death of their process",
        (Edit(BURY, "(not self.ran or tag in self.ran)", "True"),),
        ("tests/worker/test_bury.py",),
    ),
    Removal(
        "16",
        "a publish does not pass its deadline on to the connection",
        (Edit(LINKS, "self.timeout if deadline is None else max(0.001, deadline - time.monotonic()))", "30.0)"),),
        (f"{PUBLISHING}test_a_call_to_a_broker_that_is_not_there_is_an_error_in_time",),
    ),
    Removal(
        "16",
        "a publish waits for its answer as long as it takes",
        (
            Edit(
                "jumpstarter/brokers/redis/publisher.py",
                "link.exchange([command], _half_way(deadline))",
                "link.exchange([command], deadline + 30)",
            ),
        ),
        (f"{PUBLISHING}test_a_broker_that_falls_silent_is_an_error_in_time_which_says_that_nobody_knows",),
    ),
    Removal(
        "17",
        "a call without an answer counts as published",
        (Edit("jumpstarter/brokers/redis/publisher.py", "                    doubt = error\n", "                    return 1\n"),),
        (f"{PUBLISHING}test_of_ten_thousand_calls_while_connections_are_reset_none_is_lost_or_doubled",),
    ),
    Removal(
        "17",
        "a call that is sent again is a second message",
        (Edit(f"{LUA}publish_one.lua", "if before and tonumber(before) >= tonumber(ARGV[1]) then", "if false then"),),
        (f"{PUBLISHING}test_an_answer_that_is_cut_is_no_reason_to_publish_twice",),
    ),
    Removal(
        "19",
        "a cancellation ends whatever runs in that child",
        (Edit(WATCH, "if job.id == job_id and attempt in (None, job.delivery.attempt)]", "]"),),
        (f"{LIMITS}test_racing_cancellations_never_hit_another_job",),
    ),
    Removal(
        "20",
        "nobody looks after hard limits",
        (Edit(WATCH, "if job.hard_limit and elapsed >= job.hard_limit:", "if False:"), _NO_NODE_LIMITS),
        (f"{PAINS}test_20_time_limits_hold_in_every_pool", f"{LIMITS}test_a_hard_limit_gives_the_slot_back_in_time"),
    ),
    Removal(
        "20",
        "the node leaves it to children whose interpreter is held",
        (_NO_NODE_LIMITS,),
        (f"{LIMITS}test_a_hard_limit_gives_the_slot_back_in_time",),
    ),
    Removal(
        "21",
        "a child claims ahead whatever jobs take, and hands nothing back",
        (
            Edit(
                CAPACITY,
                "        average = self._runner.averages.get(place)\n        if average is None",
                "        return 64\n        if average is None",
            ),
            Edit(CAPACITY, "                jobs += executor.withdraw()\n", "                pass\n"),
        ),
        (f"{PAINS}test_21_short_tasks_do_not_wait_behind_a_long_one",),
    ),
    Removal(
        "23",
        "a warm shutdown does not wait for what runs",
        (Edit(NODES, '            step = "warm"\n', '            step = "cold"\n'),),
        (f"{PAINS}test_23_stopping_under_load_loses_nothing_and_repeats_nothing_that_was_done",),
    ),
    Removal(
        "23",
        "a soft shutdown does not wait",
        (Edit(NODES, "elif self._soft_shutdown > 0 and", "elif False and"),),
        (f"{PAINS}test_23_a_soft_shutdown_waits_and_then_hands_back",),
    ),
    Removal(
        "24",
        "claims end with the connection, as on RabbitMQ",
        (
            Edit(
                LEASE,
                "            self._troubled = False\n            self._on_trouble(None)\n",
                "            self._troubled = False\n            [self._broker.release(name) for name in self._incarnations()]\n",
            ),
        ),
        (f"{PAINS}test_24_a_restarted_broker_repeats_nothing_that_still_runs",),
    ),
    Removal(
        "25",
        "whoever waits for a result does not ask again when its subscription broke",
        (Edit("jumpstarter/results/redis.py", "        return not self._link.closed\n", "        return True\n"),),
        (f"{PUBLISHING}test_of_five_hundred_gets_all_return_although_their_subscriptions_are_killed",),
    ),
    Removal(
        "26",
        "what was settled is kept",
        (
            Edit(
                "jumpstarter/worker/settle.py",
                "self._completing.clear()",
                'self._completing.clear()\n        self.__dict__.setdefault("kept", []).append(outcomes)',
            ),
        ),
        (f"{PAINS}test_26_a_worker_does_not_grow",),
    ),
    Removal(
        "28",
        "nobody looks after memory",
        (Edit(CHILDREN, "if used >= deadly:", "if False:"),),
        ("tests/worker/test_retirement.py::test_a_child_far_over_its_memory_is_killed_at_once_and_its_job_ends_in_quarantine",),
    ),
    Removal(
        "29",
        "the template does not notice that its node is gone",
        (
            Edit("jumpstarter/executors/template.py", "if not self._is_orphan and os.getppid() != self._parent:", "if False:"),
            Edit("jumpstarter/executors/beginning.py", "    die_with(template, signal.SIGKILL)\n", "    pass\n"),
        ),
        (f"{PAINS}test_29_a_killed_node_takes_its_children_and_theirs_along",),
    ),
    Removal(
        "31",
        "idle children look for work five times a second",
        (Edit(RECEIVE, "self._broker.wait(queues, self._options.idle,", "self._broker.wait(queues, 0.2,"),),
        (f"{PAINS}test_31_an_idle_worker_is_quiet",),
    ),
    Removal(
        "32",
        "readiness does not follow the node's health",
        (Edit("jumpstarter/worker/probe.py", '"health": health,', '"health": "healthy",'),),
        (f"{PAINS}test_32_probes_tell_a_worker_whose_broker_is_away_from_one_that_hangs",),
    ),
    # Lease bugs that rivals shipped.
    Removal(
        "#131",
        "taskiq-redis: a recovery lock without an end",
        (Edit(BROKER, '"NX", "EX", MUTEX_SECONDS) is None', '"NX") is None'),),
        (f"{OWNERSHIP}test_a_restorer_that_dies_under_kombus_lock_stops_the_others_for_a_while_only",),
    ),
    Removal(
        "#1518",
        "procrastinate: a name that is used again revives a dead lease",
        (
            Edit(
                CHILDREN,
                "Child(index, seat, uuid.uuid4().hex, Link(ours))",
                'Child(index, seat, f"{self._options.name}-{seat}", Link(ours))',
            ),
        ),
        (f"{PAINS}test_a_node_of_the_same_name_does_not_revive_the_leases_of_a_dead_one",),
    ),
    Removal(
        "#1408",
        "procrastinate: what a reaper that stalled had seen is returned when it wakes up",
        (
            Edit(f"{LUA}move.lua", "if claim and redis.call('HEXISTS', KEYS[1], tag) == 1 then", "if true then"),
            Edit(f"{LUA}move.lua", "origin_of(claim)", "origin_of(claim or '0:q')"),
        ),
        (f"{OWNERSHIP}test_a_reaper_that_stalls_stops_nobody",),
    ),
    Removal(
        "#258",
        "dramatiq: a bulk requeue overflows Lua's unpack",
        (Edit(f"{LUA}common.lua", "if #options == 0 and #arguments <= 2000 then", "if #options == 0 then"),),
        (f"{OWNERSHIP}test_twenty_thousand_claims_are_held_requeued_and_reaped",),
    ),
    Removal(
        "#692",
        "dramatiq: a task that holds the interpreter starves its own renewal",
        (
            Edit(
                NODES,
                '        name=f"{options.name}/{index}",\n',
                '        name=f"{options.name}/{index}",\n        keeps_lease=True,\n',
            ),
            Edit("jumpstarter/worker/node.py", "            self._incarnations,\n", "            lambda: [],\n"),
        ),
        (f"{PAINS}test_a_task_that_holds_the_interpreter_keeps_its_lease",),
    ),
    Removal(
        "#277",
        "SAQ: what was claimed and has no lease yet is swept as an orphan",
        (Edit(f"{LUA}claim.lua", "renew_lease(leases, calls, incarnation, now, tonumber(ARGV[3]), shortest)\n", ""),),
        (f"{OWNERSHIP}test_a_claim_is_never_seen_without_its_lease",),
    ),
    Removal(
        "#18653",
        "prefect: a heartbeat that comes after the end revives the job",
        (Edit(f"{LUA}hold.lua", "    if redis.call('HEXISTS', claims, ARGV[n]) == 1 then\n", "    if true then\n"),),
        (f"{OWNERSHIP}test_a_heartbeat_after_the_end_revives_nothing",),
    ),
    Removal(
        "0.6.2",
        "oban-py: a clock that goes back repeats work",
        (
            Edit(
                BROKER,
                "self._links.script(RENEW, keys, [lease, *some])",
                'self._links.ask([["ZADD", keys[0], time.time() + lease, name] for name in some])',
            ),
        ),
        (f"{OWNERSHIP}test_the_wall_clocks_of_workers_do_not_matter",),
    ),
)
