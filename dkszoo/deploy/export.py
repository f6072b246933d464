"""Export: strip the branches, verify that nothing changed, write."""

import os
from pathlib import Path

import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import dkszoo
import dkszoo.models
from dkszoo.branches import DeeplySupervised, attach_branches, strip
from dkszoo.weights import (
    backbone_state,
    card_path,
    check_fit,
    described,
    load_strictly,
    read_pickle,
    sha256,
    tag_of,
    write_card,
    write_durably,
    write_text,
)

from .formats import FORMATS, Format, check_target

BATCH_SIZES = (8, 1, 3)  # for comparing a file with the network; several, to show that the batch size is dynamic


class VerificationFailed(Exception):
    """The stripped network or the file differs from the trained backbone; nothing was written."""


def export(checkpoint: str | os.PathLike, out: str | os.PathLike, ema: bool = True) -> dict:
    """Write the backbone of a training checkpoint to a file, with a JSON card beside it.

    OUT.safetensors holds the weights, and OUT.json is its card. OUT.onnx and OUT.pt2 (`torch.export`) hold the whole
    network, for batches of any size; their cards are OUT.onnx.json and OUT.pt2.json.

    Args:
        checkpoint: A training checkpoint of dkszoo.
        out: The file to write, ending in .safetensors, .onnx or .pt2; it appears only once it is verified.
        ema: Take the averaged weights where there are any.

    Returns:
        The contents of the card.

    Raises:
        ValueError: The checkpoint cannot be read, `out` cannot be written, or the network cannot be made a graph.
        VerificationFailed: Logits, parameters or FLOPs are not those of the trained network's main head. Logits must be
            bit-identical; those of an ONNX file may differ by 1e-4 (or 1e-6 of the largest logit, if that is more).
        TypeError: `checkpoint` is not a path.
    """
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(
            f'export takes the file of a training checkpoint, got {type(checkpoint).__name__} (for a network in '
            'memory, save what dkszoo.strip returns)'
        )
    out = check_target(out)
    if Path(checkpoint).suffix == '.safetensors' and Path(checkpoint).is_file():
        already = f'{os.fspath(checkpoint)!r} is an export already, weights without branches'
        raise ValueError(f'{already} (dkszoo convert writes it in other formats; export takes a training checkpoint)')
    contents = read_pickle(checkpoint, legacy=False)
    net, model = rebuild(contents, checkpoint, ema)
    card = {
        **model,
        'tag': tag_of(model),
        'ema': ema and 'state_dict_ema' in contents,
        'epoch': contents['epoch'],
        'metric': contents.get('metric'),
        'source': {'file': Path(checkpoint).name, 'sha256': sha256(checkpoint)},
        'dkszoo_version': dkszoo.__version__,
    }
    return write_network(out, net, card)


def write_network(out: Path, net: DeeplySupervised, card: dict) -> dict:
    """Verify that a backbone is the main path of its network, and write it in the format given by the file's suffix.

    Args:
        out: The file, see `check_target`.
        net: The trained network.
        card: Contents of the card beside it; 'arch', 'model_args' and 'data' describe the network.

    Returns:
        The contents of the card, with 'num_params', 'flops', 'verified' and 'sha256' added.

    Raises:
        ValueError: The network cannot be made a graph, or does not take images of the size in 'data'.
        VerificationFailed: See `export`; nothing was written.
    """
    form, input_size = FORMATS[out.suffix], tuple(card['data']['input_size'])
    plain = timm.create_model(card['arch'], **card['model_args']).eval()
    load_strictly(plain, strip(net).state_dict(), 'the stripped network')
    try:
        proof = verify(net, plain, input_size)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'{card["arch"]} does not take images of {input_size}: {error}') from error

    def check(temporary: Path) -> None:
        proof['verified'] += compare(form, temporary, plain, card)
        proof['sha256'] = sha256(temporary)
        proof.update(write_card(out, {**card, **proof}))  # before the rename: an export must never be without its card

    old = (out.stat(), card_path(out).read_text(encoding='utf-8')) if out.is_file() else None
    try:
        write_durably(out, lambda temporary: form.write(plain, draw(input_size, 2), temporary), check)
    except BaseException:
        if old is not None and os.path.samestat(old[0], out.stat()):  # the old export is still there
            write_text(card_path(out), old[1])
        raise
    return proof


def rebuild(contents: dict, source: str | os.PathLike, ema: bool) -> tuple[DeeplySupervised, dict]:
    """The trained network with its branches, in eval mode, and its description in the checkpoint.

    Args:
        contents: Contents of a training checkpoint of dkszoo.
        source: Its path, for messages.
        ema: Take the averaged weights (EMA) if there are any.

    Raises:
        ValueError: It is not such a checkpoint, or its weights do not fit the network it names.
    """
    source = f'checkpoint {os.fspath(source)!r}'
    model = described(contents, source)
    if model is None:
        raise ValueError(f'{source} is no training checkpoint of dkszoo (dkszoo convert reads those of others)')
    averaged = '_ema' if ema and 'state_dict_ema' in contents else ''
    task_state = contents.get(f'task_state{averaged}')
    parts = {'epoch': (contents.get('epoch'), int), 'args': (contents.get('args'), dict)}
    parts |= {'data': (model.get('data'), dict), 'method': (model.get('method'), str)}
    if model.get('design') is not None:
        branches = task_state.get('branches') if isinstance(task_state, dict) else None
        parts[f'task_state{averaged}.branches'] = (branches, dict)
    for name, (value, kind) in parts.items():
        if not isinstance(value, kind):
            raise ValueError(f'{source} is damaged: its {name} is not a {kind.__name__} (take another checkpoint)')
    state = backbone_state(contents, ema)
    check_fit(model['arch'], model['model_args'], state, source)
    try:
        backbone = timm.create_model(model['arch'], **model['model_args'])
        load_strictly(backbone, state, source)
        if model.get('design') is None:
            return DeeplySupervised(backbone).eval(), model
        net = attach_branches(backbone, model['design'], model.get('taps'))
        load_strictly(net.branches, branches, source)
    except Exception as error:  # whatever a foreign constructor raises
        raise ValueError(f'{source} does not make a {model["arch"]}: {error}') from error
    return net.eval(), model


@torch.inference_mode()
def verify(net: nn.Module, plain: nn.Module, input_size: tuple[int, int, int]) -> dict:
    """Verify that a plain network is the main path of a network with branches, on normally distributed images.

    Args:
        net: The trained network.
        plain: A fresh network with the exported weights.
        input_size: (C, H, W).

    Returns:
        {'num_params', 'flops' (of one image, 2 per multiply-add), 'verified'}.

    Raises:
        VerificationFailed: Logits differ in any bit, or parameters or FLOPs differ.
    """
    images = draw(input_size, BATCH_SIZES[0])
    main, own = net.eval()(images).logits, plain.eval()(images)
    if not torch.equal(main, own):
        difference = (main - own).abs().max().item()
        raise VerificationFailed(
            f'logits of the stripped network differ by up to {difference:.3g}; nothing was written'
        )
    counts = []
    for module in (strip(net), plain):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # a CPU kernel is not counted
            module(images[:1])
        counts.append((sum(p.numel() for p in module.parameters()), counter.get_total_flops()))
    if counts[0] != counts[1]:
        raise VerificationFailed(f'parameters and FLOPs differ: {counts[0]} and {counts[1]}; nothing was written')
    num_params, flops = counts[1]
    return {
        'num_params': num_params,
        'flops': flops,
        'verified': f'strict load; logits of {BATCH_SIZES[0]} images bit-identical; parameters and FLOPs equal',
    }


@torch.inference_mode()
def compare(form: Format, path: Path, plain: nn.Module, model: dict) -> str:
    """Read a file back and compare its logits with the network's; returns the finding for the card's 'verified'.

    Raises:
        VerificationFailed: A logit differs by more than the format's tolerance.
    """
    run, largest = form.read(path, model), 0.0
    for batch_size in BATCH_SIZES:
        images = draw(tuple(model['data']['input_size']), batch_size)
        logits = plain(images)
        difference, size = (logits - run(images)).abs().max().item(), logits.abs().max().item()
        if not difference <= form.tolerance * max(1, size / 100):
            raise VerificationFailed(
                f'logits of the file differ by up to {difference:.3g} (the largest is {size:.3g}); nothing was written'
            )
        largest = max(largest, difference)
    found = f'within {largest:.2g}' if largest else 'bit-identical'
    return f'; the file read back: logits of batches of {", ".join(map(str, BATCH_SIZES))} {found}'


def draw(input_size: tuple[int, int, int], batch_size: int) -> torch.Tensor:
    """Images [B, C, H, W] from a normal distribution with seed 0."""
    return torch.randn(batch_size, *input_size, generator=torch.Generator().manual_seed(0))
