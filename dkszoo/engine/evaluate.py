"""Exact evaluation of every head."""

import inspect
from collections.abc import Callable, Iterable, Sequence

import torch
from timm.data import create_loader, create_transform
from timm.task import ClassificationEvaluator, evaluation_sample_limit
from torch import nn
from torch.utils.data import DataLoader

from dkszoo.branches import DeeplySupervised, strip
from dkszoo.data import SMALL, MemoryEvalLoader, View, is_small, read_pixels
from dkszoo.tasks import get_method

from .calibration import CalibrationError
from .config import TrainConfig
from .signals import batches_of

SMALL_CROP = {'interpolation': 'bilinear', 'crop_pct': 1.0, 'crop_mode': 'center'}
LARGE_CROP = {'interpolation': 'bicubic', 'crop_pct': 0.875, 'crop_mode': 'center'}  # timm's, for a model without one


def evaluation_crop(config: TrainConfig, img_size: int, cfg: dict) -> dict:
    """How images are resized and cropped: as given, else the whole image up to 64 px, else as the model specifies."""
    crop = SMALL_CROP if img_size <= SMALL else LARGE_CROP | cfg
    return {key: getattr(config, key) or crop[key] for key in SMALL_CROP}


def best_by(config: TrainConfig) -> str:
    """The figure that selects the best epoch: the main head's, or branch 0's if only branches learn (DKS, table 5)."""
    method = get_method(config.method)
    head = 'branch0_' if method.needs_branches(config) and not method.reaches_main(config) else ''
    return f'{"test_" if config.best_on == "test" else ""}{head}top1'


def eval_loader(
    view: View,
    *,
    img_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    workers: int,
    interpolation: str = 'bilinear',
    crop_pct: float = 1.0,
    crop_mode: str = 'center',
    device: torch.device | str = 'cpu',
    distributed: bool = False,
) -> DataLoader | MemoryEvalLoader:
    """timm's evaluation loader over a view: its images in order, resized, cropped and normalised.

    Sets of small images are transformed once and kept in memory; the batches are bit-identical.

    Raises:
        ValueError: An impossible image size or number of workers.
        KeyError: An interpolation unknown to timm.
        RuntimeError: A device unknown to torch.
    """
    size = (len(mean), img_size, img_size)
    how = dict(interpolation=interpolation, mean=mean, std=std, crop_pct=crop_pct, crop_mode=crop_mode)
    if is_small(view, img_size, len(mean)) and not distributed:
        as_pixels = create_transform(size, is_training=False, normalize=False, **how)
        return MemoryEvalLoader(*read_pixels(view, as_pixels), batch_size, mean, std, torch.device(device))
    return create_loader(
        view,
        size,
        batch_size,
        is_training=False,
        use_prefetcher=False,
        num_workers=workers,
        distributed=distributed,
        **how,
        pin_memory=torch.device(device).type == 'cuda',
        device=torch.device(device),
        persistent_workers=False,
    )


@torch.inference_mode()
def check_images(net: nn.Module, name: str, input_size: tuple[int, int, int], cure: str = '') -> None:
    """Check that a network takes images [C, H, W]; `cure` is the advice in the message if not.

    Raises:
        ValueError: It does not.
    """
    was_training = net.training
    net.eval()
    try:
        net(torch.zeros(1, *input_size, device=next(net.parameters()).device))
    except Exception as error:  # whatever a foreign forward raises
        side = 'x'.join(map(str, input_size[1:]))
        if not cure:
            cure = 'give another --img-size'
            if 'img_size' in inspect.signature(type(strip(net)).__init__).parameters:
                cure += f'; the size is built in: train with --model-kwargs img_size={input_size[-1]}'
        raise ValueError(f'{name!r} does not take {side} images: {error} ({cure})') from error
    finally:
        net.train(was_training)


@torch.inference_mode()
def evaluate(
    net: nn.Module,
    loader: Iterable,
    device: torch.device,
    channels_last: bool = False,
    between: Callable[[], None] = lambda: None,
    distributed: bool = False,
    calibration: CalibrationError | None = None,
) -> dict[str, float]:
    """Accuracy of every head and loss of the main one over a whole data set, counted exactly.

    Args:
        net: A plain classifier or a `DeeplySupervised`; its mode is restored afterwards.
        loader: Yields (images, class indices).
        device: The network's device.
        channels_last: Memory layout of the images.
        between: Called after every batch; may raise to stop.
        distributed: Sum over the processes.
        calibration: Updated with the main head's logits, of this process only.

    Returns:
        {'loss', 'top1', 'top5'} of the main head and {'branch0_top1', 'branch0_top5', ...} shallow to deep; accuracies
        in percent.
    """
    heads = 1 + (len(net.branches) if isinstance(net, DeeplySupervised) else 0)
    limit = evaluation_sample_limit(loader) if distributed else None
    evaluators = [ClassificationEvaluator(device, max_samples=limit) for _ in range(heads)]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    was_training = net.training
    net.eval()
    try:
        with batches_of(loader) as batches:
            for images, targets in batches:
                images = images.to(device, memory_format=memory_format, non_blocking=True)
                targets = targets.to(device, non_blocking=True)
                output = net(images)
                logits = (output.logits, *output.branch_logits) if hasattr(output, 'logits') else (output,)
                for evaluator, z in zip(evaluators, logits, strict=True):
                    evaluator.update(z, targets)
                if calibration is not None:
                    calibration.update(logits[0], targets)
                between()
    finally:
        net.train(was_training)
    main, *branches = [evaluator.compute(distributed=distributed) for evaluator in evaluators]
    named = {f'branch{i}_{key}': branch[key] for i, branch in enumerate(branches) for key in ('top1', 'top5')}
    return {**main, **named}
