"""A vision-language model of a few kilobytes as a real bundle: random weights, every graph true.

The tower cuts 8x8 pixels into 16 patches and projects them; `compress` keeps the patches with the
largest probe; the decoder has two layers of GroupQueryAttention with rotary embedding and a cache
in place. Two of its recipes have what few decoders have: a convolution in front of the layers, and
a prefill in segments. Loaded by the `tiny_vlm` fixture, since test folders are no packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgetok import names
from edgetok.bundle.manifest import (
    KvCache,
    Manifest,
    Precision,
    Prefill,
    RungSpec,
    Stage,
    Tensor,
    Text,
    Vision,
)
from edgetok.bundle.processor import (
    IMAGE_FILE,
    PROMPT_FILE,
    TOKENIZER_FILE,
    ImagePlan,
    PromptPlan,
    Segment,
)
from edgetok.bundle.strict import encode_strict
from edgetok.bundle.writer import BundleWriter

SIDE, PATCHES, PATCH_VALUES, VISION_WIDTH = 8, 16, 12, 12
WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_DIM, MLP = 32, 2, 2, 1, 16, 64
PROMPT_TOKENS, NEW_TOKENS = 40, 8
CHUNK = 8
BUDGETS = (4, 8, 16)
WEIGHTS = "weights/model.bin"
SPECIAL = ("<image>", "<|end|>", "<|start|>", "<pad>")
IMAGE_ID, END_ID, START_ID, PAD_ID = range(4)
VOCABULARY = 256 + len(SPECIAL)

_ONNX = {
    "float32": TensorProto.FLOAT,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


@dataclass(frozen=True)
class Recipe:
    """What may differ between two tiny models; the weights are the same."""

    budgets: Sequence[int] = BUDGETS
    prompt_tokens: int = PROMPT_TOKENS
    shorter: Sequence[int] = ()  # fewer prompt tokens, with prefill graphs of their own
    chunks: Sequence[int] = (CHUNK,)
    slots: int = BUDGETS[-1] + PROMPT_TOKENS + NEW_TOKENS
    int8_cache: bool = False
    stop_ids: Sequence[int] = (END_ID,)
    nan_budget: int | None = None
    nan_tokens: int | None = None  # prompts that run in the graphs of this length have no logits
    pictures: int = 1
    convolution: bool = False  # each row also sees the mean of the two rows before it
    exits: bool = False  # visual rows leave before the second layer, where a signal says so
    towers: bool = False  # each rung has a tower of its own, which sees other features
    step_ids: int = VOCABULARY  # a step on a larger one fails
    seed: int = 0


@dataclass
class _Weights:
    """Tensors of the weights file, in the order in which they are asked for."""

    seed: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def normal(self, name: str, *shape: int, scale: float | None = None) -> TensorProto:
        spread = shape[0] ** -0.5 if scale is None else scale
        generator = np.random.default_rng([self.seed, *name.encode()])
        return self.put(name, spread * generator.standard_normal(shape, dtype=np.float32))

    def put(self, name: str, array: np.ndarray) -> TensorProto:
        if name not in self.arrays:
            self.arrays[name] = array
            self.offsets[name] = self.size
            self.size += -(-array.nbytes // 4096) * 4096
        return self._tensor(name)

    def data(self) -> bytes:
        whole = bytearray(self.size)
        for name, array in self.arrays.items():
            whole[self.offsets[name] : self.offsets[name] + array.nbytes] = array.tobytes()
        return bytes(whole)

    def _tensor(self, name: str) -> TensorProto:
        array = self.arrays[name]
        tensor = TensorProto(name=name, data_type=_ONNX[str(array.dtype)], dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": WEIGHTS, "offset": self.offsets[name], "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


@dataclass
class _Graph:
    """Nodes and tensors of one graph while it is put together."""

    weights: _Weights
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: dict[str, TensorProto] = field(default_factory=dict)

    def node(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        self.tensors[name] = self.weights.normal(name, *shape, scale=scale)
        return name

    def table(self, name: str, array: np.ndarray) -> str:
        self.tensors[name] = self.weights.put(name, np.ascontiguousarray(array))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        dtype = _ONNX[str(array.dtype)]
        self.tensors[name] = helper.make_tensor(name, dtype, array.shape, array.ravel().tolist())
        return name

    def model(self, stage: Stage) -> ModelProto:
        def values(tensors: list[Tensor]) -> list[Any]:
            return [helper.make_tensor_value_info(t.name, _ONNX[t.dtype], t.shape) for t in tensors]

        graph = helper.make_graph(
            self.nodes,
            stage.stage,
            values(stage.inputs),
            values(stage.outputs),
            list(self.tensors.values()),
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write(out: Path, recipe: Recipe | None = None, extra: dict[str, bytes] | None = None) -> Path:
    """Publish a tiny bundle through the real writer."""
    recipe = recipe or Recipe()
    weights = _Weights(recipe.seed)
    made = _graphs(recipe, weights)
    with BundleWriter(out) as writer:
        for stage, model in made:
            writer.write(stage.file, model.SerializeToString(deterministic=True))
        writer.write(WEIGHTS, weights.data())
        writer.write(IMAGE_FILE, encode_strict(image_plan()))
        writer.write(PROMPT_FILE, encode_strict(prompt_plan()))
        writer.write(TOKENIZER_FILE, tokenizer_json())
        for path, data in (extra or {}).items():
            writer.write(path, data)
        writer.publish(_manifest(recipe, [stage for stage, _ in made]))
    return out


def image_plan() -> ImagePlan:
    return ImagePlan(
        resize_shortest_px=SIDE,
        resize_px=None,
        resample="bicubic",
        crop_px=[SIDE, SIDE],
        rescale=1 / 255,
        mean=[0.48145466, 0.4578275, 0.40821073],
        std=[0.26862954, 0.26130258, 0.27577711],
    )


def prompt_plan() -> PromptPlan:
    return PromptPlan(
        segments=[
            Segment(ids=[START_ID]),
            Segment(text="User: "),
            Segment(slot="image"),
            Segment(text="\n"),
            Segment(slot="user"),
            Segment(text="\nAnswer:"),
        ],
        forbidden_ids=[IMAGE_ID, END_ID, START_ID, PAD_ID],
        turn=[
            Segment(ids=[END_ID]),
            Segment(text="User: "),
            Segment(slot="user"),
            Segment(text="\nAnswer:"),
        ],
    )


def tokenizer_json() -> bytes:
    """One id per byte, after the control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer.to_str().encode()


def _graphs(recipe: Recipe, weights: _Weights) -> list[tuple[Stage, ModelProto]]:
    towers = recipe.budgets if recipe.towers else (None,)
    made = [*(_tower(weights, k) for k in towers), _embed(recipe, weights)]
    made += [_compress(recipe, weights, k) for k in recipe.budgets]
    if recipe.exits:
        made += [_first_segment(recipe, weights, k) for k in recipe.budgets]
        made += [_second_segment(recipe, weights, k) for k in (*recipe.budgets, None)]
    else:
        lengths = sorted({*recipe.shorter, recipe.prompt_tokens})
        made += [_prefill(recipe, weights, k, n) for k in recipe.budgets for n in lengths]
    chunks = [_extend(recipe, weights, rows) for rows in recipe.chunks]
    return [*made, *chunks, _decode(recipe, weights)]


def _tower(weights: _Weights, budget: int | None) -> tuple[Stage, ModelProto]:
    stage = _stage(
        "tower",
        budget,
        [_floats(names.PIXELS, 1, 3, SIDE, SIDE)],
        [
            _floats(names.FEATURES, PATCHES, VISION_WIDTH),
            _floats(names.CLS_ATTENTION, PATCHES),
            _floats(names.SIGNAL_ELBOW, 1),
        ],
    )
    graph = _Graph(weights)
    cut = graph.constant("cut", np.array([3, 4, 2, 4, 2], np.int64))
    flat = graph.constant("flat", np.array([PATCHES, PATCH_VALUES], np.int64))
    one = graph.constant("one", np.array([1], np.int64))
    graph.node("Reshape", [names.PIXELS, cut], "blocks")
    graph.node("Transpose", ["blocks"], "patches", perm=[1, 3, 0, 2, 4])
    graph.node("Reshape", ["patches", flat], "rows")
    weight = graph.weight("tower.weight", PATCH_VALUES, VISION_WIDTH)
    graph.node("MatMul", ["rows", weight], "seen" if budget else names.FEATURES)
    if budget:
        scale = graph.constant("scale", np.array([budget], np.float32))
        graph.node("Mul", ["seen", scale], names.FEATURES)
    graph.node("ReduceMean", [names.FEATURES, one], names.CLS_ATTENTION, keepdims=0)
    # How many tokens the image wants: 8 + 4 times its mean pixel.
    graph.node("ReduceMean", ["rows"], "mean", keepdims=0)
    graph.node("Mul", ["mean", graph.constant("four", np.array([4], np.float32))], "scaled")
    graph.node(
        "Add", ["scaled", graph.constant("eight", np.array([8], np.float32))], names.SIGNAL_ELBOW
    )
    return stage, graph.model(stage)


def _compress(recipe: Recipe, weights: _Weights, budget: int) -> tuple[Stage, ModelProto]:
    patches = recipe.pictures * PATCHES
    stage = _stage(
        "compress",
        budget,
        [_floats(names.FEATURES, patches, VISION_WIDTH), _floats(names.CLS_ATTENTION, patches)],
        [
            _floats(names.VISUAL_TOKENS, budget, WIDTH),
            _ids(names.KEPT, budget),
            _floats(names.SIZES, budget),
        ],
    )
    graph = _Graph(weights)
    count = graph.constant("count", np.array([budget], np.int64))
    graph.node("TopK", [names.CLS_ATTENTION, count], "scores", names.KEPT)
    graph.node("Gather", [names.FEATURES, names.KEPT], "rows")
    projector = graph.weight("projector", VISION_WIDTH, WIDTH)
    graph.node("MatMul", ["rows", projector], "projected")
    factor = np.nan if budget == recipe.nan_budget else 1.0
    scale = graph.constant("scale", np.array([factor], np.float32))
    graph.node("Mul", ["projected", scale], names.VISUAL_TOKENS)
    graph.node("Mul", ["scores", graph.constant("nought", np.zeros(1, np.float32))], "zeros")
    graph.node("Add", ["zeros", graph.constant("unit", np.ones(1, np.float32))], names.SIZES)
    return stage, graph.model(stage)


def _embed(recipe: Recipe, weights: _Weights) -> tuple[Stage, ModelProto]:
    rows = recipe.prompt_tokens
    stage = _stage(
        "embed", None, [_ids(names.TOKEN_IDS, rows)], [_floats(names.TEXT_EMBEDS, rows, WIDTH)]
    )
    graph = _Graph(weights)
    table = graph.weight("embeddings", VOCABULARY, WIDTH, scale=1.0)
    graph.node("Gather", [table, names.TOKEN_IDS], names.TEXT_EMBEDS)
    return stage, graph.model(stage)


def _prefill(
    recipe: Recipe, weights: _Weights, budget: int, tokens: int
) -> tuple[Stage, ModelProto]:
    rows = budget + tokens
    inputs = [
        _floats(names.INPUT_EMBEDS, 1, rows, WIDTH),
        _ids(names.LAST_ROW, 1),
        _lengths(names.PAST_LENGTHS),
    ]
    shorter = tokens if tokens < recipe.prompt_tokens else None
    stage = _stage("prefill", budget, inputs + _cache(recipe, "past"), _outputs(recipe), shorter)
    graph = _Graph(weights)
    total = graph.constant("total", np.array([rows], np.int32))
    hidden = _convolve(graph, recipe, names.INPUT_EMBEDS, rows, is_prompt=True)
    hidden = _decoder(graph, recipe, hidden, total)
    if tokens == recipe.nan_tokens:
        nan = graph.constant("nan", np.array(np.nan, np.float32))
        hidden = graph.node("Add", [hidden, nan], "spoilt")
    graph.node("Gather", [hidden, names.LAST_ROW], "last", axis=1)
    _head(graph, "last")
    return stage, graph.model(stage)


def _first_segment(recipe: Recipe, weights: _Weights, budget: int) -> tuple[Stage, ModelProto]:
    """The first layer of a prompt, its rows without visual ones, and whether those shall leave."""
    rows = budget + recipe.prompt_tokens
    inputs = [
        _floats(names.INPUT_EMBEDS, 1, rows, WIDTH),
        _ids(names.LAST_ROW, 1),
        _ids(names.VISUAL_START, 1),
        _lengths(names.PAST_LENGTHS),
    ]
    outputs = [
        _floats(names.rows_before(1), 1, rows, WIDTH),
        _floats(names.text_rows_before(1), 1, recipe.prompt_tokens, WIDTH),
        _floats(names.EXIT_SIGNAL, 1),
    ]
    past, present = (_cache(recipe, side, range(1)) for side in ("past", "present"))
    stage = _stage("prefill", budget, inputs + past, outputs + present)
    graph = _Graph(weights)
    total = graph.constant("total", np.array([rows], np.int32))
    hidden = _decoder(graph, recipe, names.INPUT_EMBEDS, total, layers=range(1))
    graph.node("Identity", [hidden], names.rows_before(1))
    place = graph.constant("place", np.arange(recipe.prompt_tokens))
    behind = graph.constant("behind", np.arange(recipe.prompt_tokens) + budget)
    graph.node("Less", [place, names.VISUAL_START], "before")
    graph.node("Where", ["before", place, behind], "text")
    graph.node("Gather", [hidden, "text"], names.text_rows_before(1), axis=1)
    graph.node("Gather", [hidden, names.VISUAL_START], "best", axis=1)
    axes = graph.constant("axes", np.array([0, 1], np.int64))
    first = graph.constant("first_number", np.array([0], np.int64))
    graph.node("ReduceSum", ["best", axes], "channels", keepdims=0)
    graph.node("Gather", ["channels", first], "channel")
    one = graph.constant("one", np.ones(1, np.float32))  # by which these pictures fall apart
    graph.node("Add", ["channel", one], names.EXIT_SIGNAL)
    return stage, graph.model(stage)


def _second_segment(
    recipe: Recipe, weights: _Weights, budget: int | None
) -> tuple[Stage, ModelProto]:
    """The second layer, with the visual rows of a rung or, for None, without."""
    rows = recipe.prompt_tokens + (budget or 0)
    hidden = names.text_rows_before(1) if budget is None else names.rows_before(1)
    inputs = [
        _floats(hidden, 1, rows, WIDTH),
        _ids(names.LAST_ROW, 1),
        _lengths(names.PAST_LENGTHS),
        *([_ids(names.TEXT_POSITIONS, rows)] if budget is None else []),
    ]
    past, present = (_cache(recipe, side, range(1, 2)) for side in ("past", "present"))
    outputs = [_floats(names.LOGITS, 1, VOCABULARY), *present]
    kind = names.EXITED if budget is None else names.SEGMENT
    stage = msgspec.structs.replace(_stage(kind, budget, inputs + past, outputs), layer=1)
    graph = _Graph(weights)
    positions = ""
    if budget is None:  # a row for each layer, of which the second one is looked up
        shape = graph.constant("two_rows", np.array([LAYERS, rows], np.int64))
        positions = graph.node("Expand", [names.TEXT_POSITIONS, shape], "places")
    total = graph.constant("total", np.array([rows], np.int32))
    hidden = _decoder(graph, recipe, hidden, total, positions, range(1, 2))
    graph.node("Gather", [hidden, names.LAST_ROW], "last", axis=1)
    _head(graph, "last")
    return stage, graph.model(stage)


def _convolve(
    graph: _Graph, recipe: Recipe, rows: str, count: int, *, is_prompt: bool = False
) -> str:
    """Rows [1, count, D] and half of the two before each; of a prompt, nothing is before it."""
    if not recipe.convolution:
        return rows
    before = graph.constant("nothing", np.zeros((1, 2, WIDTH), np.float32))
    if not is_prompt:
        before = graph.node("Transpose", [names.past_convolution(0)], "before", perm=[0, 2, 1])
    graph.node("Concat", [before, rows], "all_rows", axis=1)
    places = graph.constant("places_before", np.arange(count)[:, None] + np.arange(2))
    graph.node("Gather", ["all_rows", places], "pairs", axis=1)
    two = graph.constant("axis_of_pairs", np.array([2], np.int64))
    graph.node("ReduceMean", ["pairs", two], "mixed", keepdims=0)
    last = graph.constant("last_two", np.array([count, count + 1], np.int64))
    if is_prompt:
        last = graph.constant("one_and_two", np.array([1, 2], np.int64))
        last = graph.node("Add", [names.LAST_ROW, last], "true_last_two")
    graph.node("Gather", ["all_rows", last], "remembered", axis=1)
    graph.node("Transpose", ["remembered"], "present_convolution_0", perm=[0, 2, 1])
    return graph.node("Add", [rows, "mixed"], "convolved")


def _extend(recipe: Recipe, weights: _Weights, rows: int) -> tuple[Stage, ModelProto]:
    inputs = [
        _floats(names.CHUNK_EMBEDS, 1, rows, WIDTH),
        _lengths(names.PAST_LENGTHS),
        _ids(names.CHUNK_POSITIONS, LAYERS, rows),
    ]
    past = [*_cache(recipe, "past"), *_memory(recipe, "past")]
    shorter = rows if rows < max(recipe.chunks) else None
    stage = _stage("extend", None, inputs + past, _outputs(recipe), shorter)
    graph = _Graph(weights)
    slots = graph.constant("slots", np.array([recipe.slots], np.int32))
    hidden = _convolve(graph, recipe, names.CHUNK_EMBEDS, rows)
    hidden = _decoder(graph, recipe, hidden, slots, names.CHUNK_POSITIONS)
    last = graph.constant("last_of_chunk", np.array([rows - 1], np.int64))
    graph.node("Gather", [hidden, last], "last", axis=1)
    _head(graph, "last")
    return stage, graph.model(stage)


def _decode(recipe: Recipe, weights: _Weights) -> tuple[Stage, ModelProto]:
    inputs = [
        _ids(names.TOKEN_ID, 1, 1),
        _lengths(names.PAST_LENGTHS),
        _ids(names.POSITIONS, LAYERS, 1),
    ]
    past = [*_cache(recipe, "past"), *_memory(recipe, "past")]
    stage = _stage("decode", None, inputs + past, _outputs(recipe))
    graph = _Graph(weights)
    name = "embeddings" if recipe.step_ids == VOCABULARY else "step_embeddings"
    table = graph.weight(name, recipe.step_ids, WIDTH, scale=1.0)
    graph.node("Gather", [table, names.TOKEN_ID], "embeds")
    slots = graph.constant("slots", np.array([recipe.slots], np.int32))
    hidden = _convolve(graph, recipe, "embeds", 1)
    _head(graph, _decoder(graph, recipe, hidden, slots, names.POSITIONS))
    return stage, graph.model(stage)


def _decoder(
    graph: _Graph,
    recipe: Recipe,
    hidden: str,
    total: str,
    positions: str = "",
    layers: range = range(LAYERS),
) -> str:
    """Layers over [1, rows, D]; the name of their output."""
    angles = np.outer(np.arange(recipe.slots), 100.0 ** -np.linspace(0, 1, HEAD_DIM // 2))
    cos = graph.table("cos", np.cos(angles).astype(np.float32))
    sin = graph.table("sin", np.sin(angles).astype(np.float32))
    for layer in layers:
        row = graph.constant(f"layer{layer}", np.array([layer], np.int64))
        length = graph.node("Gather", [names.PAST_LENGTHS, row], f"length{layer}")
        at = [graph.node("Gather", [positions, row], f"position{layer}")] if positions else [""]
        attended = _attention(graph, recipe, hidden, layer, [length, total, cos, sin, *at])
        hidden = _mlp(graph, attended, layer)
    return hidden


def _attention(graph: _Graph, recipe: Recipe, hidden: str, layer: int, ends: list[str]) -> str:
    at = f"layer{layer}"
    sizes = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
    normed = _norm(graph, hidden, f"{at}.input")
    rows = [
        graph.node(
            "MatMul", [normed, graph.weight(f"{at}.{part}.weight", WIDTH, size)], f"{at}.{part}"
        )
        for part, size in sizes.items()
    ]
    past = [names.past_key(layer), names.past_value(layer)]
    present = [names.present_key(layer), names.present_value(layer)]
    inputs = [*rows, *past, *ends]
    attributes: dict[str, Any] = {}
    if recipe.int8_cache:
        scale = np.full((1, KV_HEADS, 1, HEAD_DIM), 0.03, np.float32)
        inputs += ["", "", graph.table("k_scale", scale), graph.table("v_scale", scale)]
        attributes = {
            "kv_cache_bit_width": 8,
            "k_quant_type": "PER_CHANNEL",
            "v_quant_type": "PER_CHANNEL",
        }
    graph.node(
        "GroupQueryAttention",
        inputs,
        f"{at}.attended",
        *present,
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
        do_rotary=1,
        **attributes,
    )
    weight = graph.weight(f"{at}.o.weight", HEADS * HEAD_DIM, WIDTH)
    graph.node("MatMul", [f"{at}.attended", weight], f"{at}.projected")
    return graph.node("Add", [hidden, f"{at}.projected"], f"{at}.residual")


def _mlp(graph: _Graph, hidden: str, layer: int) -> str:
    at = f"layer{layer}.mlp"
    up = graph.weight(f"{at}.up", WIDTH, MLP)
    down = graph.weight(f"{at}.down", MLP, WIDTH)
    graph.node("MatMul", [_norm(graph, hidden, at), up], f"{at}.wide")
    graph.node("Tanh", [f"{at}.wide"], f"{at}.bent")
    graph.node("MatMul", [f"{at}.bent", down], f"{at}.narrow")
    return graph.node("Add", [hidden, f"{at}.narrow"], f"{at}.output")


def _norm(graph: _Graph, hidden: str, at: str) -> str:
    weight = graph.table("norm", np.ones(WIDTH, np.float32))
    return graph.node("SimplifiedLayerNormalization", [hidden, weight], f"{at}.normed", axis=-1)


def _head(graph: _Graph, hidden: str) -> None:
    """[1, 1, D] to logits [1, W]."""
    one = graph.constant("first", np.array(0, np.int64))
    graph.node("Gather", [_norm(graph, hidden, "head"), one], "row", axis=1)
    weight = graph.weight("head", WIDTH, VOCABULARY, scale=0.3)
    graph.node("MatMul", ["row", weight], names.LOGITS)


def _manifest(recipe: Recipe, stages: list[Stage]) -> Manifest:
    rungs = [
        RungSpec(
            budget=k,
            prompt_tokens=recipe.prompt_tokens,
            cache_slots=min(recipe.slots, k + recipe.prompt_tokens + NEW_TOKENS),
            removed=[0] * LAYERS,
        )
        for k in recipe.budgets
    ]
    return Manifest(
        format_version=1,
        producer="edgetok tests",
        family="tiny",
        method="topk",
        seed=recipe.seed,
        ladder=rungs,
        precision=Precision(weights="fp32", kv="int8" if recipe.int8_cache else "fp32"),
        prefill=Prefill(
            method="leave" if recipe.exits else "none", ratio=1.0, exits=[1] * recipe.exits
        ),
        kv=KvCache(
            layers=LAYERS,
            kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            slots=[recipe.slots] * LAYERS,
            policy="none",
            positions="kept",
            reuse="append" if recipe.convolution or recipe.exits else "rewind",
            extends=True,
        ),
        text=Text(
            hidden=WIDTH,
            vocabulary=VOCABULARY,
            max_positions=recipe.slots,
            stop_ids=list(recipe.stop_ids),
            pad_id=PAD_ID,
        ),
        vision=Vision(
            height_px=SIDE,
            width_px=SIDE,
            grid=[4, 4],
            full_tokens=recipe.pictures * PATCHES,
            pictures=recipe.pictures,
        ),
        stages=stages,
        files={},
    )


def _stage(
    name: str,
    rung: int | None,
    inputs: list[Tensor],
    outputs: list[Tensor],
    shorter: int | None = None,
) -> Stage:
    suffix = "".join(f"_{part}" for part in (rung, shorter) if part is not None)
    return Stage(
        stage=name,
        budget=rung,
        flavour="ort",
        file=f"onnx/ort/{name}{suffix}.onnx",
        inputs=inputs,
        outputs=outputs,
    )


def _cache(recipe: Recipe, side: str, layers: range = range(LAYERS)) -> list[Tensor]:
    dtype = "int8" if recipe.int8_cache else "float32"
    shape = [1, KV_HEADS, recipe.slots, HEAD_DIM]
    return [
        Tensor(name=f"{side}_{part}_{layer}", dtype=dtype, shape=shape)
        for layer in layers
        for part in ("key", "value")
    ]


def _memory(recipe: Recipe, side: str) -> list[Tensor]:
    return [_floats(f"{side}_convolution_0", 1, WIDTH, 2)] if recipe.convolution else []


def _outputs(recipe: Recipe) -> list[Tensor]:
    kept = [*_cache(recipe, "present"), *_memory(recipe, "present")]
    return [_floats(names.LOGITS, 1, VOCABULARY), *kept]


def _floats(name: str, *shape: int) -> Tensor:
    return Tensor(name=name, dtype="float32", shape=list(shape))


def _ids(name: str, *shape: int) -> Tensor:
    return Tensor(name=name, dtype="int64", shape=list(shape))


def _lengths(name: str) -> Tensor:
    return Tensor(name=name, dtype="int32", shape=[LAYERS])
