"""ONNX graphs made small: weights in int8 or fp16, in the one matrices multiplied in int8 too, and each weight stored once."""

import copy
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

WEIGHTS = "weights.bin"
MIN_QUANTIZED_BYTES = 16384  # smaller weights stay as they are
MIN_SHARED_BYTES = 1024  # smaller weights stay in their graph
ALIGNMENT = 64  # bytes; a line of the processor's cache
# For each operation: which input is the weight, and along which axis its int8 form has scales. The exporter writes a linear
# layer as MatMul by in x out, or as Gemm by out x in.
SCALED_AXIS = {"MatMul": (1, 1), "Gemm": (1, 0), "Gather": (0, 0), "Conv": (1, 0)}
# Each row has a scale of its own, found anew: it then depends on nothing beside it, and a row of large values costs the others
# nothing. Sums of integers are exact, so they are the same on every processor.
ROW_PRODUCT = onnx.parser.parse_function("""
<domain: "aladin", opset_import: ["" : 20]>
RowProduct (rows, weight, scale, zero) => (product) {
    last = Constant <value_ints = [-1]> ()
    highest = Constant <value_float = 255.0> ()
    half = Constant <value_float = 0.5> ()
    middle = Cast <to = 1> (zero)
    above = Sub (highest, middle)
    below = Neg (middle)
    largest = ReduceMax (rows, last)
    smallest = ReduceMin (rows, last)
    upward = Div (largest, above)
    downward = Div (smallest, below)
    step = Max (upward, downward)
    steps = Div (rows, step)
    offset = Add (middle, half)
    shifted = Add (steps, offset)
    integers = Cast <to = 2> (shifted)
    sums = MatMulInteger (integers, weight, zero)
    whole = Cast <to = 1> (sums)
    columns = Mul (whole, scale)
    product = Mul (columns, step)
}
""")
# From 0 to a weight's largest value. Not 127: lite went on from weights that stood on such steps exactly, and what it learned
# since is mostly less than half a step, so rounding to the same steps would take it back (3 of rsum; docs/experiments.md).
STEPS = 116
CONVOLUTION_STEPS = 127  # as many as there are: trained on, they were still fp16, not on any steps
ZERO = 128  # the integer that stands for 0 where values have both signs
ZERO_AFTER = {"Gelu": 20}  # after an operation whose output lies mostly above 0


def quantized(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Matrices, convolutions and embeddings stored as int8 with a scale for each output (or row of an embedding).

    A MatMul multiplies integers: every row of its input is rounded to 255 steps. The rest is computed in fp32: ONNX Runtime
    turns those weights back once, when it loads the graph.
    """
    result = copy.deepcopy(graph)
    weights = {tensor.name: tensor for tensor in result.graph.initializer if _is_large(tensor)}
    makers = {output: node.op_type for node in graph.graph.node for output in node.output}
    stored: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        position, kept_axis = SCALED_AXIS.get(node.op_type, (0, 0))
        name = node.input[position] if node.op_type in SCALED_AXIS else ""
        if name in weights and name not in stored:
            result.graph.initializer.remove(weights[name])
            steps = CONVOLUTION_STEPS if node.op_type == "Conv" else STEPS
            result.graph.initializer.extend(_scaled(weights[name], kept_axis, steps))
            stored.add(name)
            if node.op_type in ("Gemm", "Conv"):
                nodes += _restored(name, name, scaled=True)
        if node.op_type == "Gather" and name in stored:
            nodes += _restored_rows(node, scaled=True)
        elif node.op_type == "MatMul" and name in stored:
            nodes.append(_row_product(node, ZERO_AFTER.get(makers.get(node.input[0], ""), ZERO)))
        else:
            nodes.append(node)
    result.graph.ClearField("node")
    result.graph.node.extend(nodes)
    for zero in {ZERO, *ZERO_AFTER.values()}:
        result.graph.initializer.append(onnx.numpy_helper.from_array(np.array(zero, dtype=np.uint8), f"zero.{zero}"))
    result.functions.append(ROW_PRODUCT)
    result.opset_import.append(onnx.helper.make_opsetid(ROW_PRODUCT.domain, 1))
    return result


def halved(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Large weights stored as fp16. All is computed in fp32: ONNX Runtime turns them back once, when it loads the graph."""
    result = copy.deepcopy(graph)
    weights = {tensor.name: tensor for tensor in result.graph.initializer if _is_large(tensor)}
    for weight in weights.values():
        result.graph.initializer.remove(weight)
        half = onnx.numpy_helper.to_array(weight).astype(np.float16)
        result.graph.initializer.append(onnx.numpy_helper.from_array(half, f"{weight.name}.small"))
    restored: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        if node.op_type == "Gather" and node.input[0] in weights:
            nodes += _restored_rows(node, scaled=False)
            continue
        for name in (name for name in node.input if name in weights and name not in restored):
            nodes += _restored(name, name, scaled=False)
            restored.add(name)
        nodes.append(node)
    result.graph.ClearField("node")
    result.graph.node.extend(nodes)
    return result


def _is_large(tensor: onnx.TensorProto) -> bool:
    many = len(tensor.raw_data) >= MIN_QUANTIZED_BYTES
    return many and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2


def _scaled(tensor: onnx.TensorProto, kept_axis: int, steps: int) -> list[onnx.TensorProto]:
    """What is stored instead of a weight: int8 with a scale for each place along `kept_axis`, its largest value at `steps`."""
    values = onnx.numpy_helper.to_array(tensor)
    others = tuple(axis for axis in range(values.ndim) if axis != kept_axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    if kept_axis == 1:
        largest = np.maximum(largest, _largest_pair(values))
    scales = largest / np.float32(steps)
    integers = np.rint(values / np.where(scales > 0, scales, np.float32(1))).astype(np.int8)
    parts = {"small": integers, "scale": scales}
    return [onnx.numpy_helper.from_array(array, f"{tensor.name}.{part}") for part, array in parts.items()]


def _largest_pair(columns: np.ndarray) -> np.ndarray:
    """The largest sum of two neighbours in each column.

    Processors without VNNI add two products of 8 bits in 16 bits. That overflows unless two neighbours together stay within
    128, since 255 x 128 is just below 2^15.
    """
    padded = np.pad(columns, ((0, len(columns) % 2), (0, 0)))
    largest: np.ndarray = np.abs(padded[0::2] + padded[1::2]).max(axis=0, keepdims=True)
    return largest


def _row_product(matmul: onnx.NodeProto, zero: int) -> onnx.NodeProto:
    rows, weight = matmul.input
    inputs = [rows, f"{weight}.small", f"{weight}.scale", f"zero.{zero}"]
    return onnx.helper.make_node(ROW_PRODUCT.name, inputs, list(matmul.output), domain=ROW_PRODUCT.domain)


def _restored(name: str, output: str, scaled: bool) -> list[onnx.NodeProto]:
    """The nodes that make `output` of the stored form of `name`."""
    if not scaled:
        return [onnx.helper.make_node("Cast", [f"{name}.small"], [output], to=onnx.TensorProto.FLOAT)]
    cast = onnx.helper.make_node("Cast", [f"{name}.small"], [f"{output}.whole"], to=onnx.TensorProto.FLOAT)
    return [cast, onnx.helper.make_node("Mul", [f"{output}.whole", f"{name}.scale"], [output])]


def _restored_rows(gather: onnx.NodeProto, scaled: bool) -> list[onnx.NodeProto]:
    """Rows of an embedding restored after they were looked up: restoring all of it would take longer than a search."""
    table, rows = gather.input
    output = gather.output[0]
    parts = ("small", "scale") if scaled else ("small",)
    looked_up = [onnx.helper.make_node("Gather", [f"{table}.{part}", rows], [f"{output}.{part}"], axis=0) for part in parts]
    return looked_up + _restored(output, output, scaled)


def write_graphs(graphs: dict[str, onnx.ModelProto], folder: Path) -> None:
    """Each graph as `folder`/name, all their large weights once in weights.bin: text and images share a transformer."""
    written: dict[bytes, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for graph in graphs.values():
            for tensor in graph.graph.initializer:
                if len(tensor.raw_data) >= MIN_SHARED_BYTES:
                    key = hashlib.sha256(tensor.raw_data).digest()
                    if key not in written:
                        file.write(bytes(-file.tell() % ALIGNMENT))
                        written[key] = (file.tell(), len(tensor.raw_data))
                        file.write(tensor.raw_data)
                    _refer(tensor, *written[key])
    for name, graph in graphs.items():
        (folder / name).write_bytes(graph.SerializeToString())


def _refer(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    """Point an initializer to its bytes in weights.bin."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
