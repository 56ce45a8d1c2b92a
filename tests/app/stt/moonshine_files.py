"""A tiny model with random weights in the files of a Moonshine repository, and the same model in NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LAYERS, HEADS, HEAD_SIZE = 2, 2, 3
WIDTH = HEADS * HEAD_SIZE
WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "the",
    "birch",
    "canoe",
    "slid",
    "on",
    "smooth",
    "planks",
    "glue",
    "sheet",
    "dark",
    "blue",
]
START, END, POSITIONS = 1, 2, 24
KERNEL, STRIDE = 127, 384  # of the encoder's convolution, in samples
_CACHE = ["", "", "", ""]  # shapes: those of the two branches differ
_KINDS = [(of, kind) for of in ("decoder", "encoder") for kind in ("key", "value")]

Array = npt.NDArray[np.float32]


class TinyMoonshine:
    """The next token depends on everything that the decoder's cache holds, each tensor through weights of its own."""

    def __init__(self) -> None:
        random = np.random.default_rng(4)  # of whose texts some end early, some by the limit

        def weights(*shape: int) -> Array:
            return random.standard_normal(shape).astype(np.float32)

        self.convolution = weights(WIDTH, 1, KERNEL)
        self.embedding = weights(len(WORDS), WIDTH)
        self.projections = {
            f"{layer}.{of}.{kind}": weights(WIDTH, WIDTH) for layer in range(LAYERS) for of, kind in _KINDS
        }
        self.head = weights(WIDTH, len(WORDS))

    def words(self, waveform: Array, limit: int) -> str:
        """What the model recognises in (samples,), computed without a cache."""
        windows = np.lib.stride_tricks.sliding_window_view(waveform, KERNEL)[::STRIDE]
        encoded = np.tanh(windows @ self.convolution[:, 0].T)  # (frames, width)
        tokens = [START]
        while len(tokens) <= limit:
            said = self.embedding[tokens]
            summed = sum(
                ((said if ".decoder." in name else encoded) @ projection).mean(axis=0)
                for name, projection in self.projections.items()
            )
            token = int((summed @ self.head).argmax())
            if token == END:
                break
            tokens.append(token)
        return " ".join(WORDS[token] for token in tokens[1:] if token > END)

    def write(self, folder: Path, *, masks: bool = False) -> Path:
        """masks: the graphs ask for attention masks too, as some exports do."""
        import onnx
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel

        (folder / "onnx").mkdir(parents=True)
        onnx.save(self._encoder(masks), str(folder / "onnx" / "encoder_model.onnx"))
        onnx.save(self._decoder(masks), str(folder / "onnx" / "decoder_model_merged.onnx"))
        tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=WORDS[0]))
        tokenizer.add_special_tokens(WORDS[: END + 1])
        tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "model_type": "moonshine",
            "hidden_size": WIDTH,
            "decoder_num_hidden_layers": LAYERS,
            "decoder_num_attention_heads": HEADS,
            "decoder_num_key_value_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "decoder_start_token_id": START,
            "eos_token_id": END,
        }
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        return folder

    def _encoder(self, masks: bool) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        nodes = [
            helper.make_node("Unsqueeze", ["input_values", "one"], ["channel"]),
            *(_masked("channel", "attention_mask") if masks else []),
            helper.make_node(
                "Conv", ["channel_masked" if masks else "channel", "convolution"], ["features"], strides=[STRIDE]
            ),
            helper.make_node("Tanh", ["features"], ["bounded"]),
            helper.make_node("Transpose", ["bounded"], ["last_hidden_state"], perm=[0, 2, 1]),
        ]
        constants = {"one": np.array([1]), "convolution": self.convolution}
        graph = helper.make_graph(
            nodes,
            "encoder",
            [
                helper.make_tensor_value_info("input_values", TensorProto.FLOAT, ["batch", "samples"]),
                *([_mask("attention_mask")] if masks else []),
            ],
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "frames", WIDTH])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return _model(graph)

    def _decoder(self, masks: bool) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        past = {name: ["batch", HEADS, "past", HEAD_SIZE] for name in self.projections}
        present = [f"present.{name}" for name in self.projections]
        encoded = "encoder_hidden_states_masked" if masks else "encoder_hidden_states"
        branch = helper.make_node(
            "If",
            ["use_cache_branch"],
            ["logits", *present],
            then_branch=self._branch(encoded, cached=True),
            else_branch=self._branch(encoded, cached=False),
        )
        constants: dict[str, npt.NDArray[Any]] = {
            "embedding": self.embedding,
            "head": self.head,
            "split": np.array([0, 0, HEADS, HEAD_SIZE]),
            "join": np.array([0, 0, WIDTH]),
            "positions": np.array([1]),
            "nothing": np.zeros((0, HEADS, 1, HEAD_SIZE), np.float32),
            **{f"weights.{name}": value for name, value in self.projections.items()},
        }
        graph = helper.make_graph(
            [*(_masked("encoder_hidden_states", "encoder_attention_mask") if masks else []), branch],
            "decoder",
            [
                *([_mask("encoder_attention_mask")] if masks else []),
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
                helper.make_tensor_value_info("encoder_hidden_states", TensorProto.FLOAT, ["batch", "frames", WIDTH]),
                *(
                    helper.make_tensor_value_info(f"past_key_values.{name}", TensorProto.FLOAT, shape)
                    for name, shape in past.items()
                ),
                helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]),
            ],
            [
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, len(WORDS)]),
                *(helper.make_tensor_value_info(name, TensorProto.FLOAT, _CACHE) for name in present),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return _model(graph)

    def _branch(self, encoded: str, *, cached: bool) -> Any:
        """One of the two graphs that a merged decoder has. The one with a cache returns nothing for the encoder's."""
        from onnx import TensorProto, helper

        mark = "cached" if cached else "whole"
        nodes = [helper.make_node("Gather", ["embedding", "input_ids"], [f"{mark}.said"])]
        means, outputs = [], []
        for name in self.projections:
            ours, of_decoder = f"{mark}.{name}", ".decoder." in name
            held = f"{ours}.held"
            if of_decoder or not cached:
                source = f"{mark}.said" if of_decoder else encoded
                nodes += [
                    helper.make_node("MatMul", [source, f"weights.{name}"], [f"{ours}.flat"]),
                    helper.make_node("Reshape", [f"{ours}.flat", "split"], [f"{ours}.heads"]),
                    helper.make_node("Transpose", [f"{ours}.heads"], [f"{ours}.new"], perm=[0, 2, 1, 3]),
                ]
                nodes.append(
                    helper.make_node("Concat", [f"past_key_values.{name}", f"{ours}.new"], [held], axis=2)
                    if cached
                    else helper.make_node("Identity", [f"{ours}.new"], [held])
                )
            else:
                nodes.append(helper.make_node("Identity", [f"past_key_values.{name}"], [held]))
            returned = held if of_decoder or not cached else f"{ours}.none"
            if returned != held:
                nodes.append(helper.make_node("Identity", ["nothing"], [returned]))
            outputs.append(helper.make_tensor_value_info(returned, TensorProto.FLOAT, _CACHE))
            nodes += [
                helper.make_node("Transpose", [held], [f"{ours}.places"], perm=[0, 2, 1, 3]),
                helper.make_node("Reshape", [f"{ours}.places", "join"], [f"{ours}.joined"]),
                helper.make_node("ReduceMean", [f"{ours}.joined", "positions"], [f"{ours}.mean"], keepdims=1),
            ]
            means.append(f"{ours}.mean")
        nodes += [
            helper.make_node("Sum", means, [f"{mark}.summed"]),
            helper.make_node("MatMul", [f"{mark}.summed", "head"], [f"{mark}.logits"]),
        ]
        logits = helper.make_tensor_value_info(f"{mark}.logits", TensorProto.FLOAT, ["batch", 1, len(WORDS)])
        return helper.make_graph(nodes, mark, [], [logits, *outputs])


def _mask(name: str) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "samples"])


def _masked(name: str, mask: str) -> list[Any]:
    """Multiplies a tensor with the share of a mask that is set."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("Cast", [mask], [f"{mask}_numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", [f"{mask}_numbers"], [f"{mask}_share"], keepdims=0),
        helper.make_node("Mul", [name, f"{mask}_share"], [f"{name}_masked"]),
    ]


def _model(graph: Any) -> Any:
    from onnx import checker, helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    checker.check_model(model)
    return model
