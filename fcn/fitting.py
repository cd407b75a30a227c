"""Whether the arrays of a file are those of a graph that is given."""

from collections.abc import Iterable, Mapping

from fcn.graph import Graph

__all__ = ["insist"]

Shapes = Mapping[str, tuple[int, ...]]
MOST = 12  # names that one list in a message shows


def insist(graph: Graph, wanted: Shapes, found: Shapes) -> None:
    """One ValueError that lists every array that is missing, surplus or of another shape."""
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    lists = {
        "missing": wanted.keys() - found.keys(),
        "unexpected": found.keys() - wanted.keys(),
        "of another shape": wrong,
    }
    told = [f"{what}: {_short(names)}" for what, names in lists.items() if names]
    if told:
        raise ValueError(f"its arrays are not those of {graph.name}; {'; '.join(told)}")


def _short(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - MOST} more" if len(listed) > MOST else ""
    return ", ".join(listed[:MOST]) + more
