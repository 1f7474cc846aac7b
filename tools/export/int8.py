"""Static int8 quantization of the exported classifier: per channel, weights only, kept if it costs little accuracy."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

MOST_LOST = 0.5
CALIBRATION_IMAGES = 64


class Reader:
    """Feeds calibration images, one per pass, in the form that onnxruntime's quantizer takes."""

    def __init__(self, pixels: np.ndarray):
        self._passes = iter([{"pixels": image[None]} for image in pixels])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._passes, None)


def quantize(source: Path, target: Path, pixels: np.ndarray) -> None:
    """Writes `source` with 8-bit weights, one scale per output channel, and 8-bit activations calibrated on `pixels`.

    Products of two activations, as in attention, stay in float32: their range is what int8 serves worst.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    CalibrationDataReader.register(Reader)
    step = max(1, len(pixels) // CALIBRATION_IMAGES)
    logging.disable(logging.WARNING)
    try:
        with TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            graph = onnx.load(prepared).graph
            constant = {tensor.name for tensor in graph.initializer}
            products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
            kept = [node.name for node in products if not constant.intersection(node.input)]
            quantize_static(
                prepared,
                target,
                Reader(pixels[::step][:CALIBRATION_IMAGES]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["MatMul", "Gemm", "Conv"],
                nodes_to_exclude=kept,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
            )
    finally:
        logging.disable(logging.NOTSET)
