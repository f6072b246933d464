"""What `dkszoo validate` measures: a model (pretrained, export or training checkpoint), and the images."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from dkszoo import deploy, engine
from dkszoo.data import IMAGE_FOLDERS, View, class_names, compare_classes, data_facts, open_dataset
from dkszoo.engine.evaluate import LARGE_CROP
from dkszoo.engine.ranges import flag
from dkszoo.weights import read_card, read_pickle
from dkszoo.weights.card import GRAPHS


@dataclass
class Subject:
    """The model to measure.

    Attributes:
        net: A plain classifier, or one with branches.
        name: Its name in the results.
        data: Input size, mean, std and crop it was trained for.
        classes: The names of its classes, if known.
        evaluation: Batch size and memory format of its evaluation in training; the same ones reproduce every digit.
        dataset: Name and folder of the data set it was trained on; None if unknown.
    """

    net: nn.Module
    name: str
    data: dict
    classes: list[str] | None = None
    evaluation: dict = field(default_factory=dict)
    dataset: tuple[str | None, str | None] = (None, None)


def is_export(path: str) -> bool:
    return Path(path).suffix in ('.safetensors', *GRAPHS)


def read_subject(args) -> Subject:
    """Read the model that the arguments name: pretrained, an export, or a training checkpoint.

    Raises:
        ValueError: It cannot be read, or does not match --model, --num-classes or --in-chans.
    """
    if not args.checkpoint:
        return read_pretrained(args)
    if is_export(args.checkpoint):
        card = read_card(args.checkpoint)
        model, _ = deploy.load(args.checkpoint)
        subject = recorded(model, card)
    else:
        subject = read_training_checkpoint(args)
    if args.model and args.model != subject.name:
        raise ValueError(f'{args.checkpoint!r} holds a {subject.name}, not a {args.model} (leave --model out)')
    known = (('num_classes', subject.net.num_classes, 'classes'), ('in_chans', len(subject.data['mean']), 'channels'))
    for key, own, what in known:
        if getattr(args, key) not in (None, own):
            raise ValueError(f'{args.checkpoint!r} holds a model of {own} {what} (leave {flag(key)} out)')
    return subject


def read_training_checkpoint(args) -> Subject:
    contents = read_pickle(args.checkpoint, legacy=False)
    net, model = deploy.rebuild(contents, args.checkpoint, ema=not args.no_ema)
    net = net if args.per_branch else net.backbone
    return recorded(net, model, contents['args'].get('data_dir'))


def recorded(net: nn.Module, model: dict, data_dir: str | None = None) -> Subject:
    """A network of dkszoo, described by its checkpoint or by the card of its export."""
    evaluation, dataset = model.get('evaluation') or {}, model.get('dataset')
    data = LARGE_CROP | {key: value for key, value in model['data'].items() if value is not None}
    return Subject(net, model['arch'], data, model.get('class_names'), evaluation, (dataset, data_dir))


def read_pretrained(args) -> Subject:
    """A model with pretrained weights, described by their card if they are dkszoo's, else by timm's configuration."""
    name, kwargs = args.model, {key: getattr(args, key) for key in ('num_classes', 'in_chans') if getattr(args, key)}
    try:
        model = engine.create_model(name, pretrained=True, **kwargs)
    except ValueError:
        raise
    except Exception as error:  # a hub folder's configuration may say anything
        reason = f'{type(error).__name__}: {error}'
        raise ValueError(f'cannot get the weights of {name!r}: {reason} (dkszoo models lists tags)') from error
    cfg = model.pretrained_cfg
    if ':' not in name:
        if not cfg.get('tag'):
            raise ValueError(f'model {name!r} has no pretrained weights (give --checkpoint FILE)')
        name = f'{cfg["architecture"]}.{cfg["tag"]}'
    file = Path(cfg.get('file') or '')
    if file.suffix == '.safetensors' and not kwargs:
        return dataclasses.replace(recorded(model, read_card(file)), name=name)
    return Subject(model, name, deploy.model_settings(model, args.in_chans), cfg.get('label_names'))


def open_view(args, subject: Subject) -> View:
    """The images to measure on.

    Raises:
        ValueError: No data set was named, or its classes are not the model's.
    """
    dataset = args.dataset if args.dataset is not None else subject.dataset[0]
    if dataset is None:
        raise ValueError('no data set (give --dataset, and --data-dir where it needs one)')
    data_dir = args.data_dir or (subject.dataset[1] if dataset == subject.dataset[0] else None)
    in_chans = len(subject.data['mean'])
    base = open_dataset(dataset, data_dir, args.split, in_chans)
    classes = class_names(base)
    if classes and len(classes) > subject.net.num_classes:
        raise ValueError(f'data set {dataset!r} has {len(classes)} classes, the model {subject.net.num_classes}')
    counted = classes and not subject.classes and dataset.lower() in IMAGE_FOLDERS
    if counted and len(classes) < subject.net.num_classes:  # a class that is missing would shift those after it
        raise ValueError(
            f'{str(data_dir)!r} has {len(classes)} classes, the model {subject.net.num_classes}, whose names are not '
            'known (every class needs a folder with images, since folders are counted)'
        )
    if classes and subject.classes and list(subject.classes) != classes:
        differing = compare_classes(subject.classes, classes)
        raise ValueError(f'data set {dataset!r} has other classes: {differing} (check the folders)')
    # Image folders, and the data set of a run with --in-chans 1, are converted to gray, as in training.
    if dataset not in ('', subject.dataset[0]) and data_facts(dataset).in_chans > in_chans:
        raise ValueError(f'data set {dataset!r} has colour images, the model takes {in_chans} channel')
    return View(base, None, 'L' if in_chans == 1 else 'RGB')
