"""``A >> B``: what a pipeline's results become for others. Comes from: pipeline. Goes to: settle, together with the rows.

Where both keep their rows in one store, results are handed on in the same step as the rows are settled: never lost, never doubled.
Where they do not, they are put first, under keys that say which rows they come from: never lost, and doubled only for ``remember``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jumpstarter.errors import DefinitionError
from jumpstarter.pipelines.batches import Batch
from jumpstarter.pipelines.sources import Join, Source
from jumpstarter.pipelines.stores.port import Part, Put

if TYPE_CHECKING:
    from jumpstarter.pipelines.pipeline import Pipeline


class Links:
    """Where the results of one pipeline go."""

    def __init__(self, name: str, source: Source, targets: Sequence[Source]) -> None:
        self._name = name
        near = [target for target in targets if target.store is source.store]
        self._joins = [target for target in near if isinstance(target, Join)]
        self._queues = [target for target in near if not isinstance(target, Join)]
        self._far = [target for target in targets if target.store is not source.store]

    def puts(self, batch: Batch, results: Any) -> list[Put]:
        """For queues in the same store."""
        return [] if results is None else [Put(target.queue, _rows(target, batch, results)) for target in self._queues]

    def parts(self, results: Any) -> list[Part]:
        """For joins in the same store."""
        return [] if results is None else [part for join in self._joins for part in join.parts_of(self._name, as_list(results))]

    async def hand_over(self, batch: Batch, results: Any) -> None:
        """To what is in another store."""
        if results is None:
            return
        for target in self._far:
            if isinstance(target, Join):
                for part in target.parts_of(self._name, as_list(results)):
                    await target.arrive(part.key, part.name, part.value)
            else:
                await target.put_keyed(_rows(target, batch, results))


def _rows(target: Source, batch: Batch, results: Any) -> list[tuple[str, Any]]:
    values = as_list(results)
    if target.key is not None:
        return list(target.keyed(values))
    keys = batch.keys if len(values) == len(batch.keys) else [f"{batch.id}/{number}" for number in range(len(values))]
    return list(zip(keys, values, strict=True))


def as_list(results: Any) -> list[Any]:
    """Results as rows: a list as it is, anything else as the only one."""
    return list(results) if isinstance(results, list | tuple) else [results]


class Flow:
    """Pipelines that were connected: ``flow = Answer >> Upload``. ``jumpstarter pipeline run module:flow`` runs all of them."""

    def __init__(self, pipelines: Iterable[type[Pipeline]], last: Iterable[type[Pipeline]]) -> None:
        self.pipelines = tuple(dict.fromkeys(pipelines))
        self._last = tuple(last)

    def __and__(self, other: Flow | type[Pipeline]) -> Flow:
        more = other if isinstance(other, Flow) else Flow([other], [other])
        return Flow([*self.pipelines, *more.pipelines], [*self._last, *more._last])

    def __rshift__(self, target: type[Pipeline]) -> Flow:
        for pipeline in self._last:
            connect(pipeline, target)
        return Flow([*self.pipelines, target], [target])


def connect(pipeline: type[Pipeline], target: Any) -> None:
    """Hand the results of the one on to the other.

    :raises DefinitionError: the other takes no rows.
    """
    rows = getattr(target, "rows", None)
    if not isinstance(rows, Source):
        raise DefinitionError(pipeline.__name__, f"{target!r} takes no rows, so nothing can be handed on to it")
    if target not in pipeline.targets:
        pipeline.targets = (*pipeline.targets, target)
