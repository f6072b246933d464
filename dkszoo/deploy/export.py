"""Export: strip the branches, prove that nothing changed, write."""

import os
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dkszoo
import dkszoo.models
from dkszoo.branches import DeeplySupervised, attach_branches, strip
from dkszoo.weights import backbone_state, load_strictly, read_pickle, sha256, write_card, write_durably


class VerificationFailed(Exception):
    """The stripped network is not the backbone of the trained one; nothing was written."""


def export(checkpoint: str | os.PathLike, out: str | os.PathLike, ema: bool = True) -> dict:
    """Write the backbone of a training checkpoint to OUT.safetensors, and what it is to OUT.json.

    Args:
        checkpoint: A training checkpoint of dkszoo.
        out: The file to write, ending in .safetensors; it appears only once it is verified.
        ema: Take the averaged weights where there are any.

    Returns:
        The contents of OUT.json.

    Raises:
        ValueError: The checkpoint cannot be read, or `out` cannot be written.
        VerificationFailed: The file's logits, parameters or FLOPs are not those of the trained network's main head.
    """
    out = check_target(out)
    contents = read_pickle(checkpoint, legacy=False)
    net, model = rebuild(contents, checkpoint, ema)
    state = {key: value.contiguous() for key, value in strip(net).state_dict().items()}
    proof = {}

    def verify_file(temporary: Path) -> None:
        fresh = timm.create_model(model['arch'], **model['model_args'])
        load_strictly(fresh, safetensors.torch.load_file(temporary), 'the exported file')
        proof.update(verify(net, fresh, tuple(model['data']['input_size'])), sha256=sha256(temporary))

    write_durably(out, lambda temporary: safetensors.torch.save_file(state, temporary, {'format': 'pt'}), verify_file)
    receipt = {
        **model,
        'tag': model['method'],
        'ema': ema and 'state_dict_ema' in contents,
        'epoch': contents['epoch'],
        'metric': contents.get('metric'),
        'source': {'file': Path(checkpoint).name, 'sha256': sha256(checkpoint)},
        'dkszoo_version': dkszoo.__version__,
        **proof,
    }
    return write_card(out, receipt)


def check_target(out: str | os.PathLike) -> Path:
    """The path of an export, if it can be written.

    Raises:
        ValueError: Another ending, no such folder, or no permission.
    """
    out = Path(out)
    if out.suffix != '.safetensors':
        raise ValueError(f'an export must be named *.safetensors, got {str(out)!r}')
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(f'cannot write into folder {str(out.parent)!r} (make it, or choose another)')
    return out


def rebuild(contents: dict, source: str | os.PathLike, ema: bool) -> tuple[DeeplySupervised, dict]:
    """The trained network with its branches, in eval mode, and what its checkpoint says of it.

    Args:
        contents: A training checkpoint of dkszoo, read.
        source: Its name, for messages.
        ema: Take the averaged weights where there are any.

    Raises:
        ValueError: It is no such checkpoint, or its weights do not fit the network it names.
    """
    source = f'checkpoint {os.fspath(source)!r}'
    model = contents.get('dkszoo', {}).get('model') if isinstance(contents, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f'{source} is no training checkpoint of dkszoo (dkszoo convert reads those of others)')
    backbone = timm.create_model(model['arch'], **model['model_args'])
    load_strictly(backbone, backbone_state(contents, ema), source)
    if model['design'] is None:
        return DeeplySupervised(backbone).eval(), model
    net = attach_branches(backbone, model['design'], model['taps'])
    averaged = ema and 'task_state_ema' in contents
    load_strictly(net.branches, contents['task_state_ema' if averaged else 'task_state']['branches'], source)
    return net.eval(), model


@torch.inference_mode()
def verify(net: nn.Module, plain: nn.Module, input_size: tuple[int, int, int], batch_size: int = 8) -> dict:
    """Prove that a plain network is the main path of a network with branches.

    Args:
        net: The trained network.
        plain: A fresh network with the exported weights.
        input_size: (C, H, W).
        batch_size: Images of the comparison, drawn from a normal distribution with seed 0.

    Returns:
        {'num_params', 'flops' (of one image, 2 a multiply-add), 'verified'}.

    Raises:
        VerificationFailed: Logits differ in any bit, or parameters or FLOPs do.
    """
    images = torch.randn(batch_size, *input_size, generator=torch.Generator().manual_seed(0))
    main, own = net.eval()(images).logits, plain.eval()(images)
    if not torch.equal(main, own):
        difference = (main - own).abs().max().item()
        raise VerificationFailed(
            f'logits of the stripped network differ by up to {difference:.3g}; nothing was written'
        )
    counts = []
    for module in (strip(net), plain):
        with FlopCounterMode(display=False) as counter:
            module(images[:1])
        counts.append((sum(p.numel() for p in module.parameters()), counter.get_total_flops()))
    if counts[0] != counts[1]:
        raise VerificationFailed(f'parameters and FLOPs differ: {counts[0]} and {counts[1]}; nothing was written')
    num_params, flops = counts[1]
    return {
        'num_params': num_params,
        'flops': flops,
        'verified': f'strict load; logits of {batch_size} images bit-identical; parameters and FLOPs equal',
    }
