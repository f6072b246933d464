"""Tags from files: weights packaged in dkszoo/weights/files are tags of the models in their names.

A tag consists of `<arch>.<tag>.safetensors` and its card, `<arch>.<tag>.json`. timm must know it when the model is
registered, so the folder is listed here; the contents of the files are checked when they are loaded.
"""

import json
from pathlib import Path

from timm.models import generate_default_cfgs

FILES = Path(__file__).parents[1] / 'weights' / 'files'


def default_cfgs_with_tags(cfgs: dict[str, dict]) -> dict:
    """timm's `generate_default_cfgs`, with a tag for every packaged weight of these models.

    Tags with weights come first and the weightless 'arch.*' last, so a name without a tag keeps its configuration.

    Args:
        cfgs: Configurations by 'arch.tag'; 'arch.*' is the base of a model's packaged tags.
    """
    tagged = {}
    for key, cfg in cfgs.items():
        arch, _, tag = key.partition('.')
        for file in sorted(FILES.glob(f'{arch}.*.safetensors')) if tag == '*' else ():
            card = file.with_suffix('.json')
            if card.is_file():
                tagged[file.stem] = {**cfg, **read_cfg(card), 'file': str(file)}
    return generate_default_cfgs({**tagged, **cfgs})


def read_cfg(path: Path) -> dict:
    """The data settings in a card; empty if it is damaged, which loading the weights then reports."""
    try:
        return card_cfg(json.loads(path.read_text(encoding='utf-8')))
    except (ValueError, KeyError, TypeError):
        return {}


def card_cfg(card: dict) -> dict:
    """The data settings in the card of an export, as entries of timm's pretrained_cfg."""
    data = card['data']
    sizes = {key: tuple(data[key]) for key in ('input_size', 'mean', 'std')}
    classes = {'num_classes': card['model_args']['num_classes']} if 'num_classes' in card['model_args'] else {}
    return {**data, **sizes, **classes, 'label_names': card.get('class_names')}
