"""Models for other libraries, and back: onward's own layout, torch's, and ONNX."""

from .model_folder import load_model as load_model
from .model_folder import save_model as save_model
from .onnx_model import to_onnx as to_onnx
from .torch_layout import from_torch as from_torch
from .torch_layout import to_torch as to_torch
