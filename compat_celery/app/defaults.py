"""The settings: names, defaults, types, and the upper-case names of Celery 3. One table; all else is made from it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from compat_celery._names import celery_named
from compat_celery.utils.serialization import strtobool

__all__ = ("DEFAULTS", "NAMESPACES", "Option", "find", "flatten")

DEFAULT_POOL = "prefork"
DEFAULT_ACCEPT_CONTENT = ("json",)
DEFAULT_PROCESS_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
DEFAULT_TASK_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
DEFAULT_SECURITY_DIGEST = "sha256"
DEFAULT_RETRY_POLICY = {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2}


class _Row(NamedTuple):
    """A setting; ``old`` is its name in Celery 3 where that is not its name in upper case."""

    name: str
    default: Any
    type: str
    old: str = ""


# fmt: off
_ROWS: tuple[tuple[Any, ...], ...] = (
    # general
    ("accept_content", ("json",), "list", "CELERY_ACCEPT_CONTENT"),
    ("result_accept_content", None, "list"),
    ("enable_utc", True, "bool"),
    ("imports", (), "tuple", "CELERY_IMPORTS"),
    ("include", (), "tuple", "CELERY_INCLUDE"),
    ("timezone", None, "string", "CELERY_TIMEZONE"),
    # beat
    ("beat_enable_remote_control", False, "bool", "CELERYBEAT_ENABLE_REMOTE_CONTROL"),
    ("beat_remote_control_max_tick_age", None, "float", "CELERYBEAT_REMOTE_CONTROL_MAX_TICK_AGE"),
    ("beat_max_loop_interval", 0, "float", "CELERYBEAT_MAX_LOOP_INTERVAL"),
    ("beat_schedule", {}, "dict", "CELERYBEAT_SCHEDULE"),
    ("beat_scheduler", "celery.beat:PersistentScheduler", "string", "CELERYBEAT_SCHEDULER"),
    ("beat_schedule_filename", "celerybeat-schedule", "string", "CELERYBEAT_SCHEDULE_FILENAME"),
    ("beat_sync_every", 0, "int", "CELERYBEAT_SYNC_EVERY"),
    ("beat_cron_starting_deadline", None, "int", "CELERYBEAT_CRON_STARTING_DEADLINE"),
    # broker
    ("broker_url", None, "string"),
    ("broker_read_url", None, "string"),
    ("broker_write_url", None, "string"),
    ("broker_transport", None, "string"),
    ("broker_transport_options", {}, "dict"),
    ("broker_connection_timeout", 4, "float"),
    ("broker_connection_retry", True, "bool"),
    ("broker_connection_retry_on_startup", None, "bool"),
    ("broker_connection_max_retries", 100, "int"),
    ("broker_channel_error_retry", False, "bool"),
    ("broker_failover_strategy", None, "string"),
    ("broker_heartbeat", 120, "int"),
    ("broker_heartbeat_checkrate", 3.0, "int"),
    ("broker_login_method", None, "string"),
    ("broker_native_delayed_delivery_queue_type", "quorum", "string"),
    ("broker_pool_limit", 10, "int"),
    ("broker_pool_acquire_timeout", None, "float"),
    ("broker_use_ssl", False, "bool"),
    ("broker_host", None, "string"),
    ("broker_port", None, "int"),
    ("broker_user", None, "string"),
    ("broker_password", None, "string"),
    ("broker_vhost", None, "string"),
    # cache
    ("cache_backend", None, "string", "CELERY_CACHE_BACKEND"),
    ("cache_backend_options", {}, "dict", "CELERY_CACHE_BACKEND_OPTIONS"),
    # cassandra
    ("cassandra_entry_ttl", None, "float"),
    ("cassandra_keyspace", None, "string"),
    ("cassandra_port", None, "string"),
    ("cassandra_read_consistency", None, "string"),
    ("cassandra_servers", None, "list"),
    ("cassandra_bundle_path", None, "string"),
    ("cassandra_table", None, "string"),
    ("cassandra_write_consistency", None, "string"),
    ("cassandra_auth_provider", None, "string"),
    ("cassandra_auth_kwargs", None, "string"),
    ("cassandra_options", {}, "dict"),
    # s3
    ("s3_access_key_id", None, "string"),
    ("s3_secret_access_key", None, "string"),
    ("s3_bucket", None, "string"),
    ("s3_base_path", None, "string"),
    ("s3_endpoint_url", None, "string"),
    ("s3_region", None, "string"),
    # azureblockblob
    ("azureblockblob_container_name", "celery", "string"),
    ("azureblockblob_retry_initial_backoff_sec", 2, "int"),
    ("azureblockblob_retry_increment_base", 2, "int"),
    ("azureblockblob_retry_max_attempts", 3, "int"),
    ("azureblockblob_base_path", "", "string"),
    ("azureblockblob_connection_timeout", 20, "int"),
    ("azureblockblob_read_timeout", 120, "int"),
    # gcs
    ("gcs_bucket", None, "string"),
    ("gcs_project", None, "string"),
    ("gcs_base_path", "", "string"),
    ("gcs_ttl", 0, "float"),
    # control
    ("control_queue_ttl", 300.0, "float"),
    ("control_queue_expires", 10.0, "float"),
    ("control_queue_exclusive", True, "bool"),
    ("control_queue_durable", False, "bool"),
    ("control_exchange", "celery", "string"),
    # couchbase
    ("couchbase_backend_settings", None, "dict", "CELERY_COUCHBASE_BACKEND_SETTINGS"),
    # arangodb
    ("arangodb_backend_settings", None, "dict", "CELERY_ARANGODB_BACKEND_SETTINGS"),
    # mongodb
    ("mongodb_backend_settings", None, "dict", "CELERY_MONGODB_BACKEND_SETTINGS"),
    # cosmosdbsql
    ("cosmosdbsql_database_name", "celerydb", "string"),
    ("cosmosdbsql_collection_name", "celerycol", "string"),
    ("cosmosdbsql_consistency_level", "Session", "string"),
    ("cosmosdbsql_max_retry_attempts", 9, "int"),
    ("cosmosdbsql_max_retry_wait_time", 30, "int"),
    # event
    ("event_queue_expires", 60.0, "float", "CELERY_EVENT_QUEUE_EXPIRES"),
    ("event_queue_ttl", 5.0, "float", "CELERY_EVENT_QUEUE_TTL"),
    ("event_queue_prefix", "celeryev", "string", "CELERY_EVENT_QUEUE_PREFIX"),
    ("event_queue_exclusive", True, "bool", "CELERY_EVENT_QUEUE_EXCLUSIVE"),
    ("event_queue_durable", False, "bool", "CELERY_EVENT_QUEUE_DURABLE"),
    ("event_serializer", "json", "string", "CELERY_EVENT_SERIALIZER"),
    ("event_exchange", "celeryev", "string", "CELERY_EVENT_EXCHANGE"),
    # redis
    ("redis_backend_use_ssl", None, "dict", "CELERY_REDIS_BACKEND_USE_SSL"),
    ("redis_db", None, "int", "CELERY_REDIS_DB"),
    ("redis_host", None, "string", "CELERY_REDIS_HOST"),
    ("redis_max_connections", None, "int", "CELERY_REDIS_MAX_CONNECTIONS"),
    ("redis_username", None, "string", "CELERY_REDIS_USERNAME"),
    ("redis_password", None, "string", "CELERY_REDIS_PASSWORD"),
    ("redis_port", None, "int", "CELERY_REDIS_PORT"),
    ("redis_socket_timeout", 120.0, "float", "CELERY_REDIS_SOCKET_TIMEOUT"),
    ("redis_socket_connect_timeout", None, "float", "CELERY_REDIS_SOCKET_CONNECT_TIMEOUT"),
    ("redis_retry_on_timeout", False, "bool", "CELERY_REDIS_RETRY_ON_TIMEOUT"),
    ("redis_socket_keepalive", False, "bool", "CELERY_REDIS_SOCKET_KEEPALIVE"),
    # result
    ("result_backend", None, "string", "CELERY_RESULT_BACKEND"),
    ("result_cache_max", -1, "int", "CELERY_MAX_CACHED_RESULTS"),
    ("result_compression", None, "string", "CELERY_RESULT_COMPRESSION"),
    ("result_exchange", "celeryresults", "string", "CELERY_RESULT_EXCHANGE"),
    ("result_exchange_type", "direct", "string", "CELERY_RESULT_EXCHANGE_TYPE"),
    ("result_expires", timedelta(days=1), "float", "CELERY_TASK_RESULT_EXPIRES"),
    ("result_chord_expires", None, "float", "CELERY_RESULT_CHORD_EXPIRES"),
    ("result_failure_expires", None, "float", "CELERY_RESULT_FAILURE_EXPIRES"),
    ("result_persistent", None, "bool", "CELERY_RESULT_PERSISTENT"),
    ("result_extended", False, "bool", "CELERY_RESULT_EXTENDED"),
    ("result_serializer", "json", "string", "CELERY_RESULT_SERIALIZER"),
    ("result_backend_transport_options", {}, "dict", "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS"),
    ("result_chord_retry_interval", 1.0, "float", "CELERY_RESULT_CHORD_RETRY_INTERVAL"),
    ("result_chord_join_timeout", 3.0, "float", "CELERY_RESULT_CHORD_JOIN_TIMEOUT"),
    ("result_backend_max_sleep_between_retries_ms", 10000, "int", "CELERY_RESULT_BACKEND_MAX_SLEEP_BETWEEN_RETRIES_MS"),
    ("result_backend_max_retries", math.inf, "float", "CELERY_RESULT_BACKEND_MAX_RETRIES"),
    ("result_backend_base_sleep_between_retries_ms", 10, "int", "CELERY_RESULT_BACKEND_BASE_SLEEP_BETWEEN_RETRIES_MS"),
    ("result_backend_always_retry", False, "bool", "CELERY_RESULT_BACKEND_ALWAYS_RETRY"),
    # elasticsearch
    ("elasticsearch_retry_on_timeout", None, "bool", "CELERY_ELASTICSEARCH_RETRY_ON_TIMEOUT"),
    ("elasticsearch_max_retries", None, "int", "CELERY_ELASTICSEARCH_MAX_RETRIES"),
    ("elasticsearch_timeout", None, "float", "CELERY_ELASTICSEARCH_TIMEOUT"),
    ("elasticsearch_save_meta_as_text", True, "bool", "CELERY_ELASTICSEARCH_SAVE_META_AS_TEXT"),
    # security
    ("security_certificate", None, "string", "CELERY_SECURITY_CERTIFICATE"),
    ("security_cert_store", None, "string", "CELERY_SECURITY_CERT_STORE"),
    ("security_key", None, "string", "CELERY_SECURITY_KEY"),
    ("security_key_password", None, "bytes", "CELERY_SECURITY_KEY_PASSWORD"),
    ("security_digest", "sha256", "string", "CELERY_SECURITY_DIGEST"),
    # database
    ("database_url", None, "string", "CELERY_RESULT_DBURI"),
    ("database_engine_options", {"pool_pre_ping": True, "pool_recycle": 3600}, "dict", "CELERY_RESULT_ENGINE_OPTIONS"),
    ("database_engine_callback", None, "any"),
    ("database_short_lived_sessions", False, "bool", "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS"),
    ("database_table_schemas", None, "dict"),
    ("database_table_names", None, "dict", "CELERY_RESULT_DB_TABLENAMES"),
    ("database_create_tables_at_setup", True, "bool"),
    # task
    ("task_acks_late", False, "bool", "CELERY_ACKS_LATE"),
    ("task_acks_on_failure_or_timeout", True, "bool", "CELERY_ACKS_ON_FAILURE_OR_TIMEOUT"),
    ("task_acks_on_failure", None, "bool", "CELERY_ACKS_ON_FAILURE"),
    ("task_acks_on_timeout", None, "bool", "CELERY_ACKS_ON_TIMEOUT"),
    ("task_always_eager", False, "bool", "CELERY_ALWAYS_EAGER"),
    ("task_annotations", None, "any", "CELERY_ANNOTATIONS"),
    ("task_compression", None, "string", "CELERY_MESSAGE_COMPRESSION"),
    ("task_create_missing_queues", True, "bool", "CELERY_CREATE_MISSING_QUEUES"),
    ("task_create_missing_queue_type", "classic", "string", "CELERY_CREATE_MISSING_QUEUE_TYPE"),
    ("task_create_missing_queue_exchange_type", None, "string", "CELERY_CREATE_MISSING_QUEUE_EXCHANGE_TYPE"),
    ("task_inherit_parent_priority", False, "bool", "CELERY_INHERIT_PARENT_PRIORITY"),
    ("task_default_delivery_mode", 2, "string", "CELERY_DEFAULT_DELIVERY_MODE"),
    ("task_default_queue", "celery", "string", "CELERY_DEFAULT_QUEUE"),
    ("task_default_queue_type", "classic", "string", "CELERY_DEFAULT_QUEUE_TYPE"),
    ("task_default_exchange", None, "string", "CELERY_DEFAULT_EXCHANGE"),
    ("task_default_exchange_type", "direct", "string", "CELERY_DEFAULT_EXCHANGE_TYPE"),
    ("task_default_routing_key", None, "string", "CELERY_DEFAULT_ROUTING_KEY"),
    ("task_default_rate_limit", None, "string", "CELERY_DEFAULT_RATE_LIMIT"),
    ("task_default_priority", None, "string", "CELERY_DEFAULT_PRIORITY"),
    ("task_eager_propagates", False, "bool", "CELERY_EAGER_PROPAGATES_EXCEPTIONS"),
    ("task_ignore_result", False, "bool", "CELERY_IGNORE_RESULT"),
    ("task_store_eager_result", False, "bool", "CELERY_STORE_EAGER_RESULT"),
    ("task_protocol", 2, "int", "CELERY_TASK_PROTOCOL"),
    ("task_publish_retry", True, "bool", "CELERY_TASK_PUBLISH_RETRY"),
    ("task_publish_retry_policy", DEFAULT_RETRY_POLICY, "dict", "CELERY_TASK_PUBLISH_RETRY_POLICY"),
    ("task_queues", None, "dict", "CELERY_QUEUES"),
    ("task_queue_max_priority", None, "int", "CELERY_QUEUE_MAX_PRIORITY"),
    ("task_reject_on_worker_lost", None, "bool", "CELERY_REJECT_ON_WORKER_LOST"),
    ("task_retry_on_worker_lost", False, "bool", "CELERY_RETRY_ON_WORKER_LOST"),
    ("task_remote_tracebacks", False, "bool", "CELERY_REMOTE_TRACEBACKS"),
    ("task_repr_maxlevels", 3, "int", "CELERY_REPR_MAXLEVELS"),
    ("task_routes", None, "any", "CELERY_ROUTES"),
    ("task_send_sent_event", False, "bool", "CELERY_SEND_TASK_SENT_EVENT"),
    ("task_serializer", "json", "string", "CELERY_TASK_SERIALIZER"),
    ("task_soft_time_limit", None, "float", "CELERYD_TASK_SOFT_TIME_LIMIT"),
    ("task_time_limit", None, "float", "CELERYD_TASK_TIME_LIMIT"),
    ("task_store_errors_even_if_ignored", False, "bool", "CELERY_STORE_ERRORS_EVEN_IF_IGNORED"),
    ("task_track_started", False, "bool", "CELERY_TRACK_STARTED"),
    ("task_allow_error_cb_on_chord_header", False, "bool", "CELERY_ALLOW_ERROR_CB_ON_CHORD_HEADER"),
    # worker
    ("worker_agent", None, "string", "CELERYD_AGENT"),
    ("worker_autoscaler", "celery.worker.autoscale:Autoscaler", "string", "CELERYD_AUTOSCALER"),
    ("worker_cancel_long_running_tasks_on_connection_loss", False, "bool", "CELERYD_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS"),
    ("worker_soft_shutdown_timeout", 0.0, "float", "CELERYD_SOFT_SHUTDOWN_TIMEOUT"),
    ("worker_enable_soft_shutdown_on_idle", False, "bool", "CELERYD_ENABLE_SOFT_SHUTDOWN_ON_IDLE"),
    ("worker_concurrency", None, "any", "CELERYD_CONCURRENCY"),
    ("worker_consumer", "celery.worker.consumer:Consumer", "string", "CELERYD_CONSUMER"),
    ("worker_direct", False, "bool", "CELERY_WORKER_DIRECT"),
    ("worker_disable_rate_limits", False, "bool", "CELERY_DISABLE_RATE_LIMITS"),
    ("worker_deduplicate_successful_tasks", False, "bool", "CELERYD_DEDUPLICATE_SUCCESSFUL_TASKS"),
    ("worker_enable_remote_control", True, "bool", "CELERY_ENABLE_REMOTE_CONTROL"),
    ("worker_hijack_root_logger", True, "bool", "CELERYD_HIJACK_ROOT_LOGGER"),
    ("worker_log_color", None, "bool", "CELERYD_LOG_COLOR"),
    ("worker_log_datefmt", None, "string", "CELERYD_LOG_DATEFMT"),
    ("worker_log_format", DEFAULT_PROCESS_LOG_FMT, "string", "CELERYD_LOG_FORMAT"),
    ("worker_lost_wait", 10.0, "float", "CELERYD_WORKER_LOST_WAIT"),
    ("worker_max_memory_per_child", None, "int", "CELERYD_MAX_MEMORY_PER_CHILD"),
    ("worker_max_tasks_per_child", None, "int", "CELERYD_MAX_TASKS_PER_CHILD"),
    ("worker_pool", "prefork", "string", "CELERYD_POOL"),
    ("worker_pool_putlocks", True, "bool", "CELERYD_POOL_PUTLOCKS"),
    ("worker_pool_restarts", False, "bool", "CELERYD_POOL_RESTARTS"),
    ("worker_pool_start_method", "fork", "string", "CELERYD_POOL_START_METHOD"),
    ("worker_proc_alive_timeout", 4.0, "float", "CELERYD_PROC_ALIVE_TIMEOUT"),
    ("worker_prefetch_multiplier", 4, "int", "CELERYD_PREFETCH_MULTIPLIER"),
    ("worker_eta_task_limit", None, "int", "CELERYD_ETA_TASK_LIMIT"),
    ("worker_enable_prefetch_count_reduction", True, "bool", "CELERYD_ENABLE_PREFETCH_COUNT_REDUCTION"),
    ("worker_disable_prefetch", False, "bool", "CELERYD_DISABLE_PREFETCH"),
    ("worker_redirect_stdouts", True, "bool", "CELERY_REDIRECT_STDOUTS"),
    ("worker_redirect_stdouts_level", "WARNING", "string", "CELERY_REDIRECT_STDOUTS_LEVEL"),
    ("worker_send_task_events", False, "bool", "CELERY_SEND_EVENTS"),
    ("worker_state_db", None, "string", "CELERYD_STATE_DB"),
    ("worker_task_log_datefmt", None, "string", "CELERYD_TASK_LOG_DATEFMT"),
    ("worker_task_log_format", DEFAULT_TASK_LOG_FMT, "string", "CELERYD_TASK_LOG_FORMAT"),
    ("worker_timer", None, "string", "CELERYD_TIMER"),
    ("worker_timer_precision", 1.0, "float", "CELERYD_TIMER_PRECISION"),
    ("worker_detect_quorum_queues", True, "bool", "CELERYD_DETECT_QUORUM_QUEUES"),
)
# fmt: on

SETTINGS = tuple(_Row(*row) for row in _ROWS)

#: The first words of the settings' names that group them.
SECTIONS = (
    "beat", "broker", "cache", "cassandra", "s3", "azureblockblob", "gcs", "control", "couchbase", "arangodb", "mongodb",
    "cosmosdbsql", "event", "redis", "result", "elasticsearch", "security", "database", "task", "worker",
)  # fmt: skip

#: Settings with a deprecation of their own: until when they are accepted, and what replaces them.
DEPRECATED = {"task_acks_on_failure_or_timeout": ("6.0", "7.0", "task_acks_on_failure and task_acks_on_timeout")}


@celery_named
class Option:
    """What a setting is: its default and its type."""

    typemap: Mapping[str, Callable[[Any], Any]] = {
        "string": str,
        "int": int,
        "float": float,
        "any": lambda value: value,
        "bool": strtobool,
        "dict": dict,
        "tuple": tuple,
        "list": list,
        "bytes": bytes,
    }
    alt: str | None = None
    deprecate_by: str | None = None
    remove_by: str | None = None

    def __init__(self, default: Any = None, type: str = "string", old: str = "") -> None:  # noqa: A002 - Celery's signature
        self.default = default
        self.type = type
        self.old = {old.lower()} if old else set()

    def to_python(self, value: Any) -> Any:
        """A value from the command line (``"4"``) as what the setting holds (``4``)."""
        return self.typemap[self.type](value)

    def __repr__(self) -> str:
        return f"<Option: type->{self.type} default->{self.default!r}>"


def _option(row: _Row) -> Option:
    option = Option(row.default, row.type, row.old)
    if row.name in DEPRECATED:
        option.deprecate_by, option.remove_by, option.alt = DEPRECATED[row.name]
    return option


_OPTIONS = {row.name: _option(row) for row in SETTINGS}


def _grouped() -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for name, option in _OPTIONS.items():
        section, _, rest = name.partition("_")
        if section in SECTIONS and name != "result_accept_content":
            groups.setdefault(section, {})[rest] = option
        else:
            groups[name] = option
    return groups


#: Sections with their options, as ``NAMESPACES["task"]["acks_late"]``.
NAMESPACES = _grouped()
DEFAULTS = {row.name: row.default for row in SETTINGS}
_TO_OLD_KEY = {row.name: row.old or row.name.upper() for row in SETTINGS}
_TO_NEW_KEY = {old: new for new, old in _TO_OLD_KEY.items()}
_OLD_DEFAULTS = {_TO_OLD_KEY[name]: default for name, default in DEFAULTS.items()}
SETTING_KEYS = set(DEFAULTS)
_OLD_SETTING_KEYS = set(_TO_NEW_KEY)


@celery_named
class searchresult(NamedTuple):  # noqa: N801 - Celery's public name
    """Where a setting was found. The three parts joined by underscores are its name."""

    namespace: str | None
    key: str
    type: Any


def flatten(d: Mapping[str, Any], root: str = "", keyfilter: Callable[[str, str, Any], Any] | None = None) -> Iterator[Any]:
    """The options of all sections with their full names; ``keyfilter(prefix, key, option)`` says what is given for each."""
    sections: list[tuple[str, Mapping[str, Any]]] = [(root, d)]
    while sections:
        prefix, options = sections.pop(0)
        for key, option in options.items():
            if isinstance(option, dict):
                sections.append((f"{prefix}{key}_", option))
            elif keyfilter is None:
                yield prefix + key, option
            else:
                yield from keyfilter(prefix, key, option)


def find_deprecated_settings(source: Any) -> Any:
    """Warn about the deprecated settings that are used; gives the settings back."""
    from compat_celery.utils import deprecated  # noqa: PLC0415 - only where something is deprecated

    for name, (deprecation, removal, alternative) in DEPRECATED.items():
        if getattr(source, name, None) is not None:
            deprecated.warn(f"The {name!r} setting", deprecation, removal, f"Use the {alternative} instead")
    return source


@cache
def find(name: str, namespace: str = "celery") -> searchresult:
    """Find a setting by its name or the last part of it; the section ``namespace`` is looked at first.

    :raises KeyError: there is none.
    """
    key, section = name.lower(), namespace.lower()
    found = NAMESPACES.get(section)
    if isinstance(found, dict) and key in found:
        return searchresult(section, key, found[key])
    for group, options in NAMESPACES.items():
        if group == key:
            return searchresult(None, group, options)
        if isinstance(options, dict) and key in options:
            return searchresult(group, key, options[key])
    return searchresult(None, key, _OPTIONS[key])
