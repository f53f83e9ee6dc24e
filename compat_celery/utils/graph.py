"""Directed graphs of what depends on what, and their drawing in the DOT language. Used by: results, bootsteps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError as _LibraryCycleError
from graphlib import TopologicalSorter
from typing import IO, Any, ClassVar

__all__ = ("DOT", "CycleError", "DependencyGraph", "GraphFormatter")


class DOT:
    """The pieces of the DOT language that drawings are made of."""

    HEAD = "\n{IN}{type} {id} {{\n{INp}graph [{attrs}]\n"
    ATTR = "{name}={value}"
    NODE = '{INp}"{0}" [{attrs}]'
    EDGE = '{INp}"{0}" {dir} "{1}" [{attrs}]'
    ATTRSEP = ", "
    DIRS: ClassVar[dict[str, str]] = {"graph": "--", "digraph": "->"}
    TAIL = "{IN}}}"


class CycleError(Exception):
    """Things that depend on each other in a circle."""


class DependencyGraph:
    """Who depends on whom: ``graph[a]`` lists what ``a`` needs. Nodes keep the order in which they were added.

    :param it: pairs ``(node, [what it needs, …])``.
    """

    def __init__(self, it: Iterable[tuple[Any, Iterable[Any]]] | None = None, formatter: GraphFormatter | None = None) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Any) -> None:
        """Add a node."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: Any, B: Any) -> None:  # noqa: N803 - Celery's parameter names
        """Say that ``A`` needs ``B``. ``A`` must be a node already."""
        self[A].append(B)

    def connect(self, graph: DependencyGraph) -> None:
        """Take over the nodes of another graph."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[Any, Iterable[Any]]]) -> None:
        """Add nodes and what they need."""
        pairs = [(node, list(needed)) for node, needed in it]
        for node, _ in pairs:
            self.add_arc(node)
        for node, needed in pairs:
            for other in needed:
                self.add_edge(node, other)

    def topsort(self) -> list[Any]:
        """The nodes in an order in which each comes after all that it needs.

        :raises CycleError: some of them need each other.
        """
        try:
            return list(TopologicalSorter(self.adjacent).static_order())
        except _LibraryCycleError as exc:
            circle = " needs ".join(repr(node) for node in reversed(exc.args[1]))
            raise CycleError(f"these depend on each other: {circle}") from exc

    def valency_of(self, obj: Any) -> int:
        """How many edges there are below a node; 0 for one that is not in the graph."""
        if obj not in self.adjacent:
            return 0
        return len(self[obj]) + sum(self.valency_of(node) for node in self[obj])

    def edges(self) -> Iterator[Any]:
        """The nodes that need something."""
        return (node for node, needed in self.items() if needed)

    def to_dot(self, fh: IO[str], formatter: GraphFormatter | None = None) -> None:
        """Write the graph in the DOT language to a text file that is open for writing."""
        draw = formatter or self.formatter
        seen: set[Any] = set()

        def emit(text: bytes) -> None:
            print(text.decode(), file=fh)

        def emit_once(node: Any, how: Callable[[Any], bytes]) -> None:
            label = draw.label(node)
            if label not in seen:
                emit(how(node))
                seen.add(label)

        emit(draw.head())
        for node, needed in self.items():
            if not needed:
                emit_once(node, draw.terminal_node)
            for other in needed:
                emit_once(node, draw.node)
                emit(draw.edge(node, other))
        emit(draw.tail())

    def format(self, obj: Any) -> Any:
        """A node as the formatter shows it."""
        return self.formatter(obj) if self.formatter else obj

    def items(self) -> Iterable[tuple[Any, list[Any]]]:
        """Pairs of node and what it needs."""
        return self.adjacent.items()

    iteritems = items

    def repr_node(self, obj: Any, level: int = 1, fmt: str = "{0}({1})") -> str:
        """A node and, indented, what it needs."""
        lines = [fmt.format(obj, self.valency_of(obj))]
        for other in self.adjacent.get(obj, ()):
            lines.append("     " * level + fmt.format(other, self.valency_of(other)))
            lines.extend(self.repr_node(other, level + 1).split("\n")[1:])
        return "\n".join(lines)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: object) -> bool:
        return obj in self.adjacent

    def __repr__(self) -> str:
        return "\n".join(self.repr_node(node) for node in self)


class GraphFormatter:
    """How a graph is drawn. Subclasses change the schemes or override ``label``."""

    scheme: Mapping[str, str] = {"shape": "box", "arrowhead": "vee", "style": "filled", "fontname": "HelveticaNeue"}
    edge_scheme: Mapping[str, str] = {"color": "darkseagreen4", "arrowcolor": "black", "arrowsize": "0.7"}
    node_scheme: Mapping[str, str] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: Mapping[str, str] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: Mapping[str, str] = {"bgcolor": "mintcream"}

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,  # noqa: A002 - Celery's parameter names
        id: str | None = None,  # noqa: A002
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: str,
    ) -> None:
        self.id = id or "dependencies"
        self.root = root
        self.type = type or "digraph"
        self.direction = DOT.DIRS[self.type]
        self.IN = inw * indent
        self.INp = self.IN + inw
        self.scheme = {**self.scheme, **scheme}
        self.graph_scheme = {**self.graph_scheme, "root": self.label(root)}

    def label(self, obj: Any) -> Any:
        """The name of a node."""
        return obj

    __call__ = label

    def attr(self, name: str, value: Any) -> str:
        """One attribute, its value quoted."""
        return DOT.ATTR.format(name=name, value=f'"{value}"')

    def attrs(self, d: Mapping[str, Any] | None, scheme: Mapping[str, Any] | None = None) -> str:
        """Attributes: the general scheme, then ``scheme``, then ``d``."""
        merged = {**self.scheme, **(scheme or {}), **(d or {})}
        return DOT.ATTRSEP.join(self.attr(name, value) for name, value in merged.items())

    def head(self, **attrs: Any) -> bytes:
        """The opening lines."""
        return self.FMT(DOT.HEAD.strip(), id=self.id, type=self.type, attrs=self.attrs(attrs, self.graph_scheme))

    def tail(self) -> bytes:
        """The closing line."""
        return self.FMT(DOT.TAIL)

    def node(self, obj: Any, **attrs: Any) -> bytes:
        """A node that needs others."""
        return self.draw_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> bytes:
        """A node that needs nothing."""
        return self.draw_node(obj, self.term_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> bytes:
        """``a`` needs ``b``."""
        return self.draw_edge(a, b, self.edge_scheme, attrs)

    def draw_edge(self, a: Any, b: Any, scheme: Mapping[str, Any] | None = None, attrs: Mapping[str, Any] | None = None) -> bytes:
        """An edge with this scheme."""
        return self.FMT(DOT.EDGE, self.label(a), self.label(b), dir=self.direction, attrs=self.attrs(attrs, scheme))

    def draw_node(self, obj: Any, scheme: Mapping[str, Any] | None = None, attrs: Mapping[str, Any] | None = None) -> bytes:
        """A node with this scheme."""
        return self.FMT(DOT.NODE, self.label(obj), attrs=self.attrs(attrs, scheme))

    def FMT(self, fmt: str, *args: Any, **kwargs: Any) -> bytes:  # noqa: N802 - Celery's name
        """Fill in a piece of DOT."""
        return fmt.format(*args, **kwargs, IN=self.IN, INp=self.INp).encode("utf-8", "ignore")
