"""The parts of the single file: a whole explanation method as one ONNX graph.

Each module writes what one module of ``sightline/runtime`` computes, in standard operators, and names its counterpart.
"""
