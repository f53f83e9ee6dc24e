"""An app's settings object, bug reports, and how apps pickle. Comes from: app.base. Goes to: defaults, the user's configuration."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from compat_celery._names import celery_named
from compat_celery.app.defaults import (
    _OLD_DEFAULTS,
    _OLD_SETTING_KEYS,
    _TO_NEW_KEY,
    _TO_OLD_KEY,
    DEFAULTS,
    SETTING_KEYS,
    find,
    searchresult,
)
from compat_celery.exceptions import ImproperlyConfigured
from compat_celery.utils.collections import ConfigurationView
from compat_celery.utils.imports import import_from_cwd, qualname, symbol_by_name
from compat_celery.utils.text import pretty

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = (
    "AppPickler",
    "Settings",
    "appstr",
    "bugreport",
    "detect_settings",
    "filter_hidden_settings",
    "find_app",
    "sanitize_url",
)

HIDDEN_SETTINGS = re.compile("API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI", re.IGNORECASE)
MASK = "*" * 8


def appstr(app: Any) -> str:
    """The app for people: its main module and address."""
    return f"{app.main or '__main__'} at {id(app):#x}"


@celery_named
class Settings(ConfigurationView):
    """An app's settings: by attribute or item, by new names or old."""

    deprecated_settings: set[str] | None

    def __init__(self, *args: Any, deprecated_settings: set[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__["deprecated_settings"] = deprecated_settings

    # Settings that more than one place may say.

    @property
    def broker_read_url(self) -> Any:
        """Where workers read."""
        return os.environ.get("CELERY_BROKER_READ_URL") or self.get("broker_read_url") or self.broker_url

    @property
    def broker_write_url(self) -> Any:
        """Where clients write."""
        return os.environ.get("CELERY_BROKER_WRITE_URL") or self.get("broker_write_url") or self.broker_url

    @property
    def broker_url(self) -> Any:
        """The broker, or None when nothing names one (the embedded one is used then)."""
        return os.environ.get("CELERY_BROKER_URL") or self.first("broker_url", "broker_host")

    @property
    def result_backend(self) -> Any:
        """The store of results, or None."""
        return os.environ.get("CELERY_RESULT_BACKEND") or self.first("result_backend", "CELERY_RESULT_BACKEND")

    @property
    def task_default_exchange(self) -> Any:
        """The exchange of the default queue."""
        return self.first("task_default_exchange", "task_default_queue")

    @property
    def task_default_routing_key(self) -> Any:
        """The routing key of the default queue."""
        return self.first("task_default_routing_key", "task_default_queue")

    @property
    def timezone(self) -> Any:
        """The time zone; Django's ``TIME_ZONE`` does too."""
        return self.first("timezone", "TIME_ZONE")

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "deprecated_settings":
            self.__dict__[key] = value
        else:
            self[key] = value

    def copy(self) -> Settings:
        """The same settings with changes of their own."""
        self.finalize()
        copied = type(self)(self.changes.copy(), self.defaults, self._keys, self.prefix)
        copied.__dict__.update(key_t=self.key_t, deprecated_settings=self.deprecated_settings)
        return copied

    def __copy__(self) -> Settings:
        return self.copy()

    def without_defaults(self) -> Settings:
        """What was configured, without what is so by default."""
        # The last of the maps holds the defaults.
        return Settings({}, self.maps[:-1])

    def value_set_for(self, key: str) -> bool:
        """Whether the setting was configured, under any of its names."""
        self.finalize()
        return key in Settings({}, self.maps[:-1], self._keys, self.prefix)

    def find_option(self, name: str, namespace: str = "") -> searchresult:
        """Section, key and option of a setting.

        :raises KeyError: there is none of that name.
        """
        return find(name, namespace)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """The value of the setting that :meth:`find_option` finds."""
        return self.get_by_parts(*self.find_option(name, namespace)[:-1])

    def get_by_parts(self, *parts: str | None) -> Any:
        """The value of the setting whose name has these parts: ``("worker", "concurrency")``."""
        return self["_".join(part for part in parts if part)]

    def finalize(self) -> Settings:
        """Read the configuration now, if that has not happened yet."""
        # Any look-up does it (see PendingConfiguration in app.base).
        self.get("__bogus__")
        return self

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """The settings as a dict, secrets masked."""
        self.finalize()
        settings = self if with_defaults else self.without_defaults()
        members = set(dir(dict))
        shown = {key: value for key, value in settings.items() if not key.startswith("_") and key not in members}
        return filter_hidden_settings(shown) if censored else shown

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """The settings for people, one in a line, secrets masked."""
        return "\n".join(f"{key}: {pretty(value, width=50)}" for key, value in self.table(with_defaults, censored).items())

    def maybe_warn_deprecated_settings(self) -> bool:
        """Warn about settings that have their names of Celery 3; answers whether there are any."""
        from compat_celery.utils import deprecated  # noqa: PLC0415 - only where something is deprecated

        for name in self.deprecated_settings or ():
            deprecated.warn(f"The {name!r} setting", removal="6.0.0", alternative=f"Use the {_TO_NEW_KEY[name]} instead")
        return bool(self.deprecated_settings)


def _new_key_to_old(key: str, convert: Callable[[str, str], str] = _TO_OLD_KEY.get) -> str:
    return convert(key, key)


def _old_key_to_new(key: str, convert: Callable[[str, str], str] = _TO_NEW_KEY.get) -> str:
    return convert(key, key)


class _Style(NamedTuple):
    """One of the two ways to name settings."""

    defaults: dict[str, Any]
    convert: dict[str, str]
    complaint: str


_NEW_STYLE = _Style(
    DEFAULTS, _TO_NEW_KEY, "Cannot mix new and old setting keys, please rename the following settings to the new format:"
)
_OLD_STYLE = _Style(
    _OLD_DEFAULTS,
    _TO_OLD_KEY,
    "Cannot mix new setting names with old setting names, please rename the following settings to use the old format "
    "(or change all of the settings to use the new format):",
)


def detect_settings(
    conf: Any,
    preconf: Mapping[str, Any] | None = None,
    ignore_keys: set[str] | None = None,
    prefix: str | None = None,
    all_keys: set[str] | None = None,
    old_keys: set[str] | None = None,
) -> Settings:
    """The settings object for what was configured; finds out which of the two styles of names is used.

    :param conf: the user's configuration, or None.
    :param preconf: what the app was given directly.
    :param ignore_keys: of these, what does not tell the style.
    :raises ImproperlyConfigured: names of both styles are used. The error lists them.
    """
    preconf = preconf or {}
    source, conf = (preconf, {}) if conf is None else (conf, conf)
    have = set(source.keys()) - (ignore_keys or set())
    new, old = have & (all_keys or SETTING_KEYS), have & (old_keys or _OLD_SETTING_KEYS)
    # With a prefix everything looks old (Django's CELERY_…); it is always the new style then.
    uses_old = bool(old) and len(old) > len(new) and not prefix
    style, strangers = (_OLD_STYLE, new) if uses_old else (_NEW_STYLE, set() if prefix else old)
    # Who gives a setting under both of its names supports several versions of Celery.
    mixed = sorted(key for key in strangers if style.convert[key] not in have)
    if mixed:
        renames = "\n".join(f"{key:<36} -> {style.convert[key]}" for key in mixed)
        raise ImproperlyConfigured(f"{style.complaint}\n\n{renames}\n")
    return Settings(
        {style.convert.get(key, key): value for key, value in preconf.items()},
        [conf, deepcopy(style.defaults)],
        (_old_key_to_new, _new_key_to_old),
        deprecated_settings=old,
        prefix=prefix,
    )


@celery_named
class AppPickler:
    """How apps of classes with a ``__reduce_args__`` of their own are unpickled."""

    def __call__(self, cls: Any, *args: Any) -> Any:
        kwargs = self.build_kwargs(*args)
        app = self.construct(cls, **kwargs)
        self.prepare(app, **kwargs)
        return app

    def prepare(self, app: Any, **kwargs: Any) -> None:
        """Give the app what was configured."""
        app.conf.update(kwargs["changes"])

    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        """The app's keyword arguments from the pickled positional ones."""
        return self.build_standard_kwargs(*args)

    def build_standard_kwargs(self, *args: Any) -> dict[str, Any]:
        """As Celery's own apps pickle."""
        names = ("main", "changes", "loader", "backend", "amqp", "events", "log", "control", "accept_magic_kwargs")
        named = dict(zip((*names, "config_source", "config_source_silent"), args, strict=False))
        named.pop("accept_magic_kwargs", None)
        return {"config_source": None, "config_source_silent": False, **named, "set_as_current": False}

    def construct(self, cls: Any, **kwargs: Any) -> Any:
        """Make the app."""
        return cls(**kwargs)


def _unpickle_app(cls: Any, pickler: Any, *args: Any) -> Any:
    return pickler()(cls, *args)


def _unpickle_app_v2(cls: Any, kwargs: dict[str, Any]) -> Any:
    return cls(**{**kwargs, "set_as_current": False})


for _function in (_unpickle_app, _unpickle_app_v2):
    _function.__module__ = "celery.app.utils"  # peers unpickle apps by these


def sanitize_url(url: Any, mask: str = MASK) -> Any:
    """The URL without its password; several URLs joined by ``;`` each without its own. Anything but a string is given back.

    What cannot be understood but may hold a password is not shown at all.
    """
    if not isinstance(url, str) or "://" not in url:
        return url
    parts = [part.strip() for part in url.split(";")]
    if len(parts) > 1 and all("://" in part for part in parts):
        return ";".join(sanitize_url(part, mask) for part in parts)
    scheme, _, rest = url.partition("://")
    if scheme == "azureblockblob":
        return f"{scheme}://{_mask_azure(rest, mask)}"
    authority, tail = re.match(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr] # it matches anything
    if "@" not in authority:
        # A password with a slash in it ends up in the tail.
        return f"{scheme}://{mask}" if "@" in tail.partition("?")[0] and ":" in authority else url
    return f"{scheme}://{_mask_authority(authority, mask)}{tail}"


HOST = re.compile(r"[\w.\-\[\]]+(:\d+)?\Z")


def _mask_authority(authority: str, mask: str) -> str:
    """``user:password@host`` without the password; also several of them, joined by ``;`` or ``,``."""
    for separator in (";", ","):
        parts = [part.strip() for part in authority.split(separator) if part.strip()]
        # A password may contain the separator: it is one only where each part is an address by itself, and the first has a user.
        if len(parts) > 1 and "@" in parts[0] and all(HOST.match(part.rpartition("@")[2]) for part in parts):
            users = [part.rpartition("@")[0] for part in parts if "@" in part]
            if all(":" in user for user in users):
                return separator.join(_mask_user(part, mask) for part in parts)
    return _mask_user(authority, mask)


def _mask_user(address: str, mask: str) -> str:
    user, found, host = address.rpartition("@")
    if not found:
        return address
    name, colon, _ = user.partition(":")
    # "user@password@host", without a colon: nothing before the last @ is certain to be harmless.
    if not colon and "@" in user:
        return f"{mask}@{host}"
    return f"{name}{colon}{mask if colon else ''}@{host}"


def _mask_azure(connection: str, mask: str) -> str:
    def masked(part: str) -> str:
        key, found, value = part.partition("=")
        if found and key.strip().lower() in {"accountkey", "sharedaccesssignature"}:
            return f"{key}={mask}"
        return key + found + re.sub(r"([?&]sig=)[^&;#]*", rf"\g<1>{mask}", value, flags=re.IGNORECASE)

    return ";".join(map(masked, connection.split(";")))


def filter_hidden_settings(conf: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with secrets masked."""
    return {key: _censored(key, value) for key, value in conf.items()}


def _censored(key: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return filter_hidden_settings(value)
    if not isinstance(key, str):
        return value
    if HIDDEN_SETTINGS.search(key):
        return MASK
    if key.lower() in {"broker_url", "broker_read_url", "broker_write_url"} or "backend" in key.lower():
        return [sanitize_url(item) for item in value] if isinstance(value, list | tuple) else sanitize_url(value)
    return value


def bugreport(app: Any) -> str:
    """Versions, platform and settings (secrets masked) for a report of a bug."""
    import billiard  # noqa: PLC0415 - for its version
    import kombu  # noqa: PLC0415 - as above

    import compat_celery  # noqa: PLC0415 - as above

    transport = urlsplit(str(app.broker_url())).scheme
    results = sanitize_url(app.conf.result_backend or "disabled")
    return f"""
software -> celery:{compat_celery.VERSION_BANNER} kombu:{kombu.__version__} py:{platform.python_version()}
            billiard:{billiard.__version__}
platform -> system:{platform.system()} arch:{", ".join(filter(None, platform.architecture()))}
            kernel version:{platform.release()} imp:{platform.python_implementation()}
loader   -> {qualname(type(app.loader))}
settings -> transport:{transport} results:{results}

{app.conf.humanize()}
"""


def find_app(
    app: Any,
    symbol_by_name: Callable[..., Any] = symbol_by_name,
    imp: Callable[..., Any] = import_from_cwd,
) -> Celery:
    """The app that ``-A`` names: ``module:attribute``; or a module's ``app``, ``celery``, ``celery`` sub-module, or any app in it.

    :raises ImportError: there is no such module.
    :raises AttributeError: there is no app in it.
    """
    from compat_celery.app.base import Celery  # noqa: PLC0415 - it imports this module

    try:
        found = symbol_by_name(app, imp=imp)
    except AttributeError:
        # "pkg.module", of which the last part is a module, not an attribute.
        found = imp(app)
    if isinstance(found, ModuleType) and ":" not in str(app):
        found = _app_in(found, symbol_by_name, imp, Celery)
    return found  # type: ignore[no-any-return] # an app, or something that passes for one


def _app_in(module: ModuleType, symbol_by_name: Callable[..., Any], imp: Callable[..., Any], kind: type) -> Any:
    for attribute in ("app", "celery"):
        found = getattr(module, attribute, None)
        if found is not None and not isinstance(found, ModuleType):
            return found
    if hasattr(module, "__path__"):
        try:
            return find_app(f"{module.__name__}.celery", symbol_by_name=symbol_by_name, imp=imp)
        except ImportError as error:
            if error.name != f"{module.__name__}.celery":
                raise  # the sub-module is there, and what it imports is not
    for candidate in vars(module).values():
        if isinstance(candidate, kind):
            return candidate
    raise AttributeError(
        f"module {module.__name__!r} has no app: give it an attribute 'app' or 'celery', or say -A module:attribute"
    )
