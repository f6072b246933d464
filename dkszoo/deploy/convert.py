"""Other people's checkpoints as exports."""

import os
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import timm
from torch import nn

import dkszoo
from dkszoo.branches import DeeplySupervised
from dkszoo.weights import Converted, identify, load_strictly, read_any, sha256, write_card, write_durably

from .export import check_target, verify


def convert_file(
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    model: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> dict:
    """Write the network of a checkpoint of any known format to OUT.safetensors, and what it is to OUT.json.

    Branches are left behind. How images are to be prepared is what the file says of it, or else the model's own
    setting; a peer's files seldom say.

    Args:
        checkpoint: The file to read, see `convert`.
        out: The file to write, ending in .safetensors; it appears only once it is verified.
        model: The name it has to fit; default: as in `convert`.
        mean: Channel means of the images it was trained on, in [0, 1], where they are not the model's own.
        std: Their standard deviations.

    Returns:
        The contents of OUT.json.

    Raises:
        ValueError: The checkpoint cannot be read or fits no model, `out` cannot be written, or mean or std is not of
            the network's channels.
        VerificationFailed: The file written does not give the network's logits.
    """
    out = check_target(out)
    contents, source = read_any(checkpoint), f'checkpoint {os.fspath(checkpoint)!r}'
    converted = identify(contents, source, model)
    own = contents.get('dkszoo') if isinstance(contents.get('dkszoo'), dict) else {}
    known = own.get('model') or {}
    net = timm.create_model(converted.model, **converted.model_kwargs)
    load_strictly(net, converted.backbone, source)
    data = known.get('data') or data_settings(net, converted)
    data |= {key: list(value) for key, value in (('mean', mean), ('std', std)) if value is not None}
    if {len(data['mean']), len(data['std'])} != {data['input_size'][0]}:
        raise ValueError(
            f'the network takes {data["input_size"][0]} channels (give so many numbers to --mean and --std)'
        )
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    proof = {}

    def verify_file(temporary: Path) -> None:
        fresh = timm.create_model(converted.model, **converted.model_kwargs)
        load_strictly(fresh, safetensors.torch.load_file(temporary), 'the converted file')
        proof.update(verify(DeeplySupervised(net), fresh, tuple(data['input_size'])), sha256=sha256(temporary))

    write_durably(out, lambda temporary: safetensors.torch.save_file(state, temporary, {'format': 'pt'}), verify_file)
    card = {
        'arch': converted.model,
        'model_args': converted.model_kwargs,
        'design': known.get('design', converted.design),
        'method': known.get('method'),
        'tag': known.get('tag', known.get('method')),
        'class_names': known.get('class_names'),
        'dataset': known.get('dataset'),
        'data': data,
        'source': {'file': Path(checkpoint).name, 'sha256': sha256(checkpoint)},
        'dkszoo_version': dkszoo.__version__,
        **proof,
    }
    return write_card(out, card)


def data_settings(net: nn.Module, converted: Converted) -> dict:
    """How a model's own configuration prepares images, for the channels the network takes."""
    data = timm.data.resolve_data_config({}, model=net, use_test_size=True)
    in_chans = converted.model_kwargs.get('in_chans', data['input_size'][0])
    for key in ('mean', 'std'):
        values = data[key]
        data[key] = list(values if len(values) == in_chans else (sum(values) / len(values),) * in_chans)
    return {**data, 'input_size': [in_chans, *data['input_size'][1:]]}
