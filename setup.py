"""Metadata that pyproject.toml cannot state: which build of ONNX Runtime Sightline depends on.

``onnxruntime`` and ``onnxruntime-gpu`` provide the same import package and must not be installed together, and an extra
can only add a dependency, never replace one. So the environment variable ``SIGHTLINE_ONNXRUNTIME`` chooses at install
time; everything else stands in pyproject.toml.
"""

from __future__ import annotations

import os

from setuptools import setup

VARIABLE = "SIGHTLINE_ONNXRUNTIME"
ONNXRUNTIME = {
    "onnxruntime": ["onnxruntime>=1.20"],
    "onnxruntime-gpu": ["onnxruntime-gpu>=1.20"],
    "none": [],  # a wheel that is installed by hand, e.g. the one NVIDIA builds for Jetson
}

choice = os.environ.get(VARIABLE, "onnxruntime")
if choice not in ONNXRUNTIME:
    raise SystemExit(f"{VARIABLE}={choice!r} is unknown: choose one of {', '.join(ONNXRUNTIME)}.")

setup(install_requires=["numpy>=1.26", "pillow>=10.1", "psutil>=5.9", "tqdm>=4.64", *ONNXRUNTIME[choice]])
