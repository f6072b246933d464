"""timm's hub layout: a folder that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads."""

import json
import math
import os
import shutil
import tempfile
from pathlib import Path

import timm
import torch

from dkszoo.weights import parse_json, read_pickle, sync, temporary_beside, write_text

from .citations import papers_of
from .export import VerificationFailed, draw, export
from .load import load
from .model_card import model_card

WEIGHTS, CONFIG, README = 'model.safetensors', 'config.json', 'README.md'


def export_hub(
    checkpoint: str | os.PathLike, folder: str | os.PathLike, ema: bool = True, license: str = 'apache-2.0'
) -> dict:
    """Write the backbone of a training checkpoint as a folder in the layout of timm's models on the Hugging Face hub.

    It contains model.safetensors with its card model.json, as `export` writes them; config.json, which describes the
    model and its image settings; and README.md, the model card. timm loads architectures of its own without dkszoo.

    Args:
        checkpoint: A training checkpoint of dkszoo; the run.json beside it provides the results in the model card.
        folder: The folder to create; an existing one must be empty. It appears only once it is verified.
        ema: Take the averaged weights (EMA) if there are any.
        license: Licence of the weights, as the hub spells it.

    Returns:
        The contents of model.json.

    Raises:
        ValueError: The checkpoint cannot be read, or the folder cannot be created.
        VerificationFailed: See `export`; or timm does not load the same network from the folder.
    """
    folder = check_folder(folder)
    temporary = temporary_beside(folder)
    temporary.mkdir()
    try:
        card = export(checkpoint, temporary / WEIGHTS, ema)
        contents = read_pickle(checkpoint, legacy=False)
        write_text(temporary / CONFIG, json.dumps(hub_config(temporary, card, license), indent=2) + '\n')
        text = model_card(
            {**card, 'timm': is_timm_arch(card['arch'])},
            contents['args'],
            read_results(Path(checkpoint), card),
            license,
        )
        write_text(temporary / README, text)
        verify_folder(temporary, card)
        if folder.exists():
            folder.rmdir()  # Windows does not replace even an empty one
        os.replace(temporary, folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return card


def check_folder(folder: str | os.PathLike) -> Path:
    """Return the path of a hub folder if it can be created.

    Raises:
        ValueError: It exists and is not an empty folder, its parent does not exist, or there is no permission.
    """
    folder = Path(os.path.abspath(folder))
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ValueError(f'{str(folder)!r} exists and is not an empty folder (name a new one)')
    if not folder.parent.is_dir() or not os.access(folder.parent, os.W_OK):
        raise ValueError(f'cannot make a folder in {str(folder.parent)!r} (make that one first, or choose another)')
    return folder


def hub_config(folder: Path, card: dict, license: str) -> dict:
    """The contents of config.json, as timm writes it, completed."""
    model, _ = load(folder / WEIGHTS)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        timm.models.save_for_hf(model, scratch, safe_serialization=True, data_config=card['data'])
        config = json.loads((Path(scratch) / CONFIG).read_text(encoding='utf-8'))
    if card.get('class_names'):
        config['label_names'] = card['class_names']
    papers = [f'arXiv:{paper.arxiv}' for paper in papers_of(card['method'])]
    own = {'tag': card['tag'], 'license': license, 'paper_ids': papers}
    config['pretrained_cfg'] = {**config['pretrained_cfg'], **own}
    for key in ('label_names', 'origin_url', 'paper_name'):  # names are at the top level; the rest is of other weights
        config['pretrained_cfg'].pop(key, None)
    return config


def read_results(checkpoint: Path, card: dict) -> dict:
    """The test figures of exactly these weights in the run.json beside their checkpoint; empty if there are none."""
    name = {'last.pth.tar': 'last', 'model_best.pth.tar': 'best'}.get(checkpoint.name)
    try:
        record = parse_json((checkpoint.parent / 'run.json').read_text(encoding='utf-8'))
        judged = card['ema'] == record['settings']['model_ema']
        figures = record['result'][name] if judged else {}
        return {key: value for key, value in figures.items() if type(value) is float and math.isfinite(value)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def is_timm_arch(arch: str) -> bool:
    """Whether timm knows an architecture without dkszoo."""
    return timm.models.model_entrypoint(arch).__module__.startswith('timm.')


@torch.inference_mode()
def verify_folder(folder: Path, card: dict) -> None:
    """Load the network of a folder with timm and compare it with the export in the folder.

    Raises:
        VerificationFailed: A logit differs in any bit, or timm would prepare images differently.
    """
    ours, _ = load(folder / WEIGHTS)
    theirs = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    images = draw(tuple(card['data']['input_size']), 8)
    if not torch.equal(ours(images), theirs(images)):
        raise VerificationFailed('timm loads another network from the hub folder; nothing was written')
    data = timm.data.resolve_model_data_config(theirs)

    def plain(value):  # a tuple comes back from JSON as a list
        return list(value) if isinstance(value, tuple) else value

    differ = [key for key, value in card['data'].items() if plain(data[key]) != plain(value)]
    if differ:
        raise VerificationFailed(f'timm reads another {differ[0]} from the hub folder; nothing was written')
