"""The units that the placement of Q/DQ chooses for, and what may be chosen.

In an inverted residual block (MBConv) `x` is the input, `e` what expansion and activation give, `d` what the depthwise layer
and its activation give, and `m` is `d` times the gate of squeeze-and-excitation, where there is one:

    x -> expand -> act -> e -> depthwise -> act -> d -> (* gate) -> m -> project (-> + x)

A tensor that changes its type inside a block costs a conversion kernel, so a block is the unit. Any other layer, such as
the stem or a Fused-MBConv's convolution, is a unit by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from calibration.layer_graph import Layer, LayerGraph

ACTIVATIONS = ("Clip", "Relu", "LeakyRelu", "HardSwish", "Sigmoid", "HardSigmoid")


@dataclass(frozen=True)
class Form:
    """Which layers of a block are INT8, and whether the identity of its residual Add is."""

    expand: bool
    depthwise: bool  # never without a Q on its output: an INT8 depthwise kernel writes INT8 or FP32
    project: bool
    identity: bool


FORMS = {
    "chain": Form(expand=True, depthwise=True, project=True, identity=True),  # x, e, d and m are INT8
    "pointwise": Form(expand=True, depthwise=False, project=True, identity=True),  # x and m
    "project": Form(expand=False, depthwise=False, project=True, identity=False),  # m
    "fp16": Form(expand=False, depthwise=False, project=False, identity=False),
}


@dataclass(frozen=True)
class Block:
    """An inverted residual block, or one other layer (`project`). Names are the graph's, "" for what is not there."""

    name: str
    project: str
    depthwise: str = ""
    expand: str = ""

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(name for name in (self.expand, self.depthwise, self.project) if name)

    def forms(self) -> tuple[str, ...]:
        """The names of the `FORMS` that differ for this block, the least in FP16 first."""
        if not self.depthwise:
            return ("chain", "fp16")
        return tuple(FORMS) if self.expand else ("chain", "pointwise", "fp16")

    def higher(self, form: str) -> tuple[str, ...]:
        """The layers that stay in higher precision."""
        chosen = FORMS[form]
        wanted = ((self.expand, chosen.expand), (self.depthwise, chosen.depthwise), (self.project, chosen.project))
        return tuple(name for name, int8 in wanted if name and not int8)


def blocks(graph: LayerGraph) -> list[Block]:
    """Every layer that INT8 is a choice for, in the graph's order: as part of its block, or as one by itself."""
    by_output = {layer.output: layer for layer in graph.layers}
    by_input: dict[str, list[Layer]] = {}
    for layer in graph.layers:
        by_input.setdefault(layer.input, []).append(layer)
    found: dict[str, Block] = {}
    for layer in graph.layers:
        if not layer.depthwise or layer.pooled or layer.unfit:
            continue
        users = [user for tensor in _gated(graph, depthwise_end(graph, layer)) for user in by_input.get(tensor, [])]
        project = users[0] if len(users) == 1 and _fit(users[0]) and not users[0].depthwise else None
        if project is None or project.name in found:
            continue
        before = by_output.get(_before_activation(graph, layer.input))
        expand = before if before and _fit(before) and before.kernel == 1 and not before.depthwise else None
        if expand is not None and (by_input[layer.input] != [layer] or expand.name in found):
            expand = None
        name = project.name.rsplit("/project", 1)[0].strip("/") or project.name
        block = Block(name, project.name, layer.name, expand.name if expand else "")
        found.update(dict.fromkeys(block.layers, block))
    for layer in graph.layers:
        if _fit(layer) and not layer.depthwise:
            found.setdefault(layer.name, Block(layer.name, layer.name))
    return list(dict.fromkeys(found[layer.name] for layer in graph.layers if layer.name in found))


def depthwise_end(graph: LayerGraph, layer: Layer) -> str:
    """`d`: what the depthwise `layer` and its activation give."""
    readers = graph.consumers.get(layer.output, [])
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
        return readers[0].output[0]
    products = [node for node in readers if node.op_type == "Mul"]
    gates = [node for node in readers if node.op_type in ("Sigmoid", "HardSigmoid")]
    if len(readers) == 2 and products and gates and gates[0].output[0] in products[0].input:
        return products[0].output[0]
    return layer.output


def higher_precision(units: Iterable[Block], forms: Mapping[str, str]) -> list[str]:
    """The layers that stay in higher precision where `forms` (by block) are chosen; a block without one is in chain."""
    return [name for block in units for name in block.higher(forms.get(block.name, "chain"))]


def _fit(layer: Layer) -> bool:
    return not layer.unfit and not layer.pooled


def _gated(graph: LayerGraph, tensor: str) -> list[str]:
    """`tensor`, and its product with a gate that is one value a channel: what a projection may read."""
    products = [
        node.output[0]
        for node in graph.consumers.get(tensor, [])
        if node.op_type == "Mul" and any(graph.shapes.get(name, ())[2:] == (1, 1) for name in node.input)
    ]
    return [tensor, *products]


def _before_activation(graph: LayerGraph, tensor: str) -> str:
    node = graph.producers.get(tensor)
    if node is None:
        return ""
    if node.op_type in ACTIVATIONS:
        return node.input[0]
    if node.op_type == "Mul":
        sources = {name: graph.producers.get(name) for name in node.input}
        for source in sources.values():
            if source is not None and source.op_type in ("Sigmoid", "HardSigmoid") and source.input[0] in sources:
                return source.input[0]
    return tensor
