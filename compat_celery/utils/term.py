"""Colours for terminals. Pure."""

from __future__ import annotations

import os
import platform
import sys
from base64 import b64encode
from functools import reduce
from pathlib import Path
from typing import Any

__all__ = ("colored", "imgcat", "supports_images")

BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE = range(8)
OP_SEQ = "\x1b[%dm"
RESET_SEQ = "\x1b[0m"
COLOR_SEQ = "\x1b[1;%dm"

IS_WINDOWS = platform.system() == "Windows"

COLORS = {
    "black": BLACK,
    "red": RED,
    "green": GREEN,
    "yellow": YELLOW,
    "blue": BLUE,
    "magenta": MAGENTA,
    "cyan": CYAN,
    "white": WHITE,
}
CODES = {name: COLOR_SEQ % (30 + number) for name, number in COLORS.items()} | {
    "bold": OP_SEQ % 1,
    "underline": OP_SEQ % 4,
    "blink": OP_SEQ % 5,
    "reverse": OP_SEQ % 7,
    "bright": OP_SEQ % 8,
    **{f"i{name}": OP_SEQ % (40 + number) for name, number in COLORS.items()},
}

#: iTerm's escape for images. tmux and screen pass it on when it is wrapped, its own escapes doubled.
_IN_SCREEN = os.environ.get("TERM", "").startswith("screen")
_IMG_PRE = "\x1bPtmux;\x1b\x1b]" if _IN_SCREEN else "\x1b]"
_IMG_POST = "\a\x1b\\" if _IN_SCREEN else "\a"


def fg(s: int) -> str:
    """The code of a colour for text: ``fg(30 + RED)``."""
    return COLOR_SEQ % s


class colored:  # noqa: N801 - Celery's public name
    """Text with colours: ``colored().red("alarm ", colored().bold("now"))``; ``enabled=False`` leaves the colours out."""

    def __init__(self, *s: Any, enabled: bool = True, op: str = "", **_: Any) -> None:
        self.s = s
        self.enabled = not IS_WINDOWS and enabled
        self.op = op

    @property
    def names(self) -> dict[str, Any]:
        """The methods that colour, by the names of their colours."""
        return {name: getattr(self, name) for name in COLORS}

    def node(self, s: tuple[Any, ...], op: str) -> colored:
        """Text under one code."""
        return type(self)(*s, enabled=self.enabled, op=str(op))

    def __getattr__(self, name: str) -> Any:
        if name not in CODES:
            raise AttributeError(name)
        return lambda *s: self.node(s, CODES[name])

    def reset(self, *s: Any) -> colored:
        """The text, and no colour after it."""
        return self.node(s or ("",), RESET_SEQ)

    def _add(self, a: Any, b: Any) -> str:
        return f"{a}{b}"

    def _fold_no_color(self, a: Any, b: Any) -> str:
        return "".join(part.no_color() if isinstance(part, colored) else str(part) for part in (a, b))

    def no_color(self) -> str:
        """The text alone."""
        return "".join(part.no_color() if isinstance(part, colored) else str(part) for part in self.s)

    def embed(self) -> str:
        """The text with its codes, for use inside another."""
        prefix = self.op if self.enabled else ""
        return reduce(lambda text, part: text + (part.embed() if isinstance(part, colored) else str(part)), self.s, prefix)

    def __add__(self, other: Any) -> str:
        return str(self) + str(other)

    def __str__(self) -> str:
        suffix = RESET_SEQ if self.enabled else ""
        return self.embed() + suffix

    def __repr__(self) -> str:
        return repr(self.no_color())


def supports_images() -> bool:
    """Whether the terminal shows pictures (iTerm does)."""
    return sys.stdin.isatty() and bool(os.environ.get("ITERM_PROFILE"))


def _read_as_base64(path: str) -> str:
    return b64encode(Path(path).read_bytes()).decode("ascii")


def imgcat(path: str, inline: int = 1, preserve_aspect_ratio: int = 0, **_: Any) -> str:
    """What to write to an iTerm so that it shows a picture."""
    options = f"inline={inline};preserveAspectRatio={preserve_aspect_ratio}"
    return f"\n{_IMG_PRE}1337;File={options}:{_read_as_base64(path)}{_IMG_POST}"
