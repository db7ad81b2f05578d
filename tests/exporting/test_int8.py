from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aladin.exporting.int8 import quantized, write_graphs
from tests.tiny_learning import few_examples

INNER, OUTER = 65, 96  # an odd number of rows, and enough for a weight to be made small
PRODUCT = """
<ir_version: 10, opset_import: ["" : 20]>
product (float[rows, 65] values) => (float[rows, 96] result) { BEFORE result = MatMul(read, weight) }
"""


def matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((INNER, OUTER)).astype(np.float32)


def product(weight: np.ndarray, after: str = "Identity") -> onnx.ModelProto:
    """The graph of values @ weight, the values having gone through an operation."""
    graph = onnx.parser.parse_model(PRODUCT.replace("BEFORE", f"read = {after}(values)"))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    return graph


def run(graph: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"values": values})[0]
    return result


def stored(graph: onnx.ModelProto, name: str) -> np.ndarray:
    return onnx.numpy_helper.to_array(next(tensor for tensor in graph.graph.initializer if tensor.name == name))


def reference(values: np.ndarray, integers: np.ndarray, scale: np.ndarray, zero: int) -> np.ndarray:
    """Row by row: rounded to 255 steps, of which `zero` stand for the negative ones, multiplied in whole numbers, restored."""
    rows = []
    for row in values.astype(np.float64):
        step = max(row.max() / (255 - zero), -row.min() / zero)
        steps = np.floor(row / step + zero + 0.5) - zero
        rows.append((steps @ integers.astype(np.float64)) * scale[0] * step)
    return np.array(rows)


@pytest.mark.parametrize(("after", "zero"), [("Identity", 128), ("Gelu", 20)])
def test_a_product_in_int8_is_that_of_rows_rounded_to_255_steps(after: str, zero: int) -> None:
    graph = quantized(product(matrix(0), after))
    values = 3 * np.random.default_rng(1).standard_normal((7, INNER)).astype(np.float32)
    read = values if after == "Identity" else run(product(np.eye(INNER, OUTER, dtype=np.float32), after), values)[:, :INNER]
    expected = reference(read, stored(graph, "weight.small"), stored(graph, "weight.scale"), zero)
    result = run(graph, values)
    # A value on the edge between two steps may fall to either side.
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(result - expected).mean() < 1e-4 * np.abs(expected).max()


@few_examples
@given(scales=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5), seed=st.integers(0, 9))
def test_a_row_is_what_it_is_whatever_rows_stand_beside_it(scales: list[float], seed: int) -> None:
    graph = quantized(product(matrix(0)))
    values = np.random.default_rng(seed).standard_normal((len(scales), INNER)) * np.array(scales)[:, None]
    together = run(graph, values.astype(np.float32))
    alone = np.concatenate([run(graph, row[None].astype(np.float32)) for row in values])
    np.testing.assert_array_equal(together, alone)


def test_a_row_of_zeros_stays_one() -> None:
    values = np.zeros((2, INNER), dtype=np.float32)
    values[1] = 1
    result = run(quantized(product(matrix(0))), values)
    assert (result[0] == 0).all()
    assert (result[1] != 0).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_two_neighbours_in_a_column_never_overflow_16_bits(sign: int) -> None:
    weight = np.abs(matrix(0)) * sign  # the worst case: all of one sign
    integers = stored(quantized(product(weight)), "weight.small").astype(int)
    pairs = np.pad(integers, ((0, 1), (0, 0))).reshape(-1, 2, OUTER)
    most = np.maximum(pairs, 0).sum(axis=1).max(), np.minimum(pairs, 0).sum(axis=1).min()
    assert 255 * most[0] <= 2**15 - 1
    assert 255 * most[1] >= -(2**15)


def test_weights_of_two_graphs_are_stored_once_and_found_again(tmp_path: Path) -> None:
    graphs = {name: product(matrix(seed)) for name, seed in (("a.onnx", 0), ("b.onnx", 1), ("c.onnx", 0))}
    values = np.random.default_rng(2).standard_normal((3, INNER)).astype(np.float32)
    before = {name: run(graph, values) for name, graph in graphs.items()}
    write_graphs(graphs, tmp_path)
    size = (tmp_path / "weights.bin").stat().st_size
    assert 2 * 4 * INNER * OUTER <= size < 2.1 * 4 * INNER * OUTER
    for name, expected in before.items():
        session = onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, {"values": values})[0], expected)
