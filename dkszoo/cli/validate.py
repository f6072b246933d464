"""`dkszoo validate`, `python validate.py`."""

import csv
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
from torch import nn

from dkszoo import deploy, engine
from dkszoo.data import View, class_names, data_facts, open_dataset
from dkszoo.engine.world import join_world
from dkszoo.weights import read_pickle

from .main import Parser


@dataclass
class Subject:
    """What is measured.

    Attributes:
        net: A plain classifier, or one with branches.
        name: What to call it.
        data: Input size, mean, std and crop it was trained for.
        classes: The names of its classes, where known.
        evaluation: Batch size and layout it was evaluated with in training; the same give the same digits.
        dataset: Name of the data set it was trained on, and its folder.
    """

    net: nn.Module
    name: str
    data: dict
    classes: list[str] | None = None
    evaluation: dict = field(default_factory=dict)
    dataset: tuple[str | None, str | None] = (None, None)


def main(argv: list[str]) -> int:
    """Measure one model and print its figures; the last line is one JSON object."""
    args = parse(argv)
    world = join_world(args.device)
    subject = read_subject(args)
    view = open_view(args, subject)
    data = subject.data
    loader = engine.eval_loader(
        view,
        args.img_size or data['input_size'][-1],
        data['mean'],
        data['std'],
        args.batch_size or subject.evaluation.get('batch_size', 256),
        args.workers,
        data['interpolation'],
        args.crop_pct or data['crop_pct'],
        data.get('crop_mode') or 'center',
        world.device,
    )
    channels_last = subject.evaluation.get('channels_last', False)
    layout = torch.channels_last if channels_last else torch.preserve_format
    net = subject.net.to(world.device, memory_format=layout)
    figures = engine.evaluate(net, loader, world.device, channels_last)
    result = {'model': subject.name, 'images': len(view), **as_table(figures)}
    print_table(result)
    if args.results_file:
        write_results(Path(args.results_file), result)
    print(json.dumps(result))
    return 0


def parse(argv: list[str]):
    parser = Parser(prog='validate.py', description='Measure the accuracy of a model or checkpoint.')
    add = parser.add_argument
    add('--model', default='', metavar='NAME', help='dkszoo or timm model (a checkpoint says its own)')
    add('--pretrained', action='store_true', help="the model's pretrained weights")
    add('--checkpoint', default='', metavar='FILE', help='a training checkpoint, or an export (.safetensors)')
    add('--dataset', default=None, metavar='NAME', help="'digits' or a timm data set name (default: the checkpoint's)")
    add('--data-dir', default=None, metavar='DIR', help='root folder of the data set')
    add('--split', default='test', metavar='NAME', help='split to measure on (default test)')
    add('-b', '--batch-size', type=int, default=0, metavar='N', help="images a step (default: the checkpoint's)")
    add('-j', '--workers', type=int, default=2, metavar='N', help='loading processes (default 2)')
    add('--img-size', type=int, default=0, metavar='N', help="side of the images (default: the model's)")
    add('--crop-pct', type=float, default=0.0, metavar='X', help='share of the image the crop keeps')
    add('--num-classes', type=int, default=None, metavar='N', help='classes of a model without checkpoint')
    add('--in-chans', type=int, default=None, metavar='N', help='channels of a model without checkpoint')
    add('--device', default='', metavar='NAME', help='device (default: the best there is)')
    add('--per-branch', action='store_true', help='also measure the branches of a training checkpoint')
    add('--no-ema', action='store_true', help='the last weights of a training checkpoint, not the averaged ones')
    add('--results-file', default='', metavar='FILE', help='append the figures to this CSV file')
    args = parser.parse_args(argv)
    if not args.checkpoint and not args.model:
        raise ValueError('nothing to measure (give --checkpoint FILE, or --model NAME with --pretrained)')
    if not args.checkpoint and not args.pretrained:
        raise ValueError(f'model {args.model!r} without weights (add --pretrained, or --checkpoint FILE)')
    if args.checkpoint and args.pretrained:
        raise ValueError('--pretrained and --checkpoint are two sources of weights (give one)')
    if args.per_branch and (not args.checkpoint or args.checkpoint.endswith('.safetensors')):
        raise ValueError('--per-branch needs a training checkpoint, the only file that has branches')
    return args


def read_subject(args) -> Subject:
    """The model the arguments name, in one of its three forms."""
    if not args.checkpoint:
        return read_pretrained(args)
    if args.checkpoint.endswith('.safetensors'):
        card = deploy.read_card(args.checkpoint)
        model, _ = deploy.load(args.checkpoint)
        subject = recorded(model, card)
    else:
        subject = read_training_checkpoint(args)
    if args.model and args.model != subject.name:
        raise ValueError(f'{args.checkpoint!r} holds a {subject.name}, not a {args.model} (leave --model out)')
    return subject


def read_training_checkpoint(args) -> Subject:
    contents = read_pickle(args.checkpoint, legacy=False)
    net, model = deploy.rebuild(contents, args.checkpoint, ema=not args.no_ema)
    net = net if args.per_branch else net.backbone
    return recorded(net, model, contents['args'].get('data_dir'))


def recorded(net: nn.Module, model: dict, data_dir: str | None = None) -> Subject:
    """A network of ours, by what its checkpoint or the JSON of its export says."""
    evaluation, dataset = model.get('evaluation') or {}, model.get('dataset')
    return Subject(net, model['arch'], model['data'], model.get('class_names'), evaluation, (dataset, data_dir))


def read_pretrained(args) -> Subject:
    kwargs = {key: getattr(args, key) for key in ('num_classes', 'in_chans') if getattr(args, key)}
    try:
        model = engine.create_model(args.model, pretrained=True, **kwargs)
    except (RuntimeError, OSError) as error:
        raise ValueError(f'cannot get the weights of {args.model!r}: {error}') from error
    if not model.pretrained_cfg.get('tag'):
        raise ValueError(f'model {args.model!r} has no pretrained weights (give --checkpoint FILE)')
    data = timm.data.resolve_data_config({}, model=model, use_test_size=True)
    return Subject(model, args.model, data, (model.pretrained_cfg or {}).get('label_names'))


def open_view(args, subject: Subject) -> View:
    """The images to measure on.

    Raises:
        ValueError: No data set was named, or its classes are not the model's.
    """
    dataset = args.dataset if args.dataset is not None else subject.dataset[0]
    if dataset is None:
        raise ValueError('no data set (give --dataset, and --data-dir where it needs one)')
    data_dir = args.data_dir or subject.dataset[1]
    in_chans = len(subject.data['mean'])
    base = open_dataset(dataset, data_dir, args.split, in_chans)
    classes = class_names(base)
    if classes and len(classes) > subject.net.num_classes:
        raise ValueError(f'data set {dataset!r} has {len(classes)} classes, the model {subject.net.num_classes}')
    if classes and subject.classes and list(subject.classes) != classes:
        raise ValueError(f'data set {dataset!r} has other classes than the model was trained for (choose its own)')
    if data_facts(dataset).in_chans > in_chans:
        raise ValueError(f'data set {dataset!r} has colour images, the model takes {in_chans} channel')
    return View(base, None, 'L' if in_chans == 1 else 'RGB')


def as_table(figures: dict[str, float]) -> dict[str, float]:
    """Loss, and accuracy and error in percent, exactly as counted."""
    table = {'loss': figures['loss']}
    for key, value in figures.items():
        if key != 'loss':
            table[key] = value
            table[f'{key}_err'] = 100 - value
    return table


def print_table(result: dict) -> None:
    print(f'{result["model"]} on {result["images"]} images')
    for key, value in result.items():
        if key.endswith('_err'):
            name = key.removesuffix('_err')
            print(f'  {name:14} {result[name]:8.3f} %   error {value:8.3f} %')


def write_results(path: Path, result: dict) -> None:
    """Append one row to a CSV file, with a header if it is new."""
    new = not path.exists() or not os.path.getsize(path)
    with open(path, 'a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, fieldnames=list(result))
        if new:
            writer.writeheader()
        writer.writerow(result)
