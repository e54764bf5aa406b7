"""Every error Sightline raises on purpose.

One family under :class:`SightlineError`: a caller that wants to keep a production line running catches that one. The
message of each says what was wrong, with which value, and what to do next.
"""

from __future__ import annotations


class SightlineError(Exception):
    """Base of every error raised on purpose by Sightline."""


class MissingPackageError(SightlineError, ImportError):
    """An optional package that this call needs is not installed."""

    def __init__(self, package: str, *, purpose: str, extra: str | None = None) -> None:
        wanted = f"'sightline[{extra}]'" if extra else package
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed: pip install {wanted}")
        self.package = package
        self.extra = extra


class ExportError(SightlineError):
    """A network cannot be turned into a bundle."""


class UnsupportedOperatorError(ExportError):
    """An operator without a differentiation rule lies between a block output and the logits."""

    def __init__(self, operator: str, node: str, reason: str = "has no differentiation rule") -> None:
        super().__init__(
            f"operator {operator!r} (node {node!r}) lies on the gradient's path and {reason}. Choose blocks behind it "
            "with --blocks / blocks=[...], or replace the operator in the network before exporting."
        )
        self.operator = operator
        self.node = node


class NoBlocksError(ExportError):
    """No convolutional block output was found in the graph."""


class SelfCheckError(ExportError):
    """The exported graphs do not reproduce the original network or its gradient; nothing was written."""


class BundleError(SightlineError):
    """A bundle is missing, damaged, or of a version that this Sightline cannot read."""


class ImageError(SightlineError, ValueError):
    """An image cannot be explained: wrong shape, type or values."""


class TargetError(SightlineError, ValueError):
    """The class to explain does not exist in this network."""


class MethodError(SightlineError, ValueError):
    """An explanation method is unknown or one of its parameters is out of range."""


class EngineError(SightlineError, RuntimeError):
    """An inference engine is unknown, not installed, or failed to open or run a graph."""


class OutOfMemoryError(EngineError):
    """The device has no room for a pass of this batch size."""


class PrecisionError(SightlineError):
    """A lower precision is not available for this network, or its maps do not agree with those of float32."""


class UngatedError(PrecisionError):
    """A lower precision has not been compared with float32 yet."""


class SaveError(SightlineError):
    """An explanation could not be written: an unknown suffix, a full disk, no permission."""


class PageError(SightlineError, ValueError):
    """An HTML page cannot be made of what it was given."""


class MetricError(SightlineError, ValueError):
    """A map cannot be scored: its shape or values, the region, or a setting of the metric is wrong."""


class AnnotationError(SightlineError, ValueError):
    """The truth about an image cannot be read, or does not fit the image."""


class HierarchyError(SightlineError, ValueError):
    """A decision cannot be taken apart as asked for, or a file holds no hierarchy."""


class DatasetError(SightlineError):
    """A set of images cannot be explained as asked for, or a folder holds no explained set."""


class ServingError(SightlineError, ValueError):
    """A server cannot be started as asked for: a setting, a key, a name, or a port is wrong."""


class StreamError(SightlineError, ValueError):
    """A stream cannot run as asked for, or its source gives no frames."""
