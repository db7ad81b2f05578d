"""A real model folder of a few kilobytes, which knows colours: an image is its colours, a word is the colour that it names.

Other words are a fourth colour that no image has. Vectors and tokens are colours turned into more dimensions by matrices with
orthonormal rows, so cosines are those of the colours themselves. A black image has no direction: its vector is NaN, as from a
network that went wrong.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

SIZE, GRID, DIM, TOKEN_DIM, LIMIT = 16, 2, 6, 8, 12
COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (0.7, 0.7, 0.0),
    "pink": (0.8, 0.3, 0.5),
    "white": (0.6, 0.6, 0.6),
}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *COLOURS, "and", "picture", "##s")
MODEL_TOML = f"""
[backbone]
vocabulary = {len(WORDS)}
dim = {DIM}
[heads]
pooling = "POOLING"
token_dim = {TOKEN_DIM}
[limits]
caption_pieces = {LIMIT}
[image]
size = {SIZE}
grid = {GRID}
[card]
title = "knows six colours"
"""
NORMALISED = """
    {name}_squares = Mul({name}_raw, {name}_raw)
    {name}_sum = ReduceSum<keepdims=1>({name}_squares, last)
    {name}_length = Sqrt({name}_sum)
    {name} = Div({name}_raw, {name}_length)
"""
IMAGE_GRAPH = f"""
<ir_version: 8, opset_import: ["" : 18]>
image (uint8[batch, {SIZE}, {SIZE}, 3] pixels) => (float[batch, {DIM}] vector, float[batch, {GRID**2}, {TOKEN_DIM}] regions) {{
    values = Cast<to=1>(pixels)
    cells = Reshape(values, cell_shape)
    grid = ReduceMean<keepdims=0>(cells, inside_a_cell)
    colours = Reshape(grid, region_shape)
    regions_raw = MatMul(colours, to_tokens)
    {NORMALISED.format(name="regions")}
    colour = ReduceMean<keepdims=0>(colours, one)
    vector_raw = MatMul(colour, to_vector)
    {NORMALISED.format(name="vector")}
}}
"""
TEXT_GRAPH = f"""
<ir_version: 8, opset_import: ["" : 18]>
text (int64[batch, words] pieces, bool[batch, words] mask)
    => (float[batch, {DIM}] vector, float[batch, tokens, {TOKEN_DIM}] words, bool[batch, tokens] word_mask) {{
    colours = Gather<axis=0>(table, pieces)
    after_first = Slice(mask, one, end, one)
    after_second = Slice(mask, two, end, one)
    first = Slice(mask, zero, one, one)
    not_first = Not(first)
    padding = And(first, not_first)
    has_next = Concat<axis=1>(after_second, padding)
    word_mask = And(after_first, has_next)
    inner_colours = Slice(colours, one, end, one)
    words_tilted = Add(inner_colours, tiny)
    words_raw = MatMul(words_tilted, to_tokens)
    {NORMALISED.format(name="words")}
    real = Cast<to=1>(word_mask)
    weights = Unsqueeze(real, last)
    weighted = Mul(inner_colours, weights)
    sum = ReduceSum<keepdims=0>(weighted, one)
    sum_tilted = Add(sum, tiny)
    vector_raw = MatMul(sum_tilted, to_vector)
    {NORMALISED.format(name="vector")}
}}
"""


ENCODER_TOML = """
[preprocessing]
mean = [0.0, 0.0, 0.0]
deviation = [255.0, 255.0, 255.0]
exact = true
PREPROCESSING
[encoder]
family = "clip"
dim = DIM
share = SHARE
"""


def build_tiny_encoder(folder: Path, share: float, preprocessing: str = "", encoder: str = "", masked: bool = True) -> Path:
    """The same network as one that was added: a public encoder, whose vectors are its own.

    `preprocessing` and `encoder` are further lines of these tables. Without a mask the graph takes every piece for a real one.
    """
    build_tiny_model(folder, "MrAVGw")
    settings = folder / "model.toml"
    tables = ENCODER_TOML.replace("DIM", str(DIM)).replace("SHARE", str(share)).replace("PREPROCESSING", preprocessing)
    settings.write_text(settings.read_text() + tables + encoder)
    if not masked:
        model = onnx.load(folder / "text.onnx")
        nodes = [onnx.helper.make_node("GreaterOrEqual", ["pieces", "least"], ["mask"]), *model.graph.node]
        inputs = [value for value in model.graph.input if value.name != "mask"]
        constants = [*model.graph.initializer, onnx.numpy_helper.from_array(np.array(0), "least")]
        graph = onnx.helper.make_graph(nodes, "text", inputs, model.graph.output, constants)
        model.graph.CopyFrom(graph)
        onnx.checker.check_model(model)
        onnx.save(model, folder / "text.onnx")
    return folder


def build_tiny_model(folder: Path, pooling: str = "MrSw", seed: int = 0) -> Path:
    """Write the model folder; another seed gives other matrices, and so another model of the same quality."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    to_tokens, to_vector = (np.linalg.qr(random.normal(size=(n, 4)))[0].T.astype(np.float32) for n in (TOKEN_DIM, DIM))
    shared: dict[str, object] = {"last": [-1], "one": [1]}
    cell = SIZE // GRID
    image = shared | {
        "cell_shape": [-1, GRID, cell, GRID, cell, 3],
        "inside_a_cell": [2, 4],
        "region_shape": [-1, GRID**2, 3],
        "to_tokens": to_tokens[:3],
        "to_vector": to_vector[:3],
    }
    table = np.array([(*COLOURS[word], 0) if word in COLOURS else (0, 0, 0, 1) for word in WORDS], dtype=np.float32)
    text = shared | {"table": table, "to_tokens": to_tokens, "to_vector": to_vector, "tiny": np.array([1e-3], dtype=np.float32)}
    text |= {"zero": [0], "two": [2], "end": [2**31]}
    _write_graph(IMAGE_GRAPH, image, folder / "image.onnx")
    _write_graph(TEXT_GRAPH, text, folder / "text.onnx")
    (folder / "weights.bin").write_bytes(b"")  # graphs as small as these hold their weights themselves
    (folder / "model.toml").write_text(MODEL_TOML.replace("POOLING", pooling))
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _write_graph(text: str, constants: dict[str, object], path: Path) -> None:
    model = onnx.parser.parse_model(text)
    for name, value in constants.items():
        array = np.asarray(value)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)
