"""File formats of an export: how to write each, and how to compute logits from it."""

import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import nn

from dkszoo.weights import card_path, first_line, is_card, load_strictly, temporary_beside

ONNX_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')

Classifier = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        write: (network in eval mode, images, file to fill).
        read: (file, its card) -> a function from images [B, C, H, W] to logits [B, K].
        tolerance: Largest difference of a logit from the network's, see `compare`.
        needs: Required packages beyond dkszoo's dependencies.
    """

    write: Callable[[nn.Module, torch.Tensor, Path], None]
    read: Callable[[Path, dict], Classifier]
    tolerance: float = 0.0
    needs: tuple[str, ...] = ()


def write_safetensors(net: nn.Module, images: torch.Tensor, path: Path) -> None:
    """Write the state dict; tensors are cloned, because safetensors refuses shared memory (tied weights)."""
    state = {key: value.contiguous().clone() for key, value in net.state_dict().items()}
    path.write_bytes(safetensors.torch.save(state, {'format': 'pt'}))


def read_safetensors(path: Path, model: dict) -> Classifier:
    """A fresh network with the weights loaded strictly."""
    net = timm.create_model(model['arch'], **model['model_args'])
    load_strictly(net, safetensors.torch.load_file(path), 'the exported file')
    return net.eval()


def write_pt2(net: nn.Module, images: torch.Tensor, path: Path) -> None:
    """Write the network as a graph of torch operations, for batches of any size."""
    program = graph(torch.export.export, net, images)
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # paths of this machine
    with open(path, 'wb') as file:
        torch.export.save(program, file)


def read_pt2(path: Path, model: dict) -> Classifier:
    """The graph, run by torch."""
    with open(path, 'rb') as file:
        return torch.export.load(file).module()


def write_onnx(net: nn.Module, images: torch.Tensor, path: Path) -> None:
    """Write the network as an ONNX graph with input 'images' and output 'logits', for batches of any size."""
    names = dict(input_names=['images'], output_names=['logits'])
    loggers = [logging.getLogger(name) for name in ('onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)  # they log every node and pass
    try:
        program = graph(torch.onnx.export, net, images, dynamo=True, verbose=False, **names)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop('pkg.torch.onnx.stack_trace', None)  # paths of this machine
    program.save(path, external_data=False)


def read_onnx(path: Path, model: dict) -> Classifier:
    """The graph, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda images: torch.from_numpy(session.run(['logits'], {'images': images.numpy()})[0])


def graph(export: Callable, net: nn.Module, images: torch.Tensor, **kwargs):
    """Call `export` on a network with a dynamic batch size, and return its result.

    Raises:
        ValueError: The network cannot be captured as one graph.
    """
    sizes = ({0: torch.export.Dim('batch')},)
    try:
        return export(net, (images,), dynamic_shapes=sizes, **kwargs)
    except Exception as error:  # whatever a foreign forward, or torch's tracing of it, raises
        raise ValueError(
            f'torch cannot export {type(net).__name__} as a graph: {first_line(error)} (choose .safetensors)'
        ) from error


FORMATS = {
    '.safetensors': Format(write_safetensors, read_safetensors),
    '.onnx': Format(write_onnx, read_onnx, 1e-4, ONNX_PACKAGES),
    '.pt2': Format(write_pt2, read_pt2),
}


def check_target(out: str | os.PathLike) -> Path:
    """Return the path of an export if it can be written.

    Raises:
        ValueError: A suffix not in `FORMATS`, a missing package that the format needs, a missing folder, no permission,
            a name that is too long, or an existing file or folder that is not an export.
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        *others, last = [f'*{suffix}' for suffix in FORMATS]
        raise ValueError(f'cannot write {str(out)!r} (an export must be named {", ".join(others)} or {last})')
    missing = [name for name in FORMATS[out.suffix].needs if importlib.util.find_spec(name) is None]
    if missing:
        needs = ' '.join(FORMATS[out.suffix].needs)
        raise ValueError(f'{out.suffix} files need {", ".join(missing)}, not installed here (pip install {needs})')
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ValueError(f'cannot write into folder {str(out.parent)!r} (make it, or choose another)') from error
    card = card_path(out)
    for path in (out, card):
        try:
            temporary_beside(path).lstat()  # the name it is written under first, which is longer
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ValueError(f'cannot write {str(path)!r}: {error.strerror} (choose another name)') from error
        if path.is_dir():
            raise ValueError(f'{str(path)!r} is a folder (choose another name)')
    if out.exists() and not card.exists():
        raise ValueError(f'{str(out)!r} exists and is not from an export (choose another name)')
    if card.exists() and not is_card(card):
        raise ValueError(f'{str(card)!r} exists and is not from an export (choose another name)')
    return out
