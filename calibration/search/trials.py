"""Images on which one layer after another is tried in int8, each time through no more of the network than it takes.

What lies before a layer gives the same in every trial of it. So FP32's tensor is kept at the last place before the layer that
everything goes through, and a trial starts there: on the family, trials of all layers take under half the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from calibration.layer_graph import Layer, LayerGraph, chunks, open_session
from calibration.quantise.placement import offset_site


class Trials:
    """`images` [n, 3, side, side] and FP32's logits for them, `reference` [n, classes]. `batches` are the values of `tensor`,
    in the beginning the images themselves."""

    def __init__(self, network: LayerGraph, images: np.ndarray, reference: np.ndarray) -> None:
        self.network, self.reference = network, reference
        self.tensor, self.batches = network.input, list(chunks(images))
        self._cuts = dict(cuts(network))

    def move(self, layer: Layer, threads: int = 0) -> None:
        """On to the last tensor before `layer` that everything goes through. Layers have to come in the graph's order."""
        first = first_changed(self.network, layer)
        tensor = next((self._cuts[at] for at in range(first, 0, -1) if at in self._cuts), self.network.input)
        if tensor == self.tensor:
            return
        session = open_session(part(self.network.to_model(), self.network, self.tensor, tensor), threads)
        for i, batch in enumerate(self.batches):  # in place: both tensors of all images at once would be much
            self.batches[i] = session.run(None, {self.tensor: batch})[0]
        self.tensor = tensor

    def rest(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """`model`, the network with the layer moved to in another form, from `tensor` on."""
        return (
            model if self.tensor == self.network.input else part(model, self.network, self.tensor, self.network.output)
        )


def cuts(network: LayerGraph) -> Iterator[tuple[int, str]]:
    """(n, the one tensor that the nodes from the n-th on take of those before), in order, wherever it is one alone."""
    graph, nodes = network.model.graph, network.model.graph.node
    floats = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    last = {name: i for i, node in enumerate(nodes) for name in node.input}
    last[network.output] = len(nodes)
    live = {network.input}
    for i, node in enumerate(nodes):
        if len(live) == 1 and live <= floats:
            yield i, next(iter(live))
        if not live.isdisjoint(node.input):  # what depends on no image is made anew wherever it is used
            live.update(name for name in node.output if last.get(name, -1) > i)
        live = {name for name in live if last[name] > i}


def first_changed(network: LayerGraph, layer: Layer) -> int:
    """Number of the first node that may be another one once `layer` is quantised: its own, or, for an offset that goes
    through a ReLU6, that of the layer before."""
    site = offset_site(network, layer)
    name = network.producers[site.input[0]].name if site is not None and site.op_type == "Clip" else layer.name
    return next(i for i, node in enumerate(network.model.graph.node) if node.name == name)


def part(model: onnx.ModelProto, network: LayerGraph, start: str, end: str) -> onnx.ModelProto:
    """The nodes of `model`, a form of `network`, between two of its tensors."""
    wanted, nodes = {end}, []
    for node in reversed(model.graph.node):
        if start not in node.output and not wanted.isdisjoint(node.output):
            nodes.append(node)
            wanted.update(node.input)
    graph = onnx.helper.make_graph(
        nodes[::-1],
        model.graph.name,
        [_float(start, network.shapes[start])],
        [_float(end, network.shapes[end])],
        [tensor for tensor in model.graph.initializer if tensor.name in wanted],
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _float(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, ["N", *(size or None for size in shape[1:])]
    )
