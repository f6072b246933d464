"""`dkszoo validate` and `python validate.py`."""

import argparse
import csv
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import timm
import torch

from dkszoo import engine
from dkszoo.branches import strip
from dkszoo.data import View
from dkszoo.engine.ranges import check_range
from dkszoo.engine.world import join_world

from .main import Parser, fail, prog_name, tell
from .subject import Subject, is_export, open_view, read_subject

MEMORY = ('out of memory', "can't allocate memory")  # in torch's messages, for a GPU and for a CPU
COLUMNS = (  # of a results file, for a network without branches; timm's come first
    *('model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation'),
    *('loss', 'ece', 'images', 'batch_size', 'images_per_second', 'split', 'checkpoint'),
)


def main(argv: list[str]) -> int:
    """Measure each model and print its figures; the last line for each is a JSON object."""
    args = parse(argv)
    device = join_world(args.device).device
    asked, failed = one_by_one(args), []
    for one in asked:
        header = read_header(Path(args.results_file)) if args.results_file else None  # the first model may create it
        try:
            result = validate(one, device, header)
        except ValueError as error:
            if len(asked) == 1:
                raise
            failed.append(one.checkpoint or one.model)
            tell(f'{failed[-1]} was not measured: {error}', sys.stderr)
            continue
        print_table(result)
        print(json.dumps({key: finite(value) for key, value in result.items()}, allow_nan=False), flush=True)
        if args.results_file:
            try:
                write_results(Path(args.results_file), result)
            except OSError as error:
                return fail(f'cannot write results file {args.results_file!r}: {error} (free some space)', 1)
    if failed:
        raise ValueError(f'{len(failed)} of {len(asked)} models were not measured: {", ".join(failed)} (see above why)')
    return 0


def finite(value):
    """Replace NaN and infinity, which JSON does not have, by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog=prog_name('validate'), description='Measure the accuracy of a model or checkpoint.')
    add = parser.add_argument
    add('--model', default='', metavar='NAME', help="dkszoo or timm model, or a pattern of names and tags ('cifar_*')")
    add('--pretrained', action='store_true', help="use the model's pretrained weights")
    files = 'a training checkpoint, or an export (.safetensors); or several, one after the other'
    add('--checkpoint', nargs='+', default=[], metavar='FILE', help=files)
    add('--dataset', default=None, metavar='NAME', help="'digits' or a timm data set name (default: the checkpoint's)")
    add('--data-dir', default=None, metavar='DIR', help='root folder of the data set')
    add('--split', default='test', metavar='NAME', help='split to evaluate on (default test)')
    add('-b', '--batch-size', type=int, default=None, metavar='N', help="images per step (default: the checkpoint's)")
    add('-j', '--workers', type=int, default=2, metavar='N', help='loading processes (default 2)')
    add('--img-size', type=int, default=None, metavar='N', help="side of the images (default: the model's)")
    add('--crop-pct', type=float, default=None, metavar='X', help='fraction of the image that the crop keeps')
    add('--num-classes', type=int, default=None, metavar='N', help='number of classes of a model without a checkpoint')
    add('--in-chans', type=int, default=None, metavar='N', help='image channels of a model without a checkpoint')
    add('--device', default='', metavar='NAME', help='device (default: the best available)')
    add('--per-branch', action='store_true', help='also measure the branches of a training checkpoint')
    add('--no-ema', action='store_true', help='use the raw weights of a training checkpoint, not the averaged ones')
    add('--results-file', default='', metavar='FILE', help='append the figures to this CSV file')
    args = parser.parse_args(argv)
    for name in ('batch_size', 'workers', 'img_size', 'crop_pct', 'num_classes', 'in_chans'):
        check_range(name, getattr(args, name))
    if not args.checkpoint and not args.model:
        raise ValueError('nothing to measure (give --checkpoint FILE, or --model NAME with --pretrained)')
    if not args.checkpoint and not args.pretrained:
        raise ValueError(f'model {args.model!r} without weights (add --pretrained, or --checkpoint FILE)')
    if args.checkpoint and args.pretrained:
        raise ValueError('--pretrained and --checkpoint are two sources of weights (give one)')
    if not args.checkpoint or any(map(is_export, args.checkpoint)):
        if args.per_branch:
            raise ValueError('--per-branch needs a training checkpoint, the only file that has branches')
        if args.no_ema:
            raise ValueError('--no-ema needs a training checkpoint, the only file that has two sets of weights')
    return args


def one_by_one(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The arguments for each thing to measure: a model with its pretrained weights, or a checkpoint."""
    models, files = find_names(args), args.checkpoint or ['']
    return [argparse.Namespace(**{**vars(args), 'model': m, 'checkpoint': file}) for m in models for file in files]


def find_names(args: argparse.Namespace) -> list[str]:
    """The models to measure: the one named, or all whose name and tag match a pattern.

    Raises:
        ValueError: None matches.
    """
    if args.checkpoint or ':' in args.model or not set(args.model) & set('*?['):  # a colon: timm's local-dir:PATH
        return [args.model]
    names = timm.list_models(args.model, pretrained=True)
    if not names:
        raise ValueError(f'no pretrained model fits {args.model!r} (dkszoo models lists ours and their tags)')
    return names


def validate(args: argparse.Namespace, device: torch.device, header: list[str] | None) -> dict:
    """The figures of one model: the columns of timm's results, then dkszoo's.

    Raises:
        ValueError: The model or the data set cannot be read, or the columns differ from `header`.
    """
    subject = read_subject(args)
    branches = len(subject.net.branches) if args.per_branch else 0
    if header and header != [*COLUMNS, *branch_columns(branches)]:
        raise ValueError(f'{args.results_file!r} has other columns (choose another --results-file)')
    view = open_view(args, subject)
    data = subject.data
    size, crop_pct = args.img_size or data['input_size'][-1], args.crop_pct or data['crop_pct']
    how = dict(img_size=size, crop_pct=crop_pct, crop_mode=data.get('crop_mode') or 'center')
    how |= {key: data[key] for key in ('mean', 'std', 'interpolation')}
    batch_size = args.batch_size or subject.evaluation.get('batch_size', 256)
    found = measure(subject, view, how, batch_size, args.workers, device)
    heads = {}
    for key, value in found.figures.items():
        if key != 'loss':
            heads |= {key: value, f'{key}_err': round(100 - value, 10)}
    return {
        'model': subject.name,
        **{key: heads.pop(key) for key in ('top1', 'top1_err', 'top5', 'top5_err')},
        'param_count': round(sum(p.numel() for p in strip(subject.net).parameters()) / 1e6, 2),
        'img_size': size,
        'crop_pct': crop_pct,
        'interpolation': data['interpolation'],
        'loss': found.figures['loss'],
        'ece': found.ece,
        'images': len(view),
        'batch_size': found.batch_size,
        'images_per_second': round(len(view) / found.seconds, 1),
        'split': args.split,
        'checkpoint': args.checkpoint,
        **heads,
    }


class Measured(NamedTuple):
    """Results of an evaluation: figures by head, calibration error (%), the batch size that fitted, and seconds."""

    figures: dict[str, float]
    ece: float
    batch_size: int
    seconds: float


def measure(subject: Subject, view: View, how: dict, batch_size: int, workers: int, device: torch.device) -> Measured:
    """Evaluate every head, halving the batch size as long as memory is short.

    Raises:
        ValueError: A single image is too much, or the network does not accept images of this size.
    """
    channels_last = subject.evaluation.get('channels_last', False)
    subject.net.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
    while True:
        loader = engine.eval_loader(view, **how, batch_size=batch_size, workers=workers, device=device)
        calibration, start = engine.CalibrationError(), time.perf_counter()
        try:
            figures = engine.evaluate(subject.net, loader, device, channels_last, calibration=calibration)
            return Measured(figures, calibration.compute(), batch_size, time.perf_counter() - start)
        except (RuntimeError, AssertionError) as error:
            if not any(words in str(error) for words in MEMORY):
                size = (len(how['mean']), how['img_size'], how['img_size'])
                engine.check_images(subject.net, subject.name, size)
                raise
            if batch_size == 1:
                raise ValueError(f'{subject.name}: a single image is too much for the memory of {device}') from error
            tell(f'{subject.name}: out of memory with {batch_size} images, trying half as many', sys.stderr)
            batch_size //= 2


def print_table(result: dict) -> None:
    measured = ', '.join(filter(None, (result['model'], result['checkpoint'])))
    print(f'{measured} on {result["images"]} images, {result["images_per_second"]:,.0f} a second')
    for key, value in result.items():
        if key.endswith('_err'):
            name = key.removesuffix('_err')
            print(f'  {name:14} {result[name]:8.3f} %   error {value:8.3f} %')
    print(f'  calibration error (ECE) {result["ece"]:.3f} %')


def branch_columns(branches: int) -> list[str]:
    """The columns of `branches` branches."""
    return [f'branch{i}_{key}' for i in range(branches) for key in ('top1', 'top1_err', 'top5', 'top5_err')]


def read_header(path: Path) -> list[str]:
    """The columns of a results file; empty for a new or empty file.

    Raises:
        ValueError: It cannot be written, or is not a CSV file.
    """
    target = path if path.exists() else path.parent
    if path.is_dir() or path.is_fifo() or not path.parent.is_dir() or not os.access(target, os.W_OK):
        advice = '--results-file takes a file, not a pipe, in a folder of yours'
        raise ValueError(f'cannot write results file {str(path)!r} ({advice})')
    try:
        if not path.exists():
            return []
        with open(path, newline='', encoding='utf-8') as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'cannot read {str(path)!r} as CSV: {error} (choose another --results-file)') from error


def write_results(path: Path, result: dict) -> None:
    """Append one row, or nothing if there is no space, to a CSV file, with a header if it is new."""
    size = os.path.getsize(path) if path.exists() else 0
    try:
        with open(path, 'a', newline='', encoding='utf-8', errors='backslashreplace') as file:
            writer = csv.DictWriter(file, fieldnames=list(result))
            if not size:
                writer.writeheader()
            writer.writerow(result)
    except OSError:
        if path.exists():  # else it could not even be made, and truncating it would hide why
            os.truncate(path, size)
        raise
