"""`onward import`: turns the weights of a torch network into a model of onward."""

import jax

from ..cells import VanillaCell
from ..exports.cards import card_of
from ..exports.model_folder import TENSORS, check_new, own_layout, write_folder
from ..exports.parts import ACTIVATIONS, parts_of
from ..exports.tensors import read_tensors
from ..exports.torch_layout import ACTIVATION, from_torch
from ..support.errors import UserError
from .import_options import ImportOptions, torch_activation
from .shown import say


def import_(options: ImportOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.file is None or options.to is None:
        raise UserError("name a file and where its model goes: onward import FILE --to FOLDER.")
    try:
        check_new(options.to)
        tensors, metadata = read_tensors(options.file)
    except ValueError as error:
        raise UserError(str(error)) from None
    named = options.activation or metadata.get(ACTIVATION)
    activation = torch_activation(named or "tanh")
    with jax.enable_x64(True):  # numbers stay as they are
        try:
            model = from_torch(tensors, activation=ACTIVATIONS[activation])
        except ValueError as error:
            raise UserError(f"{options.file}: {error}") from None
        layers = parts_of(model).layers
        kind = type(layers[0]).__name__
        if options.activation and not isinstance(layers[0], VanillaCell):
            raise UserError(f"--activation is for a torch.nn.RNN, and {options.file} holds an {kind}; leave it out.")
        card, numbers = card_of(model, "onward"), own_layout(model)
    try:
        write_folder(options.to, card, {TENSORS: numbers})
    except OSError as error:
        raise UserError(f"{options.to} cannot be written ({error.strerror}); name another folder.") from None
    sizes = [layers[0].input_size, *(layer.hidden_size for layer in layers), card.outputs]
    if isinstance(layers[0], VanillaCell):
        kind = f"{kind} with {activation}"
    say(f"{kind}, {' → '.join(map(str, sizes))}, {card.dtype}: {options.to}, which onward.load_model reads.")
    if isinstance(layers[0], VanillaCell) and named is None:
        say(
            f"{options.file} does not say its activation: {activation} is assumed; for a relu network, import it anew "
            "with --activation relu."
        )
    return 0
