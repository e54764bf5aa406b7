"""A network in, a bundle out: block detection, graph surgery, differentiation of ONNX graphs."""

from __future__ import annotations

from sightline.errors import MissingPackageError

try:
    from sightline.exporter.export import export, inspect_onnx
    from sightline.exporter.precision import add_precision
    from sightline.exporter.stages import add_stages
except ImportError as error:
    if error.name not in ("onnx", "onnx_ir", "onnxscript"):
        raise
    raise MissingPackageError(error.name, purpose="exporting a network", extra="export") from error

__all__ = ["add_precision", "add_stages", "export", "inspect_onnx"]
