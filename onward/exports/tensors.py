"""Files of named arrays in the safetensors format. The format holds numbers only, so reading a file runs nothing."""

import os
from pathlib import Path

import numpy as np

from ..support.extras import needed


def encode_tensors(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The content of a file that holds these arrays. Needs the extra `onward[export]`."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return needed("safetensors.numpy", "export").save(contiguous, metadata)


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file and its metadata.

    Raises `ValueError` if the file does not exist, cannot be read, is damaged, or holds a number that is not finite.
    Needs the extra `onward[export]`.
    """
    safetensors = needed("safetensors", "export")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist or is not a file; give the path of a safetensors file.")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}).") from None
    except AttributeError as error:  # NumPy has no such type
        what = str(error).split("'")[-2:][0] or "unknown"
        raise ValueError(f"{path} holds numbers that NumPy cannot read ({what}); convert them to float32.") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or is not a safetensors file of NumPy's number types ({error})."
        ) from None
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds a number that is not finite.")
    return arrays, metadata
