"""All contenders, by name."""

from __future__ import annotations

from . import dianna_rise, openvino_xai_methods, sightline_methods, torch_cams, torch_rise, torch_sise
from .contender import Contender

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for module in (torch_cams, torch_rise, torch_sise, dianna_rise, openvino_xai_methods, sightline_methods)
    for contender in module.CONTENDERS
}
