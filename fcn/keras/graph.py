"""From a Keras configuration to a graph: who reads whom, and nested models."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from fcn.building import Builder, Parts, Tensor, choose_outputs
from fcn.graph import INPUT
from fcn.keras.files import CONTAINERS, Place, Store, places
from fcn.keras.layers import LAYERS, UNCHANGED, Config, Layer

Key = tuple[str, int, int]  # of a Keras tensor: layer, number of the call, number of the result
ADVICE = {"Lambda": "Lambda holds code, which is not run; use layers"}


def translate(config: Config, store: Store, output: str | None = None) -> Parts:
    """Graph, weights and origins of a model.

    Parameters
    ----------
    config : dict
        Of the file: ``{"class_name": "Functional", "config": {...}}``.
    store : Store
    output : str, optional
        Layer whose result is wanted, where the model has several outputs.

    Raises
    ------
    ValueError
        For a layer, or an option of one, that has no counterpart.
    """
    if config.get("class_name") not in CONTAINERS:
        raise ValueError(
            f"its class is {config.get('class_name')!r}; only Functional and Sequential models "
            "describe their layers, so build yours as one and save that"
        )
    inside = config["config"]
    builder = Builder({name: _image_shape(shape) for name, shape in _inputs(config)})
    results = Scope(builder, store).run(config, builder.inputs)
    ends = {name: results[name] for name in choose_outputs(list(results), output)}
    return builder.graph(str(inside.get("name", "keras")), ends)


def _inputs(model: Config) -> Iterator[tuple[str, Any]]:
    """Name and shape of each input, in the order of the model."""
    config = model["config"]
    settings = {place.name: layer["config"]
                for layer, place in zip(config["layers"], places(config["layers"]), strict=True)
                if layer["class_name"] == "InputLayer"}  # fmt: skip
    names = list(settings)
    if model["class_name"] != "Sequential":
        names = [name for name, _, _ in _ends(config["input_layers"])]
    elif not settings:
        first = config["layers"][0]["config"]
        yield INPUT, config.get("build_input_shape") or first.get("batch_input_shape") or ()
    for name in names:
        yield name, settings[name].get("batch_shape") or settings[name]["batch_input_shape"]


def _image_shape(shape: Any) -> tuple[tuple[int, int] | None, int]:
    """Height and width, if they are fixed, and channels."""
    if len(shape) != 4 or type(shape[3]) is not int:
        raise ValueError(
            f"its input has shape {tuple(shape)}; images are (batch, height, width, channels), "
            "with the number of channels given"
        )
    h, w = shape[1:3]
    return ((int(h), int(w)) if h and w else None), shape[3]


@dataclass(frozen=True)
class Scope:
    """A model, or one that is nested in it: where its nodes and its arrays are."""

    builder: Builder
    store: Store
    trail: tuple[Place, ...] = ()
    prefix: str = ""

    def run(self, model: Config, inputs: list[Tensor]) -> dict[str, Tensor]:
        """Add a model's nodes; its outputs by their names, or those of their layers."""
        config = model["config"]
        layers = list(zip(config["layers"], places(config["layers"]), strict=True))
        if model["class_name"] != "Sequential":
            return self._functional(config, layers, inputs)
        results, name = inputs, ""
        for layer, place in layers:
            (x,), name = results, place.name
            results = self._call(layer, place, [x], 0)
        (x,) = results
        return {name: x}

    def _functional(
        self, config: Config, layers: list[tuple[Config, Place]], inputs: list[Tensor]
    ) -> dict[str, Tensor]:
        """Each call of a layer runs once all that it reads is known."""
        if self.prefix and dict in map(type, (config["input_layers"], config["output_layers"])):
            raise ValueError(f"{self.prefix[:-1]!r} is nested and takes or gives tensors by name; "
                             "use lists")  # fmt: skip
        listed = [
            (layer, place, [list(_keys(call)) for call in layer["inbound_nodes"]])
            for layer, place in layers
        ]
        outputs = _ends(config["output_layers"])
        readers = Counter(key for _, _, reads in listed for keys in reads for key in keys)
        readers.update(outputs)
        # A nested model has been called once when it was built, so those who read count from 1.
        lowest: dict[str, int] = {}
        for name, number, _ in readers:
            lowest[name] = min(number, lowest.get(name, number))
        first = {
            place.name: lowest.get(place.name, 0)
            for layer, place, _ in listed
            if layer["class_name"] in CONTAINERS
        }
        waiting = {
            (place.name, number): (layer, place, keys)
            for layer, place, reads in listed
            for number, keys in enumerate(reads, first.get(place.name, 0))
        }

        def read(x: Tensor, key: Key) -> Tensor:
            """A layer that changes nothing hands on what others may read, too."""
            return replace(x, sole=x.sole and readers[key] == 1)

        known: dict[Key, Tensor] = {}
        for key, x in zip(_ends(config["input_layers"]), inputs, strict=True):
            known[key] = read(x, key)
            waiting.pop(key[:2], None)
        reads = {call: {key[:2] for key in keys} for call, (_, _, keys) in waiting.items()}
        try:
            order = [call for call in TopologicalSorter(reads).static_order() if call in waiting]
        except CycleError as error:
            names = sorted({name for name, _ in error.args[1]})
            raise ValueError(f"the layers {names} wait for each other") from None
        for call in order:
            layer, place, keys = waiting[call]
            if missing := [key[0] for key in keys if key not in known]:
                raise ValueError(f"layer {place.name!r} reads what {missing} do not give")
            number = call[1] - first.get(place.name, 0)
            made = self._call(layer, place, [known[k] for k in keys], number)
            known |= {(*call, i): read(x, (*call, i)) for i, x in enumerate(made)}
        if isinstance(config["output_layers"], dict):
            return dict(zip(config["output_layers"], map(known.__getitem__, outputs), strict=True))
        found: dict[str, Tensor] = {}
        for key in outputs:  # of which one layer may give several
            name, number = key[0], 0
            while name in found:
                number += 1
                name = f"{key[0]}:{number}"
            found[name] = known[key]
        return found

    def _call(self, layer: Config, place: Place, inputs: list[Tensor], number: int) -> list[Tensor]:
        """Add what one call of a layer does; its results, of which only models have several."""
        kind, config, trail = layer["class_name"], layer["config"], (*self.trail, place)
        name = f"{self.prefix}{place.name}" + (f":{number}" if number else "")
        if kind in CONTAINERS:
            inside = Scope(self.builder, self.store, trail, f"{name}/")
            return list(inside.run(layer, inputs).values())
        if kind in UNCHANGED:
            return inputs[:1]
        if kind not in LAYERS:
            near = difflib.get_close_matches(kind, LAYERS, 3, 0.5) or sorted(LAYERS)
            advice = ADVICE.get(kind, f"use {' or '.join(near)}")
            raise ValueError(f"layer {name!r} ({kind}) is not supported; {advice}")
        if ".ops." in str(layer.get("module", "")):
            raise ValueError(f"{name!r} is an operation; use the layer {kind} instead")
        try:
            one = Layer(name, kind, config, trail, self.builder, self.store)
            one.insist("use channels_last", data_format="channels_last")
            if any(t.flat for t in inputs) and kind not in ("Dense", "Flatten"):
                raise ValueError("only Dense reads what Flatten has made")
            made = LAYERS[kind](one, *inputs)
        except (ValueError, KeyError) as error:
            raise ValueError(f"layer {name!r} ({kind}): {error}") from error
        self.builder.computes(made, name)
        return [made]


def _ends(found: Any) -> list[Key]:
    """``input_layers`` or ``output_layers``: one entry, a list of them, or a table."""
    found = list(found.values()) if isinstance(found, dict) else found
    entries = [found] if found and isinstance(found[0], str) else found
    return [(str(name), int(call), int(result)) for name, call, result in entries]


def _keys(found: Any) -> Iterator[Key]:
    """The tensors that a call reads, in order: as Keras 3 writes them, and as Keras 2 did."""
    if isinstance(found, dict):
        if found.get("class_name") == "__keras_tensor__":
            name, call, result = found["config"]["keras_history"]
            yield str(name), int(call), int(result)
            return
        found = [found.get("args", []), found.get("kwargs", {})] if "args" in found else found
        yield from (key for part in _values(found) for key in _keys(part))
    elif isinstance(found, list):
        if len(found) in (3, 4) and isinstance(found[0], str) and type(found[1]) is int:
            yield str(found[0]), found[1], int(found[2])
        else:
            yield from (key for part in found for key in _keys(part))


def _values(found: Any) -> list[Any]:
    return list(found.values()) if isinstance(found, dict) else found
