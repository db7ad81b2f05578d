"""PyTorch modules to ONNX graphs with a free batch size, quietly."""

import logging
import warnings
from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn

# The one reports every library that it could support and does not find, the other what it could fold and does not.
REMARKING = ("torch.onnx", "onnxscript")


def to_onnx(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], free: Mapping[str, Mapping[int, str]]
) -> onnx.ModelProto:
    """The graph of `module`, called with `inputs` in order; `free` names the axes of each input that may vary.

    Example inputs need at least two rows on a free axis: the exporter takes a size of one for a constant.
    """
    dimensions: dict[str, torch.export.Dim] = {}
    shapes = tuple(
        {axis: dimensions.setdefault(name, torch.export.Dim(name)) for axis, name in free.get(key, {}).items()}
        for key in inputs
    )
    loggers = [logging.getLogger(name) for name in REMARKING]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=outputs,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    graph = program.model_proto
    # Where each node came from and its shapes: half of the file, and a third of the time to load it.
    graph.graph.ClearField("value_info")
    for node in graph.graph.node:
        node.ClearField("metadata_props")
    return graph
