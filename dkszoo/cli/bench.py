"""`dkszoo bench`: how long a training step takes, where the time goes, and how long a recipe would take."""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from dkszoo.data import ArrayImages, StreamSampler, data_facts
from dkszoo.engine import TrainConfig, check_images, create_model
from dkszoo.engine.create import check_name, known_cfg
from dkszoo.engine.data import Data, fit_data, open_data
from dkszoo.engine.setup import Setup, build
from dkszoo.engine.signals import closing_processes
from dkszoo.engine.timing import WARM_UP, measure
from dkszoo.engine.world import join_world
from dkszoo.papers import read_recipe
from dkszoo.tasks import get_method

from .flags import add_config, add_flags
from .main import Parser

HOUR = 3600
# Settings of a run's folder and files, which a benchmark does not have.
OF_A_RUN = ('output', 'experiment', 'resume', 'overwrite', 'export', 'log_interval', 'recovery_interval')


def main(argv: list[str]) -> int:
    """Measure and print a table; the last line is a JSON object."""
    parser = Parser(
        prog='dkszoo bench',
        description='Time a training step, part by part. The images are random, of the right size, unless '
        '--data-dir or --dataset digits provides real ones.',
    )
    parser.add_argument('name', nargs='?', metavar='MODEL', help='dkszoo or timm model, as --model')
    add_config(parser, 'recipe whose hours to predict')
    parser.add_argument('--steps', type=int, default=20, metavar='N', help='steps to time (default 20)')
    add_flags(parser, leave_out=OF_A_RUN)
    values = vars(parser.parse_args(argv))
    name, recipe, steps = (values.pop(key) for key in ('name', 'config', 'steps'))
    if steps < 1:
        raise ValueError(f'--steps must be at least 1, got {steps}')
    if name and 'model' in values:
        raise ValueError('MODEL and --model are the same setting (give one)')
    settings = {'dataset': ''} if recipe is None else read_recipe(recipe)
    values = {**settings, **values, **({'model': name} if name else {})}
    asked = TrainConfig.from_dict(values)
    with tempfile.TemporaryDirectory() as folder:
        setup = make_setup(asked, steps, Path(folder))
        with closing_processes(setup.loader):
            result = measure(setup, steps)
    if recipe:
        result['recipe'] = {'name': recipe, **predict(asked, setup, result)}
    print_result(result)
    print(json.dumps(result))
    return 0


def make_setup(asked: TrainConfig, steps: int, folder: Path) -> Setup:
    """Set up a run with these settings, on the data they name or on random images."""
    check_name(asked.model)
    world = join_world(asked.device)
    if has_images(asked):
        setup = build(*open_data(asked), world)
    else:
        config, data = random_data(asked, (WARM_UP + steps) * asked.batch_size)
        setup = build(random_teacher(config, folder), data, world)
    config = setup.config
    size = (config.in_chans, config.img_size, config.img_size)
    check_images(setup.task.get_net(), config.model, size)
    return setup


def has_images(asked: TrainConfig) -> bool:
    """Whether the settings name real images; else random ones of the right size are timed."""
    return bool(asked.data_dir) or asked.dataset == 'digits'


def random_data(asked: TrainConfig, total: int) -> tuple[TrainConfig, Data]:
    """`total` random images of the data set's size and classes, else of the model's."""
    facts = data_facts(asked.dataset)
    cfg = known_cfg(asked.model)
    in_chans = asked.in_chans or facts.in_chans
    side = asked.img_size or facts.img_size or cfg.get('input_size', (3, 224, 224))[-1]
    num_classes = asked.num_classes or facts.num_classes or cfg.get('num_classes') or 1000
    config = dataclasses.replace(
        asked,
        in_chans=in_chans,
        num_classes=num_classes,
        pretrained=False,
        initial_checkpoint='',
        train_num_samples=None,
        label_noise=0.0,
        val_split=0.0,
        best_on='test',
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, side, side) + ((3,) if in_chans == 3 else ()), dtype=np.uint8)
    images = np.broadcast_to(image, (total, *image.shape[1:]))  # a single image in memory
    dataset = ArrayImages(images, rng.integers(0, num_classes, total), [])
    return fit_data(config, dataset, dataset)


def random_teacher(config: TrainConfig, folder: Path) -> TrainConfig:
    """Settings with an untrained teacher, which takes as long as a trained one."""
    if not get_method(config.method).uses_teacher or config.kd_checkpoint or not config.kd_model_name:
        return config
    path = folder / 'teacher.pth'
    teacher = create_model(config.kd_model_name, num_classes=config.num_classes, in_chans=config.in_chans)
    torch.save(teacher.state_dict(), path)
    return dataclasses.replace(config, kd_checkpoint=str(path))


def predict(asked: TrainConfig, setup: Setup, result: dict) -> dict:
    """Predict the hours of the whole run: training, and evaluation after every epoch and at the end.

    Raises:
        ValueError: The size of the data set is not known.
    """
    facts, data = data_facts(asked.dataset), setup.data
    if has_images(asked):
        train, val, test = len(data.train), len(data.val or ()), len(data.test)
    elif facts.num_train is None:
        raise ValueError(f'the size of data set {asked.dataset!r} is not known (give --data-dir)')
    else:
        val = round(facts.num_train * asked.val_split)
        train, test = asked.train_num_samples or facts.num_train - val, facts.num_test
    every_epoch = val + (test if asked.best_on == 'test' or asked.eval_test_every_epoch else 0)
    steps = StreamSampler(train, asked.batch_size, asked.seed, 0, setup.world.size).steps
    training = asked.epochs * steps * result['step_ms'] / 1000
    evaluation = (asked.epochs * every_epoch + 2 * test) / result['eval_images_per_second']
    return {'epochs': asked.epochs, 'train_images': train, 'hours': (training + evaluation) / HOUR}


def print_result(result: dict) -> None:
    print(
        f'{result["model"]}, method {result["method"]}, branches {result["branches"]}, batch {result["batch_size"]}, '
        f'loader {result["loader"]}, {result["device"]}, threads {result["threads"]}'
    )
    print(f'  {result["images_per_second"]:,.0f} images/s, {result["step_ms"]:.1f} ms per step')
    total = sum(result['parts_ms'].values())
    for part, value in result['parts_ms'].items():
        print(f'  {part:10} {value:10.2f} ms {100 * value / total:6.1f} %')
    if result['peak_memory_mib'] is not None:
        print(f'  peak memory {result["peak_memory_mib"]:,.0f} MiB')
    print(f'  evaluation {result["eval_images_per_second"]:,.0f} images/s')
    if 'recipe' in result:
        recipe = result['recipe']
        size = f'{recipe["epochs"]} epochs of {recipe["train_images"]:,} images'
        print(f'  recipe {recipe["name"]}: {size}, about {recipe["hours"]:.2f} hours')
